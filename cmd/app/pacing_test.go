package app

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/mjdevaccount/pulseflow/internal/adjust"
)

const paced = `version: 1
admin: {listen: "127.0.0.1:8088"}
providers:
  ibkr: {rate: 10, burst: 10, min_rate: 0}
  iex: {rate: 10, burst: 10, breaker: {threshold: 2, open_for: 30s}, cooldown: 40s}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages: [handle: {with: feedback, provider: ibkr}, rate-apply]
`

// pacing is what a process that paces itself reads of an answer.
type pacing struct {
	Error             string
	Reason            string
	RetryAfterSeconds float64 `json:"retry_after_seconds"`
	N                 int
	WaitedSeconds     float64 `json:"waited_seconds"`
	Tokens            float64
	EffectiveRate     float64 `json:"effective_rate"`
	Scale             float64
	Level             string
}

func (p *process) pace(ctx context.Context, method, path, body string) (int, http.Header, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(text), err
}

// Another process paces itself over HTTP.
func TestPacing(t *testing.T) {
	p := launch(t, nil, "--config", writeFile(t, paced))
	ask := func(method, path, body string, want int) (pacing, http.Header) {
		t.Helper()
		status, header, text, err := p.pace(t.Context(), method, path, body)
		if err != nil || status != want {
			t.Fatalf("%s %s %s: %d %s, %v, want %d", method, path, body, status, text, err, want)
		}
		var got pacing
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		return got, header
	}
	acquire := func(provider, body string, want int) (pacing, http.Header) {
		t.Helper()
		return ask("POST", "/rates/"+provider+"/acquire", body, want)
	}
	if got, _ := ask("GET", "/rates/ibrk", "", 404); got.Error != `unknown provider "ibrk" (did you mean "ibkr"?); known: ibkr, iex` {
		t.Errorf("an unknown provider: %s", got.Error)
	}
	if got, _ := ask("DELETE", "/rates/ibrk/coordinators/a", "", 404); !strings.Contains(got.Error, `did you mean "ibkr"?`) {
		t.Errorf("a coordinator of an unknown provider: %s", got.Error)
	}
	if got, _ := acquire("ibkr", `{"n": 11}`, 400); !strings.HasSuffix(got.Error, "can never be granted") {
		t.Errorf("more than the burst: %s", got.Error)
	}
	acquire("ibkr", `{"n": 0}`, 400)
	acquire("ibkr", `{"n": -1, "wait": "1s"}`, 400)

	if got, _ := acquire("ibkr", `{"n": 10}`, 200); got.N != 10 || got.EffectiveRate != 10 || got.Scale != 1 || got.Level != "ok" {
		t.Errorf("granted: %+v", got)
	}
	got, header := acquire("ibkr", `{"n": 10}`, 429)
	if got.Reason != "rate" || got.RetryAfterSeconds <= 0 || got.RetryAfterSeconds > 1 || header.Get("Retry-After") != "1" {
		t.Errorf("refused: %+v, Retry-After %q", got, header.Get("Retry-After"))
	}
	if got, _ := acquire("ibkr", `{"n": 10, "wait": "60s"}`, 200); got.WaitedSeconds <= 0 {
		t.Errorf("granted after a wait: %+v", got)
	}

	t.Run("override", func(t *testing.T) {
		ask("POST", "/rates/ibkr/override", `{"scale": 1.5, "ttl": "10m", "reason": "x"}`, 400)
		ask("POST", "/rates/ibkr/override", `{"scale": 0.5, "ttl": "25h", "reason": "x"}`, 400)
		ask("POST", "/rates/ibkr/override", `{"scale": 0.5, "ttl": "10m"}`, 400)
		if got, _ := ask("POST", "/rates/ibkr/override", `{"scale": 0, "ttl": "10m", "reason": "quota halved"}`, 200); got.EffectiveRate != 0 {
			t.Errorf("state %+v", got)
		}
		_, page := p.get("/rates/ibkr")
		o := decode[adjust.ProviderStatus](t, page).Override
		if o == nil || o.Scale != 0 || o.Reason != "quota halved" || o.RemainingSeconds <= 0 || o.RemainingSeconds > 600 {
			t.Errorf("override %+v", o)
		}
		if s, left := p.metric("pipeline_rate_scale_factor", `provider="ibkr"`), p.metric("pulseflow_rate_override_seconds", `provider="ibkr"`); s != 0 ||
			left <= 0 || left > 600 {
			t.Errorf("gauges: scale %v, override ends in %v s", s, left)
		}
		if got, header := acquire("ibkr", `{}`, 429); got.Reason != "paused" || header.Get("Retry-After") != "5" {
			t.Errorf("refused: %+v, Retry-After %q", got, header.Get("Retry-After"))
		}
		if got, _ := acquire("ibkr", `{"wait": "10ms"}`, 429); got.Reason != "paused" || got.WaitedSeconds < 0.01 {
			t.Errorf("refused after a wait: %+v", got)
		}

		// One that goes away gives its place back, one that stays is served.
		waiters := func(n float64) func() bool {
			return func() bool { return p.metric("pulseflow_rate_waiters", `provider="ibkr"`) == n }
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		gone, served := make(chan error, 1), make(chan int, 1)
		go func() {
			_, _, _, err := p.pace(ctx, "POST", "/rates/ibkr/acquire", `{"n": 10, "wait": "60s"}`)
			gone <- err
		}()
		p.eventually("one to wait", waiters(1))
		go func() {
			status, _, _, _ := p.pace(context.Background(), "POST", "/rates/ibkr/acquire", `{"wait": "60s"}`)
			served <- status
		}()
		p.eventually("two to wait", waiters(2))
		cancel()
		if err := <-gone; err == nil {
			t.Error("it was answered")
		}
		p.eventually("the other to wait", waiters(1))
		ask("DELETE", "/rates/ibkr/override", "", 200)
		if status := <-served; status != 200 {
			t.Errorf("who stayed: %d", status)
		}
		ask("DELETE", "/rates/ibkr/override", "", 404)
		if log := p.logged(); strings.Count(log, `msg="rate override`) != 2 ||
			!strings.Contains(log, `reason="quota halved"`) || !strings.Contains(log, "remote=127.0.0.1:") {
			t.Errorf("audit:\n%s", log)
		}
	})

	t.Run("breaker and cooldown", func(t *testing.T) {
		ask("POST", "/rates/iex/cooldown", ``, 200)
		if got, _ := acquire("iex", ``, 429); got.Reason != "cooldown" || got.RetryAfterSeconds <= 0 || got.RetryAfterSeconds > 40 {
			t.Errorf("refused: %+v", got)
		}
		if got := p.metric("pulseflow_rate_cooldown_seconds", `provider="iex"`); got <= 0 || got > 40 {
			t.Errorf("gauge: the cooldown ends in %v s", got)
		}
		ask("POST", "/rates/iex/cooldown", `{"scope": "history", "for": "1h"}`, 200)
		if got := p.metric("pulseflow_rate_cooldowns", `provider="iex"`); got != 2 {
			t.Errorf("gauge: %v cooldowns", got)
		}
		ask("DELETE", "/rates/iex/cooldowns/global", "", 200)
		ask("DELETE", "/rates/iex/cooldowns/global", "", 404)
		acquire("iex", ``, 200)
		ask("POST", "/rates/iex/report", `{"outcome": "failure"}`, 200)
		ask("POST", "/rates/iex/report", `{"outcome": "success"}`, 200)
		ask("POST", "/rates/iex/report", `{"outcome": "failure"}`, 200)
		acquire("iex", ``, 200)
		ask("POST", "/rates/iex/report", `{"outcome": "failure"}`, 200)
		if got, _ := acquire("iex", `{"wait": "60s"}`, 429); got.Reason != "breaker_open" || got.RetryAfterSeconds <= 0 || got.RetryAfterSeconds > 30 {
			t.Errorf("refused: %+v", got)
		}
		if got := p.metric("pulseflow_rate_breaker_state", `provider="iex"`); got != 1 {
			t.Errorf("gauge: breaker %v, want 1 for open", got)
		}
	})

	// Whoever waits at the end is told so.
	ask("POST", "/rates/ibkr/override", `{"scale": 0, "ttl": "10m", "reason": "the end"}`, 200)
	last := make(chan int, 1)
	go func() {
		status, _, _, _ := p.pace(context.Background(), "POST", "/rates/ibkr/acquire", `{"wait": "60s"}`)
		last <- status
	}()
	p.eventually("one to wait", func() bool { return p.metric("pulseflow_rate_waiters", `provider="ibkr"`) == 1 })
	p.stop()
	if status := <-last; status != 503 {
		t.Errorf("who waits at the end: %d, want 503", status)
	}
}

// The Python of docs/rates.md runs as it stands.
func TestDocumentedPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil || exec.Command(python, "-c", "import urllib.request").Run() != nil {
		t.Skip("no python3 here")
	}
	p := launch(t, nil, "--config", writeFile(t, paced))
	n := 0
	for _, b := range blocks(t, "../../docs/rates.md") {
		if b.info != "python" {
			continue
		}
		n++
		out, err := exec.Command(python, "-c", strings.ReplaceAll(b.text, "http://127.0.0.1:8088", p.base)).CombinedOutput()
		if err != nil {
			t.Errorf("docs/rates.md:%d: %v\n%s", b.line, err, out)
		}
	}
	if n == 0 {
		t.Error("no Python found")
	}
	if got := p.metric("pulseflow_rate_granted_total", `provider="ibkr"`); got != 25 {
		t.Errorf("%v tokens granted, want the 25 of the example", got)
	}
	p.stop()
}
