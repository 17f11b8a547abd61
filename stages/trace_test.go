package stages

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

// traced runs the reference stages on events, one after the other, with a trace of
// each.
func traced(t *testing.T, list string, events ...string) []*Trace {
	t.Helper()
	planned, d := resolve(t, Builtin(), file(list))
	if d.HasErrors() {
		t.Fatal(d)
	}
	built, err := Build(planned, Deps{Flow: "feedback", Clock: newTestClock(), Rates: newLedger(), Publisher: newOutbox(), Observer: newCounters()})
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
