package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// scripted is a Pacer of the one provider "ibkr". Calls are written down. An acquire
// that may wait does so until its context ends or release is closed.
type scripted struct {
	mu      sync.Mutex
	calls   []string
	pace    Pace
	fail    error
	missing bool // what is to be ended

	began   chan struct{} // one for each acquire that waits
	ended   chan error    // the end of its context
	release chan struct{}
}

func newScripted() *scripted {
	return &scripted{
		pace:  Pace{Provider: "ibkr", N: 1, Tokens: 59, EffectiveRate: 60, Scale: 1, Level: "ok"},
		began: make(chan struct{}, maxWaiting+1), ended: make(chan error, maxWaiting+1), release: make(chan struct{}),
	}
}

func (p *scripted) note(provider, format string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if provider != "ibkr" {
		return fmt.Errorf("%w: unknown provider", ErrNotFound)
	}
	p.calls = append(p.calls, fmt.Sprintf(format, args...))
	return p.fail
}

func (p *scripted) Provider(provider string) (any, error) {
	return map[string]string{"provider": provider}, p.note(provider, "state")
}

func (p *scripted) Acquire(ctx context.Context, provider string, n int, wait time.Duration) (Pace, error) {
	if err := p.note(provider, "acquire %d %v", n, wait); err != nil || wait == 0 {
		return p.pace, err
	}
	p.began <- struct{}{}
	select {
	case <-p.release:
		return p.pace, nil
	case <-ctx.Done():
		p.ended <- ctx.Err()
		return Pace{}, ctx.Err()
	}
}

func (p *scripted) Report(provider string, success bool) error {
	return p.note(provider, "report %t", success)
}

func (p *scripted) Cooldown(provider, scope string, d time.Duration) error {
	return p.note(provider, "cooldown %s %v", scope, d)
}

func (p *scripted) EndCooldown(provider, scope string) (bool, error) {
	return !p.missing, p.note(provider, "end cooldown %s", scope)
}

func (p *scripted) Override(provider string, scale float64, ttl time.Duration, reason string) error {
	return p.note(provider, "override %v %v %s", scale, ttl, reason)
}

func (p *scripted) EndOverride(provider string) (bool, error) {
	return !p.missing, p.note(provider, "end override")
}

func TestPacingRequests(t *testing.T) {
	const ibkr = "/rates/ibkr"
	for _, tt := range []struct {
		method, path, body string
		status             int
		contains           string
		calls              []string
	}{
		{"GET", ibkr, "", 200, `"provider": "ibkr"`, []string{"state"}},
		{"GET", "/rates/ibk", "", 404, "unknown provider", nil},
		{"POST", ibkr + "/acquire", "", 200, `"tokens": 59`, []string{"acquire 1 0s"}},
		{"POST", ibkr + "/acquire", "{}", 200, `"effective_rate": 60`, []string{"acquire 1 0s"}},
		{"POST", ibkr + "/acquire", `{"n": 5, "wait": "0s"}`, 200, `"waited_seconds": 0`, []string{"acquire 5 0s"}},
		{"POST", "/rates/ibk/acquire", `{}`, 404, "unknown provider", nil},
		{"POST", ibkr + "/acquire", `{"n": 1.5}`, 400, "n must be a whole number, not a number 1.5", nil},
		{"POST", ibkr + "/acquire", `{"n": "1"}`, 400, "n must be a whole number, not a string", nil},
		{"POST", ibkr + "/acquire", `{"n": 1e30}`, 400, "n must be a whole number", nil},
		{"POST", ibkr + "/acquire", `{"wait": 2}`, 400, "wait must be a string, not a number", nil},
		{"POST", ibkr + "/acquire", `{"wait": "2"}`, 400, `needs a unit (ms, s, m, h), as in 500ms or 2s`, nil},
		{"POST", ibkr + "/acquire", `{"wait": "2 parsecs"}`, 400, "is not a duration such as", nil},
		{"POST", ibkr + "/acquire", `{"wait": "-1s"}`, 400, "must not be negative", nil},
		{"POST", ibkr + "/acquire", `{"wait": "61s"}`, 400, "must be at most 1m0s", nil},
		{"POST", ibkr + "/acquire", `{"tokens": 1}`, 400, `unknown field \"tokens\"; fields: n, wait`, nil},
		{"POST", ibkr + "/acquire", `[1]`, 400, "must be a JSON object", nil},
		{"POST", ibkr + "/acquire", `{} {}`, 400, "must be one JSON object", nil},
		{"POST", ibkr + "/acquire", `{"n": NaN}`, 400, "must be a JSON object", nil},
		{"POST", ibkr + "/acquire", `{"wait": "` + strings.Repeat("1", maxRequest) + `"}`, 413, "at most 4096 bytes", nil},
		{"GET", ibkr + "/acquire", "", 405, "", nil},
		{"POST", ibkr + "/report", `{"outcome": "success"}`, 200, "ibkr", []string{"report true", "state"}},
		{"POST", ibkr + "/report", `{"outcome": "failure"}`, 200, "ibkr", []string{"report false", "state"}},
		{"POST", ibkr + "/report", `{"outcome": "meh"}`, 400, "outcome must be success or failure", nil},
		{"POST", ibkr + "/report", ``, 400, "outcome must be success or failure", nil},
		{"POST", "/rates/ibk/report", `{"outcome": "success"}`, 404, "unknown provider", nil},
		{"POST", ibkr + "/cooldown", ``, 200, "ibkr", []string{"cooldown global 0s", "state"}},
		{"POST", ibkr + "/cooldown", `{"scope": "history", "for": "30s"}`, 200, "ibkr", []string{"cooldown history 30s", "state"}},
		{"POST", ibkr + "/cooldown", `{"for": "0s"}`, 400, "for must be above 0", nil},
		{"POST", ibkr + "/cooldown", `{"for": "30"}`, 400, "needs a unit", nil},
		{"POST", ibkr + "/cooldown", `{"for": "25h"}`, 400, "must be at most 24h0m0s", nil},
		{"DELETE", ibkr + "/cooldowns/global", "", 200, "ibkr", []string{"end cooldown global", "state"}},
		{"POST", ibkr + "/override", `{"scale": 0.25, "ttl": "10m", "reason": "why"}`, 200, "ibkr", []string{"override 0.25 10m0s why", "state"}},
		{"POST", ibkr + "/override", `{"scale": 0, "ttl": "10m"}`, 200, "ibkr", []string{"override 0 10m0s ", "state"}}, // the Pacer refuses
		{"POST", ibkr + "/override", `{"ttl": "10m", "reason": "why"}`, 400, "scale is required", nil},
		{"POST", ibkr + "/override", `{"scale": 1, "reason": "why"}`, 400, "ttl is required", nil},
		{"POST", ibkr + "/override", `{"scale": 1, "ttl": "10", "reason": "why"}`, 400, "needs a unit", nil},
		{"POST", ibkr + "/override", `{"scale": "1", "ttl": "10m"}`, 400, "scale must be a number, not a string", nil},
		{"POST", ibkr + "/override", `{"scale": NaN, "ttl": "10m"}`, 400, "must be a JSON object", nil},
		{"POST", ibkr + "/override", `{"scale": 1e999, "ttl": "10m"}`, 400, "scale must be a number", nil},
		{"DELETE", ibkr + "/override", "", 200, "ibkr", []string{"end override", "state"}},
	} {
		d := open(t, Config{})
		status, _, body := d.ask(tt.method, tt.path, tt.body)
		if status != tt.status || !strings.Contains(body, tt.contains) {
			t.Errorf("%s %s %.60s: %d %s, want %d with %s", tt.method, tt.path, tt.body, status, body, tt.status, tt.contains)
		}
		if diff := cmp.Diff(tt.calls, d.pacer.calls); diff != "" {
			t.Errorf("%s %s %.60s: calls (-want +got):\n%s", tt.method, tt.path, tt.body, diff)
		}
	}
}

func TestPacerErrors(t *testing.T) {
	d := open(t, Config{})
	changes := [][3]string{
		{"POST", "/acquire", "{}"},
		{"POST", "/report", `{"outcome": "success"}`},
		{"POST", "/cooldown", ""},
		{"DELETE", "/cooldowns/global", ""},
		{"POST", "/override", `{"scale": 1, "ttl": "1m"}`},
		{"DELETE", "/override", ""},
	}
	for want, fail := range map[int]error{
		404: fmt.Errorf("no such: %w", ErrNotFound), 400: fmt.Errorf("never: %w", ErrInvalid), 500: io.ErrUnexpectedEOF,
	} {
		d.pacer.fail = fail
		for _, c := range changes {
			status, _, body := d.ask(c[0], "/rates/ibkr"+c[1], c[2])
			if status != want || strings.Contains(body, fail.Error()) != (want != 500) {
				t.Errorf("%s %s: %d %s, want %d", c[0], c[1], status, body, want)
			}
		}
	}
	d.pacer.fail, d.pacer.missing = nil, true
	for path, want := range map[string]string{"/cooldowns/history": "no such cooldown runs", "/override": "no override is in force"} {
		if status, _, body := d.ask("DELETE", "/rates/ibkr"+path, ""); status != 404 || !strings.Contains(body, want) {
			t.Errorf("DELETE %s: %d %s", path, status, body)
		}
	}
	d.server.sources.Pacer = nil
	for _, path := range []string{"", "/acquire", "/override"} {
		method := "POST"
		if path == "" {
			method = "GET"
		}
		if status, _, body := d.ask(method, "/rates/ibkr"+path, ""); status != 404 || !strings.Contains(body, "declares no provider") {
			t.Errorf("%s without providers: %d %s", path, status, body)
		}
	}
}

func TestRefusedAcquire(t *testing.T) {
	d := open(t, Config{})
	for _, tt := range []struct {
		refused    string
		retryAfter time.Duration
		header     string
		seconds    float64
		text       string
	}{
		{RefusedRate, 0, "1", 0, "the tokens are not there yet"},
		{RefusedRate, 250 * time.Millisecond, "1", 0.25, "the tokens are not there yet"},
		{RefusedRate, 1001 * time.Millisecond, "2", 1.001, "the tokens are not there yet"},
		{RefusedPaused, 1<<63 - 1, "5", 5, "the provider is paused"},
		{RefusedBreaker, time.Minute, "60", 60, "the provider's circuit breaker is open"},
		{RefusedCooldown, 10 * time.Minute, "600", 600, "the provider is in cooldown"},
	} {
		d.pacer.pace.Refused, d.pacer.pace.RetryAfter = tt.refused, tt.retryAfter
		status, header, body := d.ask("POST", "/rates/ibkr/acquire", "")
		if status != 429 || header.Get("Retry-After") != tt.header {
			t.Errorf("%s: %d, Retry-After %q, want 429 and %s", tt.refused, status, header.Get("Retry-After"), tt.header)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"error": tt.text, "reason": tt.refused, "retry_after_seconds": tt.seconds, "provider": "ibkr", "n": 1.0,
			"waited_seconds": 0.0, "tokens": 59.0, "effective_rate": 60.0, "scale": 1.0, "level": "ok",
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: body (-want +got):\n%s", tt.refused, diff)
		}
	}
}

// Who paces itself is a publisher; who overrules is an operator.
func TestPacingTokens(t *testing.T) {
	const publisher, operator = "publish", "operate"
	d := open(t, Config{Token: publisher, OperatorToken: operator})
	for _, tt := range []struct{ method, path, body, token string }{
		{"POST", "/acquire", "", publisher},
		{"POST", "/report", `{"outcome": "success"}`, publisher},
		{"POST", "/cooldown", "", publisher},
		{"DELETE", "/cooldowns/global", "", operator},
		{"POST", "/override", `{"scale": 1, "ttl": "1m"}`, operator},
		{"DELETE", "/override", "", operator},
	} {
		for _, token := range []string{"", publisher, operator, "wrong"} {
			want := 401
			if token == tt.token {
				want = 200
			}
			status, _, _ := d.ask(tt.method, "/rates/ibkr"+tt.path, tt.body, "Authorization", "Bearer "+token)
			if status != want {
				t.Errorf("%s %s with %q: %d, want %d", tt.method, tt.path, token, status, want)
			}
		}
	}
	if status, _, _ := d.ask("GET", "/rates/ibkr", ""); status != 200 {
		t.Errorf("the state: %d, want 200: it needs no token", status)
	}
	if log := d.log.String(); strings.Contains(log, operator+" ") || strings.Contains(log, "Bearer") {
		t.Errorf("a token is in the log:\n%s", log)
	}
}

func TestOverrideIsAudited(t *testing.T) {
	d := open(t, Config{})
	d.ask("POST", "/rates/ibkr/override", `{"scale": 0.25, "ttl": "10m", "reason": "the \"new\" quota"}`)
	d.ask("DELETE", "/rates/ibkr/override", "")
	d.pacer.fail = ErrInvalid
	d.ask("POST", "/rates/ibkr/override", `{"scale": 2, "ttl": "10m"}`)
	lines := strings.Split(strings.TrimSpace(d.log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines, want one a change:\n%s", len(lines), d.log.String())
	}
	for i, want := range []string{
		`msg="rate override set" provider=ibkr scale=0.25 ttl=10m0s reason="the \"new\" quota" remote=127.0.0.1:`,
		`msg="rate override ended" provider=ibkr remote=127.0.0.1:`,
	} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %s lacks %s", lines[i], want)
		}
	}
}

// A wait may last longer than the listener's timeouts for other requests.
func TestAcquireOutlastsTheTimeouts(t *testing.T) {
	const timeout = 100 * time.Millisecond
	pacer := newScripted()
	s, done := serve(t, pacer, func(s *Server) { s.http.ReadTimeout, s.http.WriteTimeout = timeout, timeout })
	go func() {
		<-pacer.began
		time.Sleep(3 * timeout) // only what is too long can be seen
		close(pacer.release)
	}()
	if a := s.acquireOverHTTP(`{"wait": "30s"}`); a.status != 200 || a.err != nil || len(pacer.ended) != 0 {
		t.Errorf("answer %+v, want 200", a)
	}
	s.close(t, done)
}

// serve starts a listener that only paces.
func serve(t *testing.T, pacer Pacer, change func(*Server)) (*Server, chan error) {
	t.Helper()
	s, err := New(Config{Listen: "127.0.0.1:0"}, Sources{Gatherer: prometheus.NewRegistry(), Pacer: pacer},
		slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	change(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	return s, done
}

// close shuts the listener down and waits for its end.
func (s *Server) close(t *testing.T, done chan error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}

type answer struct {
	status     int
	retryAfter string
	body       string
	err        error
}

func (s *Server) acquireOverHTTP(body string) answer {
	resp, err := http.Post("http://"+s.Addr()+"/rates/ibkr/acquire", "application/json", strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header.Get("Retry-After"), string(text), err}
}

func TestWaitEndsWithTheClient(t *testing.T) {
	d := open(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.base+"/rates/ibkr/acquire", strings.NewReader(`{"wait": "60s"}`))
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		gone <- err
	}()
	<-d.pacer.began
	cancel()
	if err := <-d.pacer.ended; err == nil {
		t.Error("the wait goes on")
	}
	if err := <-gone; err == nil {
		t.Error("the client was answered")
	}
}

// A client that has only closed its own side of the connection still reads: it must
// not take the end of its wait for tokens.
func TestWaitOfAHalfClosedConnectionIsNotGranted(t *testing.T) {
	d := open(t, Config{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(d.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const body = `{"wait": "60s"}`
	fmt.Fprintf(conn, "POST /rates/ibkr/acquire HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	<-d.pacer.began
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return // cut off, which nobody takes for tokens
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q, want 503", resp.StatusCode, resp.Header.Get("Retry-After"))
	}
}

func TestWaitEndsWithTheListener(t *testing.T) {
	pacer := newScripted()
	s, done := serve(t, pacer, func(*Server) {})
	answers := make(chan answer, 1)
	go func() { answers <- s.acquireOverHTTP(`{"wait": "60s"}`) }()
	<-pacer.began
	s.close(t, done)
	if a := <-answers; a.status != 503 || a.retryAfter != "1" || !strings.Contains(a.body, "shutting down") {
		t.Errorf("answer %+v, want 503", a)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Those who wait are bounded; those who do not are served all the same.
func TestWaitsAreBounded(t *testing.T) {
	d := open(t, Config{})
	d.server.waiting.Store(maxWaiting)
	status, header, body := d.ask("POST", "/rates/ibkr/acquire", `{"wait": "1s"}`)
	if status != 503 || header.Get("Retry-After") != "1" || !strings.Contains(body, "1000 calls wait already") {
		t.Errorf("%d %s, want 503", status, body)
	}
	if status, _, body := d.ask("POST", "/rates/ibkr/acquire", ""); status != 200 {
		t.Errorf("without a wait: %d %s", status, body)
	}
	d.server.waiting.Add(-1)
	close(d.pacer.release)
	if status, _, body := d.ask("POST", "/rates/ibkr/acquire", `{"wait": "1s"}`); status != 200 {
		t.Errorf("one less: %d %s", status, body)
	}
	if n := d.server.waiting.Load(); n != maxWaiting-1 {
		t.Errorf("%d are counted afterwards", n)
	}
}

func FuzzAcquireRequest(f *testing.F) {
	for _, body := range []string{`{"n": 1, "wait": "2s"}`, "", "{}", `{"n": 1.5}`, `{"wait": 2}`, "[]", "{}{}", `{"x": 1}`, "null", "\xff"} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		request := struct {
			N    int    `json:"n"`
			Wait string `json:"wait"`
		}{N: 1}
		if err := decode(body, &request, "n, wait"); err != nil {
			if err.Error() == "" {
				t.Error("an error without text")
			}
			return
		}
		wait, err := duration("wait", request.Wait, MaxWait)
		if err == nil && (wait < 0 || wait > MaxWait) {
			t.Errorf("wait %v", wait)
		}
	})
}
