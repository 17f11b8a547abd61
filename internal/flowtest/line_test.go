package flowtest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/internal/virtual"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// The line makes of recorded entries, good and malformed, what the in-memory bus
// makes of them.
func TestLineIsLikeTheBus(t *testing.T) {
	var entries []entry
	for _, name := range []string{"feedback.jsonl", "malformed.jsonl", "rate_adjustment.jsonl", "feedback.jsonl"} {
		list, err := readRecording(filepath.Join("..", "..", "event", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			entries = append(entries, entryOf(e))
		}
	}
	if len(entries) < 30 {
		t.Fatalf("only %d entries", len(entries))
	}
	file, d := flows.Parse("flows.yaml", []byte(flow), nil)
	plan, more := router.NewPlan(file, stages.Builtin())
	if d.HasErrors() || more.HasErrors() {
		t.Fatal(d, more)
	}
	now := time.Unix(1795556900, 0)
	for i := range entries {
		if entries[i].id == "" {
			entries[i].id = fmt.Sprintf("%d-%d", now.UnixMilli(), i)
		}
	}
	onLine, onBus := lettersOnLine(t, plan, entries, now), lettersOnBus(t, plan, entries, now)
	if len(onLine) < 10 {
		t.Errorf("only %d dead letters", len(onLine))
	}
	if diff := cmp.Diff(onBus, onLine); diff != "" {
		t.Errorf("(-bus +line):\n%s", diff)
	}
}

func lettersOnLine(t *testing.T, plan *router.Plan, entries []entry, now time.Time) []map[string]string {
	w, err := newWorld(plan, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		w.put("mdp:mdp.telemetry.feedback", e, nil)
		if err := w.schedule.play(t.Context(), nil, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	var list []map[string]string
	at, err := w.moment("feedback", new(Expectation))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range at.letters() {
		fields := l.meta
		if l.data != nil {
			fields["data"] = string(l.data)
		}
		list = append(list, alike(fields))
	}
	return list
}

func lettersOnBus(t *testing.T, plan *router.Plan, entries []entry, now time.Time) []map[string]string {
	m, err := bus.NewInMemory(bus.InMemoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := telemetry.New(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	clock := virtual.New(now)
	rates, err := adjust.New(plan.File.Providers, slog.New(slog.DiscardHandler), adjust.WithClock(clock))
	if err != nil {
		t.Fatal(err)
	}
	r, err := router.Build(plan, router.Deps{
		Transport: m, Clock: clock, Rates: tracedRates{rates}, Observer: watch,
		Observe: func(flow, topic string) router.FlowObserver { return watch.Flow(flow, topic) },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, nil) }()
	for _, e := range entries {
		msg := message.NewMessage(e.id, e.data)
		for k, v := range e.meta {
			msg.Metadata.Set(k, v)
		}
		if err := m.PublishWait(ctx, "mdp:mdp.telemetry.feedback", msg); err != nil {
			t.Fatal(err)
		}
		if err := m.WaitIdle(ctx); err != nil {
			t.Fatal(err)
		}
	}
	found, err := m.Newest(ctx, "mdp:mdp.telemetry.feedback.dlq", 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := m.Close(context.Background()); err != nil {
		t.Error(err)
	}
	var list []map[string]string
	for _, l := range slices.Backward(found) {
		list = append(list, alike(l.Fields))
	}
	return list
}

// alike leaves out what names the transport.
func alike(fields map[string]string) map[string]string {
	delete(fields, "subscriber_poisoned")
	return fields
}

// Each event comes through gochannel, on as many topics as there are events in flight
// at once.
func TestEventsAreCarried(t *testing.T) {
	s := newSchedule(time.Unix(0, 0))
	r := testReader(t, s)
	put := func(keys ...string) {
		for _, key := range keys {
			e := event.Decoder{}.Decode("1-0", []byte(`{"ts": 1, "key": "`+key+`", "meta": {"schema_id": "x"}, "payload": {}}`))
			if e.OrderKey() != key {
				t.Fatalf("order key %q, want %q", e.OrderKey(), key)
			}
			s.admit(&task{reader: r, lane: r.lane(e), event: e, paused: make(chan struct{}, 1)})
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		refused := make(map[string]bool)
		for msg := range r.out {
			if key := event.FromContext(msg.Context()).Key; key < "c" && !refused[key] {
				refused[key] = true
				msg.Nack()
				continue
			}
			msg.Ack()
		}
	}()
	put("a", "b", "a", "c", "d")
	if err := s.play(t.Context(), nil, s.start); err != nil {
		t.Fatal(err)
	}
	if got := len(r.free); got != 3 { // a and b wait to come again, c and d follow each other
		t.Errorf("%d topics, want 3", got)
	}
	if err := r.carrier.Close(); err != nil {
		t.Fatal(err)
	}
	put("a")
	if err := s.play(t.Context(), nil, s.start); !errors.Is(err, errClosed) {
		t.Errorf("without gochannel: %v, want %v", err, errClosed)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	<-done
}

// What is in flight when a test ends, asleep or refused, holds nothing back.
func TestEndInFlight(t *testing.T) {
	file, d := flows.Parse("flows.yaml", []byte(`version: 1
flows:
  f:
    from: {stream: s}
    stages: [delay: {for: 1h}]
`), nil)
	plan, more := router.NewPlan(file, stages.Builtin())
	if d.HasErrors() || more.HasErrors() {
		t.Fatal(d, more)
	}
	for _, stopped := range []bool{false, true} {
		w, err := newWorld(plan, nil, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			w.put("mdp:mdp.s", entry{data: fmt.Appendf(nil, `{"ts": 1, "key": "%d", "meta": {"schema_id": "x"}, "payload": {}}`, i)}, nil)
		}
		if err := w.schedule.settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := len(w.schedule.asleep); got != 5 {
			t.Errorf("%d events are asleep, want 5", got)
		}
		if stopped {
			w.schedule.clock.AdvanceTo(w.schedule.start.Add(time.Hour)) // they could run, and do not
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}
}
