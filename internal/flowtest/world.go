package flowtest

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// world is a plan at work on virtual time: router, line, rate coordinator and
// metrics of its own.
type world struct {
	plan     *router.Plan
	schedule *schedule
	line     *line
	rates    *adjust.Applier // nil in a file without providers
	metrics  *catalogue
	inputs   map[*event.Event]*Input // by the events that came of them, in any flow
	given    map[*task]*Input        // by the deliveries of what was put

	cancel context.CancelFunc
	done   chan error
}

// newWorld starts the flows of plan. close ends them.
func newWorld(plan *router.Plan, failures []Failure, start time.Time) (*world, error) {
	w := &world{
		schedule: newSchedule(start), metrics: newCatalogue(), inputs: make(map[*event.Event]*Input),
		given: make(map[*task]*Input), done: make(chan error, 1),
	}
	w.plan = instrumented(plan, failures, w.inputs)
	w.line = newLine(w.schedule, w.plan)
	w.line.follows = func(t, cause *task) {
		if i := w.inputs[cause.event]; i != nil {
			w.inputs[t.event] = i
		}
	}
	watch, err := telemetry.New(w.metrics)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	w.rates, err = adjust.New(plan.File.Providers, slog.New(slog.DiscardHandler), adjust.WithClock(w.schedule.clock))
	if err != nil {
		return nil, fmt.Errorf("rate coordinator: %w", err)
	}
	deps := router.Deps{
		Transport: w.line, Clock: w.schedule, Observer: watch, Limiters: adjust.NewLimiter,
		Observe: func(flow, topic string) router.FlowObserver { return watch.Flow(flow, topic) },
		Trace:   func(*event.Event) *stages.Trace { return stages.NewTrace() },
	}
	if w.rates != nil {
		deps.Rates = tracedRates{w.rates}
		if err := telemetry.RegisterRates(w.metrics, w.rates.Gauges); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	r, err := router.Build(w.plan, deps)
	if err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	ready := make(chan struct{})
	go func() { w.done <- r.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
		return w, nil
	case err := <-w.done:
		w.cancel()
		return nil, err
	}
}

// close ends the flows. What still waits is let go without an outcome.
func (w *world) close() error {
	w.schedule.end()
	w.cancel()
	return <-w.done
}

// put puts an entry on a stream.
func (w *world) put(stream string, e entry, i *Input) {
	for _, t := range w.line.put(stream, e, nil) {
		w.inputs[t.event], w.given[t] = i, i
	}
}

// streamKey is the key of the stream of an input.
func (w *world) streamKey(topic, flow string) string {
	for _, p := range w.plan.Flows {
		if topic == "" && p.Name == flow || topic != "" && p.Topic == topic {
			return p.StreamKey
		}
	}
	return w.plan.File.StreamKey(topic, "")
}

// tracedRates notes in an event's trace what an adjustment does to the rate.
type tracedRates struct{ *adjust.Applier }

// Apply implements stages.RateApplier.
func (r tracedRates) Apply(ctx context.Context, a stages.Adjustment) (stages.RateState, error) {
	before := r.effective(a.Provider)
	state, err := r.Applier.Apply(ctx, a)
	if d := stages.From(ctx); err == nil && d != nil && d.Trace != nil {
		if after := r.effective(a.Provider); after != before {
			d.Trace.Note("effective rate of %s: %g → %g tokens/s", a.Provider, before, after)
		} else {
			d.Trace.Note("effective rate of %s stays at %g tokens/s", a.Provider, after)
		}
	}
	return state, err
}

func (r tracedRates) effective(provider string) float64 {
	for _, s := range r.Gauges() {
		if s.Provider == provider {
			return s.EffectiveRate
		}
	}
	return 0
}
