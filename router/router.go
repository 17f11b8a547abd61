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

	announcements map[string]*stages.Announcements // by bus
}

// Router runs the flows of a plan, and of those that take its place.
type Router struct {
	deps       Deps
	transports transports
	log        *slog.Logger

	apply sync.Mutex // held by Apply: one after another
	swap  sync.Mutex // held while flows are started, and to begin the last drain

	mu    sync.Mutex
	state state
	plan  *Plan
	flows []*flow // those that run
	// After an Apply that failed: those it has ended, and those that have inherited from them
	// and never ran, or not for long. The next one's inherit from both.
	left, heirs []*flow
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
	deps.announcements = make(map[string]*stages.Announcements, len(r.transports))
	for name := range r.transports {
		deps.announcements[name] = new(stages.Announcements)
	}
	r.deps = deps
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
	err := startAll(r.flows)
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

func startAll(list []*flow) error {
	for _, f := range list {
		if err := f.start(); err != nil {
			return err
		}
	}
	return nil
}

// drain ends all flows. An Apply that has not started its own by now gives up.
func (r *Router) drain() error {
	r.swap.Lock()
	list := r.running()
	r.swap.Unlock()
	err := drainAll(list)
	r.apply.Lock() // it may have closed what it built in vain
	defer r.apply.Unlock()
	return err
}

func drainAll(list []*flow) error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, f := range list {
		wg.Go(func() { errs[i] = f.drain() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// running are the flows that run now.
func (r *Router) running() []*flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.flows
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
