package stages

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/rate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// now is the time of every test's clock; the recorded events lie shortly before.
var now = time.Unix(1795556900, 0).UTC()

type testClock struct {
	mu sync.Mutex
	at time.Time
}

func newTestClock() *testClock { return &testClock{at: now} }

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *testClock) Sleep(_ context.Context, d time.Duration) error {
	c.advance(d)
	return nil
}

func (c *testClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// counters is an Observer that remembers.
type counters struct {
	mu     sync.Mutex
	counts map[string]int
	depth  int64
}

func newCounters() *counters { return &counters{counts: make(map[string]int)} }

func (c *counters) add(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[fmt.Sprintf(format, args...)]++
}

func (c *counters) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[name]
}

func (c *counters) ValidationFailed(schema, mode string) { c.add("validation %s %s", schema, mode) }
func (c *counters) HashMismatched(schema string)         { c.add("hash %s", schema) }
func (c *counters) FeedbackProcessed(p, level string)    { c.add("feedback %s %s", p, level) }
func (c *counters) Published(topic, track, outcome string) {
	c.add("published %s %s %s", topic, track, outcome)
}
func (c *counters) RateStale(provider string) { c.add("stale %s", provider) }
func (c *counters) QueueDepth(depth int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.depth = depth
}

// ledger is a RateApplier that applies the newest level of each coordinator and
// lets the worst one stand, which is all the stages rely on.
type ledger struct {
	mu     sync.Mutex
	levels map[string]Adjustment
	stood  []RateState          // every aggregate there was, in order
	others []func(string) error // who follows what others change
	fail   error
}

func newLedger() *ledger { return &ledger{levels: make(map[string]Adjustment)} }

func (l *ledger) Apply(_ context.Context, a Adjustment) (RateState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return RateState{}, l.fail
	}
	stale := false
	if old, ok := l.levels[a.Coordinator]; ok && old.Time > a.Time {
		stale = true
	} else {
		l.levels[a.Coordinator] = a
	}
	s := l.worst()
	l.stood = append(l.stood, s)
	s.Stale = stale
	return s, nil
}

func (l *ledger) RateState(string) (RateState, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.worst(), nil
}

// Follow implements RateFollowing; others calls what was given.
func (l *ledger) Follow(f func(string) error) func() {
	l.others = append(l.others, f)
	return func() {}
}

func (l *ledger) worst() RateState {
	s := RateState{Scale: 1}
	for _, a := range l.levels {
		if a.Level >= s.Level {
			s.Level, s.Scale = a.Level, a.Policy.Scale(a.Level)
		}
	}
	return s
}

// outbox is a publisher that keeps what it is given, and fails while told to.
type outbox struct {
	mu       sync.Mutex
	messages map[string][]*message.Message
	fail     error
}

func newOutbox() *outbox { return &outbox{messages: make(map[string][]*message.Message)} }

func (o *outbox) Publish(topic string, msgs ...*message.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return o.fail
	}
	o.messages[topic] = append(o.messages[topic], msgs...)
	return nil
}

func (o *outbox) Close() error { return nil }

func (o *outbox) failWith(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = err
}

// bench is a running flow of stages over gochannel.
type bench struct {
	t       *testing.T
	clock   *testClock
	count   *counters
	rates   *ledger
	outbox  *outbox
	results chan result
	pub     *gochannel.GoChannel

	lines    lockedBuffer // of the log
	stopping context.Context
	stop     context.CancelFunc
	last     atomic.Pointer[Delivery]
}

// lockedBuffer is a buffer that several goroutines may write to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func limiters(perSecond, burst float64, keys int, clock Clock) (Limiter, error) {
	return rate.NewKeyed(perSecond, burst, keys, clock.Now)
}

// result is what became of one event.
type result struct {
	id      string
	outcome Outcome
	stage   string
	err     error
}

// file wraps the stages of a test in a flows file.
func file(stages string) []byte {
	return []byte("version: 1\nproviders:\n  ibkr: {rate: 60}\nflows:\n  feedback:\n" +
		"    from: {stream: telemetry.feedback}\n    stages:\n" + stages)
}

func resolve(t *testing.T, reg *Registry, src []byte) ([]Planned, flows.Diagnostics) {
	t.Helper()
	f, d := flows.Parse("flows.yaml", src, func(string) (string, bool) { return "", false })
	if d.HasErrors() {
		return nil, d
	}
	return reg.Resolve(f.Flows[0].Stages, Scope{
		Flow: "feedback", SourceKey: f.Flows[0].From.Key, Dir: "testdata", Providers: []string{"ibkr"}, Key: f.StreamKey,
	}, &d), d
}

// start runs stages, given as YAML list items, and the last handler behind them.
func start(t *testing.T, reg *Registry, list string, last message.NoPublishHandlerFunc) *bench {
	t.Helper()
	planned, d := resolve(t, reg, file(list))
	if d.HasErrors() {
		t.Fatalf("resolve: %v", d)
	}
	b := &bench{
		t: t, clock: newTestClock(), count: newCounters(), rates: newLedger(), outbox: newOutbox(),
		results: make(chan result, 100),
		pub:     gochannel.NewGoChannel(gochannel.Config{PreserveContext: true}, nil),
	}
	b.stopping, b.stop = context.WithCancel(context.Background())
	t.Cleanup(b.stop)
	built, err := Build(planned, Deps{
		Flow: "feedback", Stream: "telemetry.feedback", Clock: b.clock, Rates: b.rates, Publisher: b.outbox,
		Observer: b.count, Logger: slog.New(slog.NewTextHandler(&b.lines, nil)), Stopping: b.stopping, Limiters: limiters,
	})
	if err != nil {
		t.Fatalf("build: %v", err)
	}
	r, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	r.AddMiddleware(b.settle)
	r.AddMiddleware(Middlewares(built)...)
	if last == nil {
		last = func(*message.Message) error { return nil }
	}
	r.AddConsumerHandler("feedback", "in", b.pub, last)
	done := make(chan error, 1)
	go func() { done <- r.Run(context.Background()) }()
	<-r.Running()
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close router: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("run router: %v", err)
		}
	})
	return b
}

// settle stands where the router's own middleware does: it makes the Delivery and
// reports the result.
func (b *bench) settle(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := &Delivery{Context: msg.Context(), Event: event.FromContext(msg.Context()), Attempts: 1}
		msg.SetContext(d)
		_, err := next(msg)
		b.last.Store(d)
		b.results <- result{d.Event.ID, d.Outcome, d.Stage, err}
		return nil, nil
	}
}

// send puts an event through and returns what became of it.
func (b *bench) send(id, data string) result {
	b.t.Helper()
	b.post(id, data)
	return <-b.results
}

func (b *bench) post(id, data string) {
	b.t.Helper()
	e := event.Decoder{}.Decode(id, []byte(data))
	if e.Err != nil {
		b.t.Fatalf("test event does not decode: %v", e.Err)
	}
	msg := message.NewMessage(id, e.Data)
	msg.SetContext(event.NewContext(context.Background(), e))
	if err := b.pub.Publish("in", msg); err != nil {
		b.t.Fatal(err)
	}
}

// feedback is a canonical feedback event.
func feedback(coordinator, level string, ts float64) string {
	return fmt.Sprintf(`{"ts": %f, "key": %q, "meta": {"schema_id": "telemetry.FeedbackEvent", "track": "v1", `+
		`"headers": {"reason": "test"}, "hash": null}, "payload": {"coordinator_id": %q, "queue_size": 7, `+
		`"capacity": 10, "level": %q, "source": "store", "ts": %f}}`, ts, coordinator, coordinator, level, ts)
}
