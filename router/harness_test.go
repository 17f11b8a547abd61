package router_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	source     = "mdp:mdp.telemetry.feedback"
	deadLetter = "mdp:mdp.telemetry.feedback.dlq"
	group      = "pipeline"
	// patience bounds every wait for something that must happen.
	patience = 20 * time.Second
)

// line is a bus under test.
type line struct {
	transport interface {
		router.Transport
		Close(ctx context.Context) error
		Newest(ctx context.Context, stream string, n int) ([]bus.Entry, error)
	}
	put     func(id string, fields map[string]string) error
	pending func() int64
	// reopen gives a transport on what the closed one left behind; nil where
	// nothing outlives it.
	reopen func()
	server *redistest.Server // nil on the in-memory bus
}

// onBothBuses runs test on each bus.
func onBothBuses(t *testing.T, test func(t *testing.T, l *line)) {
	t.Run("inmem", func(t *testing.T) { test(t, openMemory(t)) })
	t.Run("redis", func(t *testing.T) { test(t, openRedis(t)) })
}

func openMemory(t *testing.T) *line {
	t.Helper()
	m, err := bus.NewInMemory(bus.InMemoryConfig{DrainTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close(context.Background()) })
	return &line{
		transport: m,
		put: func(id string, fields map[string]string) error {
			msg := message.NewMessage(id, nil)
			for k, v := range fields {
				if k == "data" {
					msg.Payload = []byte(v)
					continue
				}
				msg.Metadata.Set(k, v)
			}
			return m.PublishWait(context.Background(), source, msg)
		},
		pending: func() int64 { n, _ := m.Depth(source, group); return int64(n) },
	}
}

func openRedis(t *testing.T) *line {
	t.Helper()
	server := redistest.Start(t)
	client := server.Client(t)
	l := &line{server: server}
	l.reopen = func() {
		r, err := bus.NewRedis(bus.RedisConfig{URL: server.URL(), DrainTimeout: 2 * time.Second, Lease: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close(context.Background()) })
		l.transport = r
	}
	l.reopen()
	l.put = func(id string, fields map[string]string) error {
		meta := map[string]string{}
		for k, v := range fields {
			meta[k] = v
		}
		if id != "" {
			meta["original_id"] = id
		}
		data, ok := fields["data"]
		delete(meta, "data")
		var raw []byte
		if ok {
			raw = []byte(data)
		}
		_, err := l.transport.(*bus.Redis).Put(context.Background(), source, raw, meta)
		return err
	}
	l.pending = func() int64 {
		p, err := client.XPending(context.Background(), source, group).Result()
		if err != nil {
			return -1
		}
		return p.Count
	}
	return l
}

// tally counts what a flow does.
type tally struct {
	mu     sync.Mutex
	counts map[string]int
}

func (c *tally) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[fmt.Sprintf(format, args...)]++
}

func (c *tally) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[name]
}

func (c *tally) Consumed(_, outcome string)       { c.add("%s", outcome) }
func (c *tally) Lag(time.Duration)                { c.add("lag") }
func (c *tally) Retried()                         { c.add("retried") }
func (c *tally) DeadLettered(kind string)         { c.add("dead letter %s", kind) }
func (c *tally) DeadLetterFailed()                { c.add("dead letter failed") }
func (c *tally) ValidationFailed(string, string)  {}
func (c *tally) HashMismatched(string)            {}
func (c *tally) QueueDepth(int64)                 {}
func (c *tally) FeedbackProcessed(string, string) {}
func (c *tally) Published(_, _, outcome string)   { c.add("published %s", outcome) }
func (c *tally) RateStale(string)                 {}

// fixedRates is a rate coordinator that every adjustment sets.
type fixedRates struct {
	mu    sync.Mutex
	state stages.RateState
}

func (r *fixedRates) Apply(_ context.Context, a stages.Adjustment) (stages.RateState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state = stages.RateState{Level: a.Level, Scale: a.Policy.Scale(a.Level)}
	return r.state, nil
}

func (r *fixedRates) RateState(string) (stages.RateState, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state, nil
}

// running is a router at work.
type running struct {
	t      *testing.T
	line   *line
	count  *tally
	router *router.Router
	cancel context.CancelFunc
	done   chan error
}

// standard is the mission's flow, retrying without delay, with a handler of the
// test's between dedupe and the end.
const standard = `
version: 1
providers: {ibkr: {rate: 60}}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages:
      - validate: {schema: telemetry.FeedbackEvent}
      - dedupe
      - handle: {with: test}
    retry: {max: 3, initial: 1ms, max_interval: 2ms}
`

func plan(t *testing.T, src string, handler stages.Handler) *router.Plan {
	t.Helper()
	reg := stages.Builtin()
	if handler != nil {
		if err := reg.AddHandler("test", handler); err != nil {
			t.Fatal(err)
		}
	}
	f, d := flows.Parse("flows.yaml", []byte(src), func(string) (string, bool) { return "", false })
	if d.HasErrors() {
		t.Fatal(d)
	}
	p, d := router.NewPlan(f, reg)
	if d.HasErrors() {
		t.Fatal(d)
	}
	return p
}

// start runs the flows of src over l; wrap may stand between router and bus.
func start(t *testing.T, l *line, src string, handler stages.Handler, wrap func(router.Transport) router.Transport) *running {
	t.Helper()
	run := &running{t: t, line: l, count: &tally{counts: make(map[string]int)}, done: make(chan error, 1)}
	var transport router.Transport = l.transport
	if wrap != nil {
		transport = wrap(transport)
	}
	var err error
	run.router, err = router.Build(plan(t, src, handler), router.Deps{
		Transport: transport, Rates: &fixedRates{}, Limiters: adjust.NewLimiter, Observer: run.count,
		Observe: func(string, string) router.FlowObserver { return run.count },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	run.cancel = cancel
	ready := make(chan struct{})
	go func() { run.done <- run.router.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-run.done:
		t.Fatal(err)
	}
	t.Cleanup(run.stop)
	return run
}

// stop ends the router, once, and reports an error of it.
func (r *running) stop() {
	r.t.Helper()
	r.cancel()
	if r.done == nil {
		return
	}
	if err := <-r.done; err != nil {
		r.t.Errorf("run: %v", err)
	}
	r.done = nil
}

// eventually waits until holds returns true.
func (r *running) eventually(what string, holds func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited for %s; counts %v, pending %d", what, r.count.counts, r.line.pending())
		}
		time.Sleep(time.Millisecond)
	}
}

// settled waits until n events have an outcome and nothing is pending.
func (r *running) settled(n int) {
	r.t.Helper()
	r.eventually(fmt.Sprintf("%d events to be settled", n), func() bool {
		return r.count.of("success")+r.count.of("error")+r.count.of("duplicate") >= n && r.line.pending() == 0
	})
}

// letters returns the dead letters, oldest first.
func (r *running) letters() []map[string]string {
	r.t.Helper()
	entries := r.newest(deadLetter)
	list := make([]map[string]string, 0, len(entries))
	for _, e := range slices.Backward(entries) {
		list = append(list, e.Fields)
	}
	return list
}

// newest reads a stream, newest entry first. After an outage the client may take a
// moment to notice that the server is back.
func (r *running) newest(stream string) []bus.Entry {
	r.t.Helper()
	var entries []bus.Entry
	r.eventually("the stream to be readable", func() (ok bool) {
		var err error
		entries, err = r.line.transport.Newest(context.Background(), stream, 1000)
		return err == nil
	})
	return entries
}

func (r *running) put(id, data string) {
	r.t.Helper()
	if err := r.line.put(id, map[string]string{"data": data}); err != nil {
		r.t.Fatal(err)
	}
}

// feedback is a nested entry as Store sends it.
func feedback(coordinator, level string, n int) string {
	ts := strconv.FormatFloat(1795556873.5+float64(n)/1000, 'f', -1, 64)
	return fmt.Sprintf(`{"ts": %s, "key": %q, "meta": {"schema_id": "events.envelope.EventEnvelope"}, "payload": `+
		`{"id": "", "key": %q, "ts": %s, "meta": {"schema_id": "telemetry.FeedbackEvent"}, "payload": `+
		`{"coordinator_id": %q, "queue_size": 7, "capacity": 10, "level": %q, "ts": %s}}}`,
		ts, coordinator, coordinator, ts, coordinator, level, ts)
}

// capture is a line of a capture file.
type capture struct {
	Name   string            `json:"name"`
	ID     string            `json:"id"`
	Fields map[string]string `json:"fields"`
	Expect string            `json:"expect"`
}

func captures(t *testing.T, name string) []capture {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "event", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []capture
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var c capture
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		t.Fatalf("%s is empty", name)
	}
	return list
}
