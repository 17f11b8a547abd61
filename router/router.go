package router

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Deps is what Build needs beside the plan.
type Deps struct {
	// Transport carries the flows of the default bus.
	Transport Transport
	// Transports carry those of the other buses, by name; the default one may be among
	// them instead of in Transport.
	Transports map[string]Transport
	// Rates is the rate coordinator; nil in a file without providers.
	Rates stages.RateApplier
	// Limiters makes what throttle stages take their tokens from.
	Limiters stages.Limiters
	// Observer counts what stages do.
	Observer stages.Observer
	// Observe returns the observer of one flow; topic is its stream without
	// namespace.
	Observe func(flow, topic string) FlowObserver
	// Trace returns the trace of an event, nil for none; a nil function traces none.
	Trace func(*event.Event) *stages.Trace
	// Clock is the time flows live by; nil is the system's.
	Clock stages.Clock
	// Logger receives what operators should see; nil discards it.
	Logger *slog.Logger
}

// Router runs the flows of one plan.
type Router struct {
	plan       *Plan
	transports transports
	log        *slog.Logger
	flows      []*flow // those that run

	mu    sync.Mutex
	state state
}

type state uint8

const (
	stateBuilt state = iota
	stateStarting
	stateRunning
	stateStopping
	stateStopped
)

// Build makes the flows of plan. On an error it closes what it opened. It connects
// to nothing: a transport that is down is waited for by Run.
func Build(plan *Plan, deps Deps) (*Router, error) {
	if deps.Clock == nil {
		deps.Clock = stages.SystemClock{}
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Router{plan: plan, transports: deps.named(), log: deps.Logger}
	for _, p := range plan.Flows {
		if p.Disabled != "" {
			continue
		}
		f, err := buildFlow(p, deps, r.transports)
		if err != nil {
			for _, built := range r.flows {
				err = errors.Join(err, built.discard())
			}
			return nil, err
		}
		r.flows = append(r.flows, f)
	}
	return r, nil
}

// Run starts the flows, calls started when all have subscribed, and drains them
// when ctx ends. It returns nil after a drain in time; started may be nil. A Router
// runs once.
func (r *Router) Run(ctx context.Context, started func()) error {
	if !r.enter(stateBuilt, stateStarting) {
		return errors.New("router runs only once")
	}
	var err error
	for _, f := range r.flows {
		if err = f.start(); err != nil {
			break
		}
	}
	// Only now: before it has subscribed, a transport cannot tell that a flow does not
	// work yet.
	r.enter(stateStarting, stateRunning)
	if err == nil {
		if started != nil {
			started()
		}
		<-ctx.Done()
	}
	r.enter(stateRunning, stateStopping)
	err = errors.Join(err, r.drain())
	r.enter(stateStopping, stateStopped)
	return err
}

func (r *Router) drain() error {
	errs := make([]error, len(r.flows))
	var wg sync.WaitGroup
	for i, f := range r.flows {
		wg.Go(func() {
			lost, err := f.drain()
			f.lost.Store(int64(lost))
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (r *Router) enter(from, to state) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != from {
		return false
	}
	r.state = to
	return true
}
