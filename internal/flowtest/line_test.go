package flowtest

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

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
