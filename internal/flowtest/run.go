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
	// Elapsed is the virtual time until the last event was settled. The test began at
	// Began and took Took in real time.
	Elapsed, Took time.Duration
	Began         time.Time
	// Events are the deliveries, in the order in which they were put on the streams.
	Events []Happening

	world   *world
	reasons map[*task]string // of the dead letters
	checks  []*moment        // one for each of the test's checks
	end     *moment
}

// Passed reports whether everything was as expected.
func (r *Result) Passed() bool { return r.Err == nil && len(r.Differences) == 0 }

// Span is the real time from the begin of the first test to the end of the last one.
// Since tests run side by side it may be less than the sum of theirs.
func Span(results []*Result) time.Duration {
	if len(results) == 0 {
		return 0
	}
	first := slices.MinFunc(results, func(a, b *Result) int { return a.Began.Compare(b.Began) }).Began
	var span time.Duration
	for _, r := range results {
		span = max(span, r.Began.Sub(first)+r.Took)
	}
	return span
}

// Happening is what became of one event in one flow.
type Happening struct {
	// At is when it was put on the stream, counted from the start.
	At   time.Duration
	Flow string
	ID   string
	// Outcome is success, duplicate, filtered or error; empty when the event was not
	// settled.
	Outcome string
	// Expected is the outcome that the test expects of it; empty when it does not say.
	Expected string
	// Reason is why it became a dead letter, with the stage; else empty.
	Reason string
	Steps  []ExplainedStep
}

// Telling are the events to look at first to see why the test failed, at most limit of
// them: those that ended otherwise than expected, or else those that failed, or else
// all. left is how many others there are.
func (r *Result) Telling(limit int) (list []Happening, left int) {
	for _, choose := range []func(Happening) bool{
		func(h Happening) bool { return h.Expected != "" && h.Expected != h.Outcome },
		func(h Happening) bool {
			return h.Outcome == "" || h.Expected == "" && h.Outcome == stages.OutcomeError.String()
		},
		func(Happening) bool { return true },
	} {
		for _, h := range r.Events {
			if choose(h) && len(list) < limit {
				list = append(list, h)
			}
		}
		if len(list) > 0 {
			break
		}
	}
	return list, len(r.Events) - len(list)
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
	r.Began = time.Now()
	defer func() { r.Took = time.Since(r.Began) }()
	plan, d, _ := r.Suite.plan(r.Test)
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
	w, err := newWorld(plan, t.Fail, t.start)
	if err != nil {
		return err
	}
	r.world = w
	var inputs []input
	for _, e := range all {
		inputs = append(inputs, input{at: e.at, do: func() error {
			w.put(w.streamKey(e.input.Stream, t.Flow), e.entry, e.input)
			return nil
		}})
	}
	r.checks = make([]*moment, len(t.Checks))
	for i, c := range t.Checks {
		inputs = append(inputs, input{at: t.start.Add(c.At), do: func() (err error) {
			r.checks[i], err = w.moment(t.Flow, &c.Expectation)
			return err
		}})
	}
	slices.SortStableFunc(inputs, func(a, b input) int { return a.at.Compare(b.at) }) // checks behind events
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err = w.schedule.play(ctx, inputs, t.start.Add(t.Until))
	r.Elapsed = w.schedule.last.Sub(w.schedule.start)
	if err == nil {
		r.end, err = w.moment(t.Flow, &t.Expect)
	}
	r.observe()
	if closeErr := w.close(); err == nil && closeErr != nil {
		err = fmt.Errorf("end the flows: %w", closeErr)
	}
	return err
}

// observe keeps what became of each event.
func (r *Result) observe() {
	w := r.world
	r.reasons = make(map[*task]string)
	for _, p := range w.line.published {
		if p.cause != nil && p.meta[router.FieldFlow] != "" {
			r.reasons[p.cause] = p.meta[router.FieldStage] + ": " + p.meta[router.FieldReason]
		}
	}
	for _, task := range w.line.tasks {
		h := Happening{
			At: task.at.Sub(w.schedule.start), Flow: task.reader.flow, ID: task.event.ID, Reason: r.reasons[task],
		}
		if task.settled {
			h.Outcome, h.Steps = task.result.Outcome.String(), explained(task.result.Trace)
		}
		if i := w.given[task]; i != nil && h.Flow == r.readerOf(i) {
			h.Expected = i.Outcome
		}
		r.Events = append(r.Events, h)
	}
}
