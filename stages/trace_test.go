package stages

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// traced runs the reference stages on events, one after the other, with a trace of
// each.
func traced(t *testing.T, list string, events ...string) []*Trace {
	t.Helper()
	planned, d := resolve(t, Builtin(), file(list))
	if d.HasErrors() {
		t.Fatal(d)
	}
	built, err := Build(planned, Deps{
		Flow: "feedback", Clock: newTestClock(), Rates: newLedger(), Publisher: newOutbox(), Observer: newCounters(),
		Limiters: limiters, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := func(*message.Message) ([]*message.Message, error) { return nil, nil }
	for i, chain := len(built)-1, Middlewares(built); i >= 0; i-- {
		handler = chain[i](handler)
	}
	var traces []*Trace
	for _, data := range events {
		trace := NewTrace()
		e := event.Decoder{}.Decode("1795556900000-0", []byte(data))
		msg := message.NewMessage("", e.Data)
		msg.SetContext(&Delivery{Context: context.Background(), Event: e, Attempts: 1, Trace: trace})
		_, _ = handler(msg) // the trace has the error
		traces = append(traces, trace)
	}
	return traces
}

func summary(trace *Trace) string {
	var lines []string
	for _, s := range trace.Steps {
		line := s.Stage
		switch {
		case s.Err != nil:
			line += " failed: " + s.Err.Error()
		case s.Passed:
			line += " passed"
		default:
			line += " stopped"
		}
		lines = append(lines, line+": "+strings.Join(s.Notes, "; "))
	}
	return strings.Join(lines, "\n")
}

func TestTrace(t *testing.T) {
	const list = `      - validate: {schema: telemetry.FeedbackEvent, hash: warn}
      - dedupe: {key: "{key}/{ts}"}
      - handle: {with: feedback}
      - rate-apply: {publish: telemetry.rate_adjustment}
`
	traces := traced(t, list,
		feedback("a", "soft", 5), feedback("a", "soft", 5), feedback("a", "ok", 4), feedback("a", "loud", 6),
		strings.Replace(feedback("a", "soft", 7), `"key": "a", "meta"`, `"key": null, "meta"`, 1))
	for i, want := range []string{
		`validate passed: schema telemetry.FeedbackEvent, track v1; hash: there is none to check
dedupe passed: first seen: key {key}/{ts}, "a/5"; key remembered for 10m0s
handle passed: level soft → scale 0.5 for ibkr; coordinator "a", queue 7 of 10
rate-apply passed: ibkr is at level soft, scale 0.5`,
		`validate passed: schema telemetry.FeedbackEvent, track v1; hash: there is none to check
dedupe stopped: handled before: key {key}/{ts}, "a/5"`,
		`validate passed: schema telemetry.FeedbackEvent, track v1; hash: there is none to check
dedupe passed: first seen: key {key}/{ts}, "a/4"; key remembered for 10m0s
handle passed: level ok → scale 1 for ibkr; coordinator "a", queue 7 of 10
rate-apply passed: older than what coordinator "a" last said: ibkr stays at level soft, scale 0.5; ` +
			`nothing to publish on telemetry.rate_adjustment: ibkr is what was published last`,
		`validate failed: /level: must be ok, soft or hard (got string): `,
		`validate passed: schema telemetry.FeedbackEvent, track v1; hash: there is none to check
dedupe passed: passes as new: it lacks a field of the key {key}/{ts}
handle passed: level soft → scale 0.5 for ibkr; coordinator "a", queue 7 of 10
rate-apply passed: ibkr is at level soft, scale 0.5; nothing to publish on telemetry.rate_adjustment: ibkr is what was published last`,
	} {
		if diff := cmp.Diff(want, summary(traces[i])); diff != "" {
			t.Errorf("event %d (-want +got):\n%s", i+1, diff)
		}
	}
	warned := traced(t, "      - validate: {schema: telemetry.FeedbackEvent, mode: warn, hash: warn}\n      - dedupe: {key: payload, ttl: 0s}\n",
		strings.NewReplacer(`"hash": null`, `"hash": "00"`, `"queue_size": 7`, `"queue_size": -7`).Replace(feedback("a", "soft", 5)))
	got := summary(warned[0])
	for _, want := range []string{
		"breaks schema telemetry.FeedbackEvent, and mode warn lets it go on: /queue_size", "hash: /meta/hash: ",
		"first seen: key payload, ", "key remembered until evicted",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
}

// The general stages say what they decided, why, and what they changed.
func TestTraceOfGeneralStages(t *testing.T) {
	quote := func(payload string) string {
		return `{"ts": 1795556880, "key": "k", "meta": {"schema_id": "market.Quote"}, "payload": ` + payload + `}`
	}
	for _, tt := range []struct {
		list   string
		events []string
		want   string
	}{
		{
			`filter: {when: payload.bid < payload.ask && type == "market.Quote"}`,
			[]string{`{"bid": 1, "ask": 2}`, `{"bid": 2, "ask": 2}`},
			`filter passed: goes on: payload.bid < payload.ask && type == "market.Quote" is true (payload.ask = 2, payload.bid = 1, type = "market.Quote")
filter stopped: filtered: payload.bid < payload.ask && type == "market.Quote" is false (payload.ask = 2, payload.bid = 2, type = "market.Quote")`,
		},
		{
			`filter: {when: payload.bid > 1, on_error: keep}`,
			[]string{`{"bid": "x"}`},
			`filter passed: goes on, by on_error: keep: expression at flows.yaml:8:36: invalid operation: string > int`,
		},
		{
			`filter: {when: payload.bid > 1, on_error: drop}`,
			[]string{`{}`},
			`filter stopped: filtered, by on_error: drop: expression at flows.yaml:8:36: invalid operation: nil > int`,
		},
		{
			`map: {set: {mid: (payload.bid + payload.ask) / 2, bid: payload.bid * 2}, remove: [ask], key: payload.sym, schema: market.Mid}`,
			[]string{`{"sym": "A", "bid": 1, "ask": 2}`},
			`map passed: schema: market.Quote → market.Mid; key: "k" → "A"; payload.bid: 1 → 2; payload.mid: set to 1.5; payload.ask: removed, was 2`,
		},
		{`map: {set: {bid: payload.bid}}`, []string{`{"bid": 1}`}, `map passed: changes nothing`},
		{
			`route: {to: {a: payload.n > 1, b: payload.n > 2}, match: first, otherwise: rest}`,
			[]string{`{"n": 2}`, `{"n": 1}`},
			`route passed: a: payload.n > 1 is true (payload.n = 2)
route passed: a: payload.n > 1 is false (payload.n = 1); b: payload.n > 2 is false (payload.n = 1); rest: otherwise`,
		},
		{`route: {to: {a: payload.n > 1}}`, []string{`{"n": 1}`}, `route passed: a: payload.n > 1 is false (payload.n = 1); published nowhere`},
		{
			`tap: {every: 2, when: payload.n > 1, log: {n: payload.n}, message: odd}`,
			[]string{`{"n": 2}`, `{"n": 3}`, `{"n": 1}`, `{"n": "x"}`},
			`tap passed: line at info: "odd" [event_id=1795556900000-0 type=market.Quote key=k track=v1 events=1 n=2]
tap passed: no line: not one in 2
tap passed: no line: payload.n > 1 is false (payload.n = 1)
tap passed: no line: expression at flows.yaml:8:41: invalid operation: string > int`,
		},
		{
			`tap: {per_second: 1}`,
			[]string{`{}`, `{}`},
			`tap passed: line at info: "event" [event_id=1795556900000-0 type=market.Quote key=k track=v1 events=1]
tap passed: no line: there are 1 a second`,
		},
		{
			`throttle: {rate: 2, key: key, over: drop}`,
			[]string{`{}`, `{}`},
			`throttle passed: key "k": a token of 2/s
throttle stopped: key "k": dropped: no token of 2/s for another 500ms`,
		},
		{
			`throttle: {rate: 2}`,
			[]string{`{}`, `{}`},
			`throttle passed: a token of 2/s
throttle passed: waits 500ms for a token of 2/s; a token of 2/s`,
		},
		{`delay: {for: 25s}`, []string{`{}`}, `delay passed: held for 5s`},
		{`delay: {for: 1s}`, []string{`{}`}, `delay passed: goes on at once: it is older than 1s`},
		{`timeout: {after: 1h}`, []string{`{}`}, `timeout passed: the stages behind may take 1h0m0s`},
	} {
		var events []string
		for _, payload := range tt.events {
			events = append(events, quote(payload))
		}
		var got []string
		for _, trace := range traced(t, "      - "+tt.list+"\n", events...) {
			got = append(got, summary(trace))
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, "\n")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.list, diff)
		}
	}
}

// What ends a flow is a step of its own.
func TestTraceOfTo(t *testing.T) {
	out := newOutbox()
	end, err := Forward(Deps{Flow: "f", Stream: "in", Publisher: out, Observer: newCounters()}, Publication{Topic: "out", Key: "k:out"}, flows.FormatSame)
	if err != nil {
		t.Fatal(err)
	}
	trace := NewTrace()
	trace.enter("tap", 1, 1)
	step := trace.pass()
	e := event.Decoder{}.Decode("1-0", []byte(`{"ts": 1, "meta": {"schema_id": "a.B"}, "payload": {}}`))
	msg := message.NewMessage("", e.Data)
	msg.SetContext(&Delivery{Context: context.Background(), Event: e, Attempts: 1, Trace: trace})
	for range 2 { // the second run finds that the stream has it
		if err := end(msg); err != nil {
			t.Fatal(err)
		}
	}
	trace.back(step, nil)
	trace.leave(step, nil)
	if diff := cmp.Diff("tap passed: \nto passed: stream out, format same\nto passed: stream out, format same; out has it already", summary(trace)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if trace.Steps[1].Index != 2 {
		t.Errorf("to is at %d, want 2", trace.Steps[1].Index)
	}
}

// A failure is the failing stage's own, and remarks after it are with it.
func TestTraceOfFailure(t *testing.T) {
	trace := NewTrace()
	trace.Note("lost: there is no step yet")
	outer := trace.enter("outer", 1, 1)
	trace.pass()
	inner := trace.enter("inner", 2, 1)
	failure := errors.New("failure")
	trace.leave(inner, failure)
	trace.back(outer, failure)
	trace.Note("released")
	trace.leave(outer, failure)
	trace.Note("tried again after %s", time.Second)
	outer = trace.enter("outer", 1, 2)
	trace.pass()
	trace.enter("inner", 2, 2)
	trace.unwind(outer)
	trace.Note("released, too")
	trace.Panicked(failure)
	trace.enter("outer", 1, 3)
	trace.Panicked(failure)
	if diff := cmp.Diff(`outer passed: released
inner failed: failure: tried again after 1s
outer passed: released, too
inner failed: failure: 
outer failed: failure: `, summary(trace)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// waitingClock is a Clock that is told of those who wait for others.
type waitingClock struct {
	*testClock
	waited int
}

func (c *waitingClock) Wait(context.Context, <-chan struct{}) error {
	c.waited++
	return context.Canceled
}

func TestStoreWaitsThroughTheClock(t *testing.T) {
	clock := &waitingClock{testClock: newTestClock()}
	s, err := NewMemoryStore(1, time.Minute, clock)
	if err != nil {
		t.Fatal(err)
	}
	if fresh, err := s.Reserve(t.Context(), "a"); !fresh || err != nil || clock.waited != 0 {
		t.Error(fresh, err, clock.waited)
	}
	if fresh, err := s.Reserve(t.Context(), "a"); fresh || !errors.Is(err, context.Canceled) || clock.waited != 1 {
		t.Error(fresh, err, clock.waited)
	}
}

// A stage costs no allocation more than its own where nothing is traced.
func TestNoTraceCostsNothing(t *testing.T) {
	planned, d := resolve(t, Builtin(), file("      - validate: {schema: telemetry.FeedbackEvent}\n      - dedupe: {key: id}\n"+
		"      - handle: {with: feedback}\n      - rate-apply\n"))
	if d.HasErrors() {
		t.Fatal(d)
	}
	built, err := Build(planned, Deps{Flow: "feedback", Clock: SystemClock{}, Rates: &still{}, Observer: &silent{}})
	if err != nil {
		t.Fatal(err)
	}
	handler := func(*message.Message) ([]*message.Message, error) { return nil, nil }
	for i, chain := len(built)-1, Middlewares(built); i >= 0; i-- {
		handler = chain[i](handler)
	}
	e := event.Decoder{}.Decode("1-0", []byte(feedback("a", "soft", 5)))
	msg := message.NewMessage("", e.Data)
	delivery := &Delivery{Context: context.Background(), Event: e, Attempts: 1}
	msg.SetContext(delivery)
	run := func() {
		if _, err := handler(msg); err != nil {
			t.Fatal(err)
		}
	}
	run()
	// From then on it is a duplicate, which validate decodes and dedupe stops.
	if n := testing.AllocsPerRun(100, run); n > 0 {
		t.Errorf("%v allocations for a duplicate, want none", n)
	}
}

// still is a rate coordinator that nothing changes.
type still struct{}

func (still) Apply(context.Context, Adjustment) (RateState, error) { return RateState{Scale: 1}, nil }

func (still) RateState(string) (RateState, error) { return RateState{Scale: 1}, nil }
