package app

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// oracle knows which numbered events were handled, by flow, and whether any was by two
// at once.
type oracle struct {
	mu      sync.Mutex
	runs    map[string]map[int]int
	at      map[string]map[int]bool
	overlap []string
}

func (o *oracle) handle(_ context.Context, d *stages.Delivery, _ stages.HandleConfig, deps stages.Deps) error {
	n, err := strconv.Atoi(d.Event.ID)
	if err != nil {
		return stages.Permanent(err)
	}
	o.mu.Lock()
	if o.runs[deps.Flow] == nil {
		o.runs[deps.Flow], o.at[deps.Flow] = make(map[int]int), make(map[int]bool)
	}
	if o.at[deps.Flow][n] {
		o.overlap = append(o.overlap, fmt.Sprintf("%s %d", deps.Flow, n))
	}
	o.at[deps.Flow][n] = true
	o.mu.Unlock()
	runtime.Gosched()
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.at[deps.Flow], n)
	o.runs[deps.Flow][n]++
	return nil
}

// account returns how many of a flow's events were handled, and how many of them again.
func (o *oracle) account(flow string) (handled, again int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, runs := range o.runs[flow] {
		again += runs - 1
	}
	return len(o.runs[flow]), again
}

// hosted is a service in this process, whose file a test changes.
type hosted struct {
	*service
	t    *testing.T
	path string
	stop func()
}

func host(t *testing.T, reg *stages.Registry, text string) *hosted {
	t.Helper()
	h := hostDown(t, reg, text)
	h.eventually("the flows to run", func() bool {
		r := h.ready()
		return r.Status == "ready" || r.Status == "disabled"
	})
	return h
}

// hostDown is host for a service whose bus is not there yet.
func hostDown(t *testing.T, reg *stages.Registry, text string) *hosted {
	t.Helper()
	h := &hosted{t: t, path: filepath.Join(t.TempDir(), "flows.yaml")}
	h.write(text)
	files := fileFlags{config: h.path}
	sys := system{stages: reg, lookupEnv: func(string) (string, bool) { return "", false }, stderr: io.Discard}
	load := func() (*router.Plan, flows.Diagnostics) { return files.plan(sys, make(sources)) }
	plan, d := load()
	if d.HasErrors() {
		t.Fatal(d)
	}
	var err error
	if h.service, err = newService(plan, load, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.run(ctx, nil, false) }()
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(h.stop)
	h.eventually("the flows to be started", func() bool { return h.ready().Status != admin.Starting })
	return h
}

func (h *hosted) eventually(what string, holds func() bool) {
	h.t.Helper()
	eventually(h.t, what, holds, func() string { return fmt.Sprintf("%+v", h.router.Status()) })
}

func (h *hosted) write(text string) {
	h.t.Helper()
	if err := os.WriteFile(h.path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// becomes loads another file and expects what comes of it.
func (h *hosted) becomes(text, result string) *reloadStatus {
	h.t.Helper()
	h.write(text)
	status, err := h.reloads.reload(context.Background(), triggerRequest)
	if status.Result != result {
		h.t.Fatalf("%+v (%v), want %s", status, err, result)
	}
	return status
}

// goroutines counts those there are, without the workers that wait to be used again.
func goroutines() int {
	stacks := make([]byte, 4<<20)
	n := 0
	for _, g := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if !strings.Contains(g, "router.(*worker).run") {
			n++
		}
	}
	return n
}

// readers are the connections that read streams, by their ids.
func readers(t *testing.T, client *redis.Client) map[string]bool {
	t.Helper()
	list, err := client.ClientList(context.Background()).Result()
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for line := range strings.Lines(list) {
		if strings.Contains(line, " cmd=xreadgroup ") {
			id, _, _ := strings.Cut(line, " ")
			ids[id] = true
		}
	}
	return ids
}

func consumers(t *testing.T, client *redis.Client, stream string) []string {
	t.Helper()
	var names []string
	for _, c := range client.XInfoConsumers(context.Background(), stream, "pipeline").Val() {
		names = append(names, c.Name)
	}
	return names
}

// A hundred reloads, half of them of a file that is wrong, while 5,000 events a second
// come in: none is lost or run twice at once, and what did not change is not touched.
func TestReloadUnderLoad(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	ctx := context.Background()
	o := &oracle{runs: make(map[string]map[int]int), at: make(map[string]map[int]bool)}
	reg := stages.Builtin()
	if err := reg.AddHandler("oracle", o.handle); err != nil {
		t.Fatal(err)
	}
	base := fmt.Sprintf(`version: 1
bus: {backend: redis, redis: {url: %s, consumer: worker}}
admin: {listen: "off"}
flows:
  numbers:
    from: {stream: numbers, group: pipeline, start: oldest}
    stages: [dedupe: {capacity: 100}, handle: {with: oracle}]
    retry: {max: 3}
  steady:
    from: {stream: steady, group: pipeline, start: oldest}
    stages: [dedupe: {capacity: 100}, handle: {with: oracle}]
`, server.URL())
	extra := "  extra:\n    from: {stream: numbers, group: extra, start: newest}\n    stages: [tap: {}]\n"
	h := host(t, reg, base)
	h.eventually("both to read", func() bool { return len(readers(t, client)) == 2 })
	before, began := readers(t, client), goroutines()

	stop, fed := make(chan struct{}), make(chan int)
	start := time.Now()
	go func() { // 2,500 events a second for each of two streams, making up for what came late
		n := 0
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				fed <- n
				return
			case <-tick.C:
			}
			pipe := client.Pipeline()
			for n < int(2500*time.Since(start).Seconds()) {
				for _, stream := range []string{"mdp:mdp.numbers", "mdp:mdp.steady"} {
					data := fmt.Sprintf(`{"id": "%d", "ts": 1.7e9, "key": "k%d", "meta": {"schema_id": "a"}, "payload": {}}`, n, n%20)
					pipe.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: []string{"data", data, "original_id", fmt.Sprint(n)}})
				}
				n++
			}
			if _, err := pipe.Exec(ctx); err != nil {
				t.Errorf("produce: %v", err)
			}
		}
	}()
	bad := []string{
		strings.Replace(base, "version: 1", "version: 1\nbackend: redis", 1),
		strings.Replace(base, "dedupe: {", "dedup: {", 1),
		base + "  broken: [",
		strings.Replace(base, "redis://", "redis://user@", 1),
		strings.Replace(base, `"off"`, `"127.0.0.1:0"`, 1),
	}
	for i := range 50 {
		h.becomes(bad[i%len(bad)], telemetry.ReloadRejected)
		good := strings.Replace(base, "max: 3", "max: "+strconv.Itoa(4+i), 1)
		if i%3 == 0 {
			good = strings.Replace(good, "capacity: 100}", "capacity: "+strconv.Itoa(200+i)+"}", 1)
		}
		if i%2 == 0 {
			good += extra
		}
		status := h.becomes(good, telemetry.ReloadSuccess)
		if diff := cmp.Diff([]string{"steady"}, status.Flows.Unchanged); diff != "" {
			t.Fatal(diff)
		}
		time.Sleep(50 * time.Millisecond) // some 250 events between two
	}
	h.becomes(base, telemetry.ReloadSuccess)
	close(stop)
	total := <-fed
	t.Logf("%.0f events a second, over 101 reloads", float64(2*total)/time.Since(start).Seconds())
	for _, flow := range []string{"numbers", "steady"} {
		h.eventually(flow+" to have handled all", func() bool { handled, _ := o.account(flow); return handled == total })
		handled, again := o.account(flow)
		t.Logf("%s: %d events, %d of them again", flow, handled, again)
		if names := consumers(t, client, "mdp:mdp."+flow); len(names) != 1 || names[0] != "worker" {
			t.Errorf("consumers of %s: %v", flow, names)
		}
		h.eventually("all to be acknowledged", func() bool { return pending(client, "mdp:mdp."+flow) == 0 })
	}
	if len(o.overlap) != 0 {
		t.Errorf("run twice at once: %v", o.overlap)
	}
	kept := 0
	for id := range readers(t, client) {
		if before[id] {
			kept++
		}
	}
	if kept != 1 {
		t.Errorf("%d of the reading connections were kept, want that of the flow that did not change", kept)
	}
	if status := h.reloads.status(); status["generation"] != 52 {
		t.Errorf("generation %v, want 52", status["generation"])
	}
	var now int
	eventually(t, "the goroutines to be as many as before", func() bool { now = goroutines(); return now <= began },
		func() string { return fmt.Sprintf("%d, %d at the start", now, began) })
}

const rated = `version: 1
admin: {listen: "off"}
providers:
  ibkr: {rate: 100, burst: 10, min_rate: 0}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages:
      - validate: {schema: telemetry.FeedbackEvent}
      - handle: {with: feedback, provider: ibkr, policy: {ok: 1, soft: 0.5, hard: 0}}
      - rate-apply: {publish: telemetry.rate_adjustment}
  adjustments:
    from: {stream: telemetry.rate_adjustment}
    stages: [tap: {}]
`

func (h *hosted) feedback(coordinator, level string) {
	h.t.Helper()
	ts := float64(time.Now().UnixMilli()) / 1e3
	data := fmt.Sprintf(`{"ts": %f, "key": %q, "meta": {"schema_id": "telemetry.FeedbackEvent"}, "payload": {"coordinator_id": %q, `+
		`"queue_size": 1, "capacity": 1, "level": %q, "ts": %f}}`, ts, coordinator, coordinator, level, ts)
	if _, err := h.buses.of(flows.DefaultBus).put(context.Background(), "mdp:mdp.telemetry.feedback", []byte(data), nil); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hosted) rate(provider string) adjust.ProviderStatus {
	h.t.Helper()
	s, err := h.rates.ProviderStatus(provider)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// Levels that are held count by the policy of the file that runs, and are announced anew.
func TestReloadReevaluatesRates(t *testing.T) {
	h := host(t, stages.Builtin(), rated)
	h.feedback("bars", "soft")
	announced := func() int64 { return h.router.Status()[1].Success }
	h.eventually("the level to be announced", func() bool { return announced() == 1 })
	if s := h.rate("ibkr"); s.Scale != 0.5 || s.EffectiveRate != 50 {
		t.Fatalf("%+v", s)
	}
	if err := h.rates.Acquire(context.Background(), "ibkr", 10); err != nil {
		t.Fatal(err)
	}

	h.becomes(strings.Replace(rated, "soft: 0.5", "soft: 0.2", 1), telemetry.ReloadSuccess)
	s := h.rate("ibkr")
	if s.Level != "soft" || s.Scale != 0.2 || s.EffectiveRate != 20 || len(s.Coordinators) != 1 || s.Tokens > 5 {
		t.Errorf("under the new policy %+v", s)
	}
	h.eventually("the new scale to be announced", func() bool { return announced() == 2 })

	// A provider that changed keeps its level; one that is new starts; one that is gone is unknown.
	next := strings.Replace(rated, "rate: 100", "rate: 200", 1)
	next = strings.Replace(next, "flows:\n", "  polygon: {rate: 5}\nflows:\n", 1)
	h.becomes(next, telemetry.ReloadSuccess)
	if s := h.rate("ibkr"); s.Level != "soft" || s.EffectiveRate != 100 {
		t.Errorf("changed %+v", s)
	}
	if s := h.rate("polygon"); s.EffectiveRate != 5 || s.Tokens < 4 {
		t.Errorf("added %+v", s)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- h.rates.Acquire(context.Background(), "polygon", 5) }()
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	go func() { waiting <- h.rates.Acquire(context.Background(), "polygon", 5) }()
	h.eventually("someone to wait", func() bool { return h.rate("polygon").Waiters == 1 })
	h.becomes(rated, telemetry.ReloadSuccess)
	if err := <-waiting; err == nil || !strings.Contains(err.Error(), "unknown provider") {
		t.Errorf("who waited for what is gone: %v", err)
	}
	if _, err := h.rates.State("polygon"); err == nil {
		t.Error("the provider is still there")
	}
	// None at all, and one again.
	none := "version: 1\nadmin: {listen: \"off\"}\nflows: {a: {from: {stream: a}, stages: [tap: {}]}}\n"
	h.becomes(none, telemetry.ReloadSuccess)
	if n := len(h.rates.Status()); n != 0 {
		t.Errorf("%d providers", n)
	}
	h.becomes(rated, telemetry.ReloadSuccess)
	h.feedback("bars", "hard")
	h.eventually("the level to be held", func() bool { return h.rate("ibkr").Level == "hard" })
}

func TestReloadRefuses(t *testing.T) {
	for _, tt := range []struct{ name, from, to, want string }{
		{"shutdown timeout", "version: 1", "version: 1\nshutdown_timeout: 3s", "flows.yaml:2:19: shutdown_timeout has changed, and the bus"},
		{"listen", `"off"`, `"127.0.0.1:1"`, "flows.yaml:2:17: admin.listen has changed, and the listener was opened with it: restart"},
		{"token", `"off"`, `"off", publisher_token: x`, "flows.yaml:2:41: admin.publisher_token has changed"},
		{"capacity", "version: 1", "version: 1\nbus: {capacity: 10}", "flows.yaml:2:17: bus.capacity has changed"},
		{"backend", "version: 1", "version: 1\nbus: {backend: redis}", "flows.yaml:2:16: bus.backend has changed, and the bus was made with it: restart the process"},
		{"rates file", "version: 1", "version: 1\nrates: {file: x}", "flows.yaml:2:15: rates.file has changed, and the levels"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := host(t, stages.Builtin(), rated)
			status := h.becomes(strings.Replace(rated, tt.from, tt.to, 1), telemetry.ReloadRejected)
			if !strings.Contains(status.Error, tt.want) || len(status.Diagnostics) == 0 || status.Diagnostics[0].Line == 0 {
				t.Errorf("%+v\nlacks %s", status, tt.want)
			}
			if status.Flows != nil || status.Generation != 1 {
				t.Errorf("%+v", status)
			}
			h.becomes(rated, telemetry.ReloadUnchanged)
		})
	}
	// What only the other bus uses can change, and so can what is part of a flow.
	h := host(t, stages.Builtin(), rated)
	h.becomes(strings.Replace(rated, "version: 1", "version: 1\nbus: {redis: {batch: 7}}", 1), telemetry.ReloadSuccess)
	status := h.becomes(strings.Replace(rated, "version: 1", "version: 1\nbus: {namespace: other}", 1), telemetry.ReloadSuccess)
	if got := status.Flows.String(); got != "changed feedback, adjustments" {
		t.Error(got)
	}
}

// Each bus of a file is looked at by itself: one that is open cannot change, one that is
// not cannot be opened, and one that no flow uses may say what it likes.
func TestReloadOfSeveralBuses(t *testing.T) {
	base := `version: 1
admin: {listen: "off"}
buses:
  second: {backend: inmem, capacity: 100}
  third: {backend: inmem, capacity: 100}
flows:
  a: {from: {stream: a}, stages: [tap: {}]}
  b: {from: {stream: b, bus: second}, stages: [tap: {}]}
`
	h := host(t, stages.Builtin(), base)
	for _, tt := range []struct{ from, to, result, want string }{
		{"second: {backend: inmem, capacity: 100", "second: {backend: inmem, capacity: 200", telemetry.ReloadRejected, "flows.yaml:4:38: buses.second.capacity has changed"},
		{"bus: second", "bus: third", telemetry.ReloadRejected, "flows.yaml:8:3: flow \"b\": no flow used buses: third when"},
		{"stages: [tap: {}]}\n", "stages: [tap: {}], to: {stream: c, bus: third}}\n", telemetry.ReloadRejected, "no flow used buses: third"},
		{"third: {backend: inmem, capacity: 100", "third: {backend: inmem, capacity: 200", telemetry.ReloadSuccess, "no flow changed"},
		{"{stream: a}", "{stream: a, bus: second}", telemetry.ReloadSuccess, "changed a"},
		{"second: {backend: inmem", "second: {backend: inmem, lanes: 3", telemetry.ReloadSuccess, "changed b"},
	} {
		status := h.becomes(strings.Replace(base, tt.from, tt.to, 1), tt.result)
		got := status.Error
		if status.Flows != nil {
			got = status.Flows.String()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, want %s", tt.to, got, tt.want)
		}
		h.write(base)
		if _, err := h.reloads.reload(context.Background(), triggerRequest); err != nil {
			t.Fatal(err)
		}
	}
}

// A schema that a stage refers to is part of what the flow is.
func TestReloadOfASchema(t *testing.T) {
	text := "version: 1\nadmin: {listen: \"off\"}\nflows: {a: {from: {stream: a}, stages: [validate: {schema: a, files: {v1: %s}}]}}\n"
	schema := filepath.Join(t.TempDir(), "a.json")
	write := func(s string) {
		if err := os.WriteFile(schema, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"type": "object"}`)
	text = fmt.Sprintf(text, schema)
	h := host(t, stages.Builtin(), text)
	h.becomes(text, telemetry.ReloadUnchanged)
	write(`{"type": "array"}`)
	if got := h.becomes(text, telemetry.ReloadSuccess).Flows.String(); got != "changed a" {
		t.Error(got)
	}
	write(`{"type": `)
	h.becomes(text, telemetry.ReloadRejected)
}

// The file of a real process, and what makes it be loaded again.
const watched = `version: 1
admin: {listen: 127.0.0.1:0, operator_token: secret}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages: [dedupe, tap: {}]
    retry: {max: %d}
`

type configPage struct {
	Generation int
	LastReload *reloadStatus `json:"last_reload"`
}

func (p *process) config() configPage {
	p.t.Helper()
	_, page := p.get("/flows")
	return decode[configPage](p.t, page)
}

// reload posts to /reload.
func (p *process) reload(token string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodPost, p.base+"/reload", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestReloadRequest(t *testing.T) {
	path := writeFile(t, fmt.Sprintf(watched, 1))
	p := launch(t, nil, "--config", path)
	for token, want := range map[string]int{"": 401, "wrong": 401, "secret": 200} {
		if status, body := p.reload(token); status != want {
			t.Errorf("token %q: %d %s", token, status, body)
		}
	}
	p.eventually("an event to be handled", func() bool { status, _ := p.post(`{"a": 1}`); return status == http.StatusAccepted })
	rewrite(t, path, fmt.Sprintf(watched, 2))
	status, body := p.reload("secret")
	if got := decode[reloadStatus](t, body); status != 200 || got.Result != "success" || got.Generation != 2 {
		t.Errorf("%d %s", status, body)
	}
	rewrite(t, path, strings.Replace(fmt.Sprintf(watched, 2), "dedupe,", "dedup,", 1))
	status, body = p.reload("secret")
	got := decode[reloadStatus](t, body)
	if status != 422 || got.Result != "rejected" || got.Generation != 2 || len(got.Diagnostics) == 0 {
		t.Fatalf("%d %s", status, body)
	}
	if d := got.Diagnostics[0]; d.Line != 6 || d.Column != 14 || !strings.Contains(d.Message, `did you mean "dedupe"?`) {
		t.Errorf("diagnostic %+v", d)
	}
	if page := p.config(); page.Generation != 2 || page.LastReload == nil || page.LastReload.Error != got.Error {
		t.Errorf("/flows %+v", page)
	}
	if !strings.Contains(p.logged(), "flows.yaml:6:14") {
		t.Errorf("the log does not have the place\n%s", p.logged())
	}
	for result, want := range map[string]float64{"success": 1, "unchanged": 1, "rejected": 1, "rolled_back": 0, "failed": 0} {
		if n := p.metric("pulseflow_config_reloads_total", `result="`+result+`"`); n != want {
			t.Errorf("%v reloads %s, want %v", n, result, want)
		}
	}
	if g, at := p.metric("pulseflow_config_generation"), p.metric("pulseflow_config_last_success_timestamp_seconds"); g != 2 || at < 1e9 {
		t.Errorf("generation %v, last success %v", g, at)
	}
	p.stop()
}

func rewrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReloadSignal(t *testing.T) {
	path := writeFile(t, fmt.Sprintf(watched, 1))
	p := launch(t, nil, "--config", path)
	p.eventually("the flow to run", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	rewrite(t, path, fmt.Sprintf(watched, 2))
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	p.eventually("the file to be loaded", func() bool { return p.config().Generation == 2 })
	if got := p.config().LastReload.Trigger; got != triggerSignal {
		t.Errorf("trigger %s", got)
	}
	p.stop()
}

func TestReloadWatch(t *testing.T) {
	path := writeFile(t, fmt.Sprintf(watched, 1))
	p := launch(t, nil, "--config", path, "--watch")
	p.eventually("the flow to run", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	// As an editor does it.
	rewrite(t, path+".tmp", fmt.Sprintf(watched, 2))
	if err := os.Rename(path+".tmp", path); err != nil {
		t.Fatal(err)
	}
	p.eventually("the file to be loaded", func() bool { return p.config().Generation == 2 })
	rewrite(t, path, "version: 1\nflows: [")
	p.eventually("the file to be refused", func() bool { return p.config().LastReload.Result == "rejected" })
	rewrite(t, path, fmt.Sprintf(watched, 3))
	p.eventually("the file to be loaded", func() bool { return p.config().Generation == 3 })
	p.stop()

	status, _, errs := invoke(t, nil, "", "run", "--watch", "--listen", "off")
	if status != exitConfig || !strings.Contains(errs, "there is no file to watch") {
		t.Errorf("without a file: %d %s", status, errs)
	}
}

// What is edited after it was read and before it is watched is loaded all the same, the
// file as well as what it refers to.
func TestReloadWatchFromTheFirstRead(t *testing.T) {
	for name, edit := range map[string]string{"the file": "flows.yaml", "a schema": "a.json", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			texts := map[string]string{
				"flows.yaml": "version: 1\nflows: {a: {from: {stream: a}, stages: [validate: {schema: a, files: {v1: a.json}}]}}\n",
				"a.json":     `{"type": "object"}`,
			}
			for file, text := range texts {
				rewrite(t, filepath.Join(dir, file), text)
			}
			files := fileFlags{config: filepath.Join(dir, "flows.yaml")}
			plan, err := files.load(system{
				stages: stages.Builtin(), lookupEnv: func(string) (string, bool) { return "", false }, stderr: io.Discard,
			})
			if err != nil {
				t.Fatal(err)
			}
			if edit != "" {
				rewrite(t, filepath.Join(dir, edit), texts[edit]+"\n")
			}
			w, err := newFileWatch(files.config, plan, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done, told := make(chan struct{}), make(chan struct{}, 10)
			go func() {
				defer close(done)
				w.files.Run(ctx, func() { told <- struct{}{} })
			}()
			defer func() { cancel(); <-done }()
			limit := patience
			if edit == "" {
				limit = time.Second
			}
			select {
			case <-told:
				if edit == "" {
					t.Error("told of an edit that there was not")
				}
			case <-time.After(limit):
				if edit != "" {
					t.Error("not told of the edit")
				}
			}
		})
	}
}

// docs/reload.md, command by command.
func TestDocumentedReload(t *testing.T) {
	dir := t.TempDir()
	shipped, err := os.ReadFile(filepath.Join("..", "..", "flows.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rewrite(t, filepath.Join(dir, "flows.yaml"), string(shipped))
	p := launch(t, nil, "--config", filepath.Join(dir, "flows.yaml"))
	p.eventually("the flow to run", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	commands := 0
	for _, b := range blocks(t, filepath.Join("..", "..", "docs", "reload.md")) {
		if b.info != "console" {
			continue
		}
		for _, step := range strings.Split("\n"+strings.TrimSuffix(b.text, "\n"), "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			run := exec.Command("sh", "-c", strings.ReplaceAll(command, "http://127.0.0.1:8088", p.base))
			run.Dir = dir
			out, err := run.CombinedOutput()
			if commands++; err != nil || !shown(want).MatchString(strings.TrimSuffix(string(out), "\n")) {
				t.Errorf("line %d: %s: %v, printed\n%s\nand the page shows\n%s", b.line, command, err, out, want)
			}
		}
	}
	if commands < 7 {
		t.Errorf("only %d commands found", commands)
	}
	p.stop()
}

// What comes through a named pipe can be run, and neither watched nor loaded again.
func TestReloadOfANamedPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "flows.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	write := func() { written <- os.WriteFile(pipe, fmt.Appendf(nil, watched, 1), 0o600) }
	go write()
	p := launch(t, nil, "--config", pipe)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	p.eventually("the flow to run", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	status, page := p.reload("secret")
	if status != http.StatusBadRequest && status != http.StatusUnprocessableEntity || !strings.Contains(page, "is not a regular file") {
		t.Errorf("%d %s", status, page)
	}
	p.stop()

	go write()
	code, _, errs := invoke(t, nil, "", "run", "--watch", "--listen", "off", "--config", pipe)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if code != exitConfig || !strings.Contains(errs, "is not a regular file") {
		t.Errorf("watched: %d %s", code, errs)
	}
}

// A flows.yaml that was read and is gone is a fault, and no reason to run the built-in
// flow instead.
func TestReloadWithoutTheDefaultFile(t *testing.T) {
	t.Chdir(t.TempDir())
	sys := system{stages: stages.Builtin(), lookupEnv: func(string) (string, bool) { return "", false }, stderr: io.Discard}
	files := fileFlags{listen: "off"}
	builtIn, err := files.load(sys)
	if err != nil {
		t.Fatal(err)
	}
	if plan, d := files.planAgain(sys); d.HasErrors() || plan.File.Path != builtIn.File.Path {
		t.Errorf("before there is a file: %s %v", plan.File.Path, d)
	}
	rewrite(t, defaultFile, fmt.Sprintf(watched, 1))
	if plan, d := files.planAgain(sys); d.HasErrors() || plan.File.Path != defaultFile {
		t.Errorf("a file that has come: %s %v", plan.File.Path, d)
	}
	if err := os.Remove(defaultFile); err != nil {
		t.Fatal(err)
	}
	plan, d := files.planAgain(sys)
	if !d.HasErrors() || plan.File.Path != defaultFile || !strings.Contains(d.Err().Error(), "flows.yaml: cannot be read: no such file") {
		t.Errorf("a file that is gone: %s %v", plan.File.Path, d)
	}
	rewrite(t, defaultFile, fmt.Sprintf(watched, 2))
	if plan, d := files.planAgain(sys); d.HasErrors() || plan.File.Path != defaultFile {
		t.Errorf("a file that is back: %s %v", plan.File.Path, d)
	}
}
