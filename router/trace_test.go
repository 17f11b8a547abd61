package router_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// The trace of an event has each run of its stages, how it failed, and the waits.
func TestTrace(t *testing.T) {
	l := openMemory(t)
	runs := 0
	handler := func(context.Context, *stages.Delivery, stages.HandleConfig, stages.Deps) error {
		switch runs++; runs {
		case 1:
			return errors.New("once")
		case 2:
			panic("twice")
		}
		return nil
	}
	var mu sync.Mutex
	traces := make(map[string]*stages.Trace)
	count := &tally{counts: make(map[string]int)}
	r, err := router.Build(plan(t, standard, handler), router.Deps{
		Transport: l.transport, Rates: &fixedRates{}, Observer: count,
		Observe: func(string, string) router.FlowObserver { return count },
		Trace: func(e *event.Event) *stages.Trace {
			mu.Lock()
			defer mu.Unlock()
			traces[e.ID] = stages.NewTrace()
			return traces[e.ID]
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, nil) }()
	run := &running{t: t, line: l, count: count}
	run.put("1-0", feedback("a", "ok", 1))
	run.settled(1)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var got []string
	for _, s := range traces["1-0"].Steps {
		line := fmt.Sprintf("%d %s %v", s.Attempt, s.Stage, s.Passed)
		if s.Err != nil {
			line += fmt.Sprintf(" %v, %d notes", s.Err, len(s.Notes))
		}
		got = append(got, line)
	}
	want := []string{
		"1 validate true", "1 dedupe true", "1 handle false once, 1 notes",
		"2 validate true", "2 dedupe true", "2 handle false panic with a value of type string, 1 notes",
		"3 validate true", "3 dedupe true", "3 handle true",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
