package flowtest

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Result is what a run of a test showed.
type Result struct {
	Suite *Suite
	Test  *Test
	// Err says why the test could not be run to its end; nil when it was.
	Err error
	// Differences are what was not as expected.
	Differences []Difference
	// Elapsed is the virtual time until the last event was settled, Took the real time.
	Elapsed, Took time.Duration
	// Events are the deliveries, in the order in which they were put on the streams.
	Events []Happening

	world *world
	rates map[string]rate
}

// rate is the state of a provider at the end.
type rate struct {
	scale, effective float64
	level            string
}

// Passed reports whether everything was as expected.
func (r *Result) Passed() bool { return r.Err == nil && len(r.Differences) == 0 }

// Happening is what became of one event in one flow.
type Happening struct {
	// At is when it was put on the stream, counted from the start.
	At   time.Duration
	Flow string
	ID   string
	// Outcome is success, duplicate or error; empty when the event was not settled.
	Outcome string
	Steps   []stages.Step
}

// Options say how tests are run.
type Options struct {
	// Run restricts the tests to those whose name it matches; nil is all.
	Run *regexp.Regexp
	// Limit bounds a test in real time.
	Limit time.Duration
	// Parallel is how many tests run side by side; 0 is one for each CPU.
	Parallel int
}

// Run runs the tests of the suites and returns a result for each, in their order. A
// test that ctx cut short has its error.
func Run(ctx context.Context, suites []*Suite, o Options) []*Result {
	var results []*Result
	for _, s := range suites {
		for _, t := range s.Tests {
			if o.Run == nil || o.Run.MatchString(t.Name) {
				results = append(results, &Result{Suite: s, Test: t})
			}
		}
	}
	work := make(chan *Result)
	var workers sync.WaitGroup
	for range cmp.Or(o.Parallel, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for r := range work {
				r.run(ctx, o.Limit)
			}
		})
	}
	for _, r := range results {
		work <- r
	}
	close(work)
	workers.Wait()
	return results
}

func (r *Result) run(ctx context.Context, limit time.Duration) {
	begun := time.Now()
	defer func() { r.Took = time.Since(begun) }()
	plan, d := r.Suite.plan(r.Test)
	if r.Err = d.Err(); r.Err != nil {
		return
	}
	if r.Err = r.play(ctx, plan, limit); r.Err != nil {
		return
	}
	r.Differences, r.Err = r.compare()
}

// play runs the events of the test and keeps what happened.
func (r *Result) play(ctx context.Context, plan *router.Plan, limit time.Duration) error {
	t := r.Test
	var all []timed
	for i := range t.Events {
		list, err := t.Events[i].entries(t.start)
		if err != nil {
			return fmt.Errorf("event %d: %w", i+1, err)
		}
		all = append(all, list...)
	}
	slices.SortStableFunc(all, func(a, b timed) int { return a.at.Compare(b.at) })
	w, err := newWorld(plan, t.Fail, t.start)
	if err != nil {
		return err
	}
	r.world = w
	inputs := make([]input, len(all))
	for i, e := range all {
		inputs[i] = input{at: e.at, do: func() error {
			w.put(w.streamKey(e.input.Stream, t.Flow), e.entry, e.input)
			return nil
		}}
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err = w.schedule.play(ctx, inputs, t.start.Add(t.Until))
	r.observe()
	if closeErr := w.close(); err == nil && closeErr != nil {
		err = fmt.Errorf("end the flows: %w", closeErr)
	}
	return err
}

// observe keeps the state at the end.
func (r *Result) observe() {
	w := r.world
	r.Elapsed = w.schedule.last.Sub(w.schedule.start)
	for _, task := range w.line.tasks {
		h := Happening{At: task.at.Sub(w.schedule.start), Flow: task.reader.flow, ID: task.event.ID}
		if task.settled {
			h.Outcome, h.Steps = task.result.Outcome.String(), task.result.Trace.Steps
		}
		r.Events = append(r.Events, h)
	}
	if w.rates == nil {
		return
	}
	r.rates = make(map[string]rate)
	for _, s := range w.rates.Status() {
		r.rates[s.Provider] = rate{scale: s.Scale, effective: s.EffectiveRate, level: s.Level}
	}
}
