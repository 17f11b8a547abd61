package router

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/stages"
)

// poisonReasonKey is where the poison queue puts an error's text.
const poisonReasonKey = middleware.ReasonForPoisonedKey

// poisonKeys are all that it sets.
var poisonKeys = [...]string{
	middleware.ReasonForPoisonedKey, middleware.PoisonedTopicKey, middleware.PoisonedHandlerKey,
	middleware.PoisonedSubscriberKey,
}

// closeGrace is how long a Watermill router is waited for after its subscriber has
// drained: only handlers that ignore their cancelled context are left by then.
const closeGrace = time.Second

// flow is one flow of a plan: a subscriber and the Watermill router it drives.
type flow struct {
	plan      FlowPlan
	clock     stages.Clock
	log       *slog.Logger
	watch     FlowObserver
	publisher message.Publisher
	trace     func(*event.Event) *stages.Trace // nil when nothing is traced

	sub     message.Subscriber
	opened  *opened
	router  *message.Router
	workers *workers
	done    chan struct{} // closed when the Watermill router has ended

	stopped context.Context // ended when the flow begins to stop
	stop    context.CancelFunc
	stages  []stages.Named
	counts  *counts
	lost    atomic.Int64 // of counts.lost, those of this flow
	started bool         // subscribed
	drained func() error
}

// counts are a flow's totals since the process started, reloads of the file included.
type counts struct {
	outcomes [stages.Outcomes]atomic.Int64
	lost     atomic.Int64 // events a drain left unhandled, with no one to deliver them again
}

func (c *counts) settled(o stages.Outcome) { c.outcomes[o].Add(1) }

func buildFlow(plan FlowPlan, deps Deps, buses transports) (f *flow, err error) {
	source, err := buses.of(plan.Bus)
	if err != nil {
		return nil, fmt.Errorf("flow %q: %w", plan.Name, err)
	}
	f = &flow{
		plan: plan, clock: deps.Clock, trace: deps.Trace, watch: deps.Observe(plan.Name, plan.Topic),
		publisher: source.Publisher(), done: make(chan struct{}), workers: newWorkers(), counts: new(counts),
		log: deps.Logger.With("flow", plan.Name, "stream", plan.Topic),
	}
	f.stopped, f.stop = context.WithCancel(context.Background())
	f.drained = sync.OnceValue(f.drainOnce)
	stop := f.stop
	defer func() {
		if err != nil {
			stop() // what was built may wait for it
		}
	}()
	own := stages.Deps{
		Flow: plan.Name, Stream: plan.Topic, Clock: deps.Clock, Rates: deps.Rates, Publisher: f.publisher,
		Observer: deps.Observer, Logger: f.log, Limiters: deps.Limiters, Stopping: f.stopped,
		MaxEventSize: plan.MaxEventSize, Announcements: deps.announcements[plan.Bus],
	}
	if f.stages, err = stages.Build(plan.Stages, own); err != nil {
		return nil, err
	}
	end := func(*message.Message) error { return nil }
	if plan.To.Key != "" {
		target, err := buses.of(plan.ToBus)
		if err != nil {
			return nil, fmt.Errorf("flow %q: to: %w", plan.Name, err)
		}
		last := own
		last.Publisher = target.Publisher()
		if end, err = stages.Forward(last, plan.To, plan.Format); err != nil {
			return nil, fmt.Errorf("flow %q: to: %w", plan.Name, err)
		}
	}
	poisonQueue, err := middleware.PoisonQueueWithFilter(deadLetters{f}, plan.DeadLetterKey, f.poison)
	if err != nil {
		return nil, fmt.Errorf("flow %q: poison queue: %w", plan.Name, err)
	}
	logger := watermillLogger{f.log}
	f.router, err = message.NewRouter(message.RouterConfig{CloseTimeout: closeGrace}, logger)
	if err != nil {
		return nil, fmt.Errorf("flow %q: router: %w", plan.Name, err)
	}
	source.RetainDeadLetters(plan.DeadLetterKey)
	for _, out := range plan.Targets() {
		target, err := buses.of(out.Bus)
		if err != nil {
			return nil, fmt.Errorf("flow %q: %w", plan.Name, err)
		}
		target.ExpectPublish(out.Key)
	}
	f.sub, err = source.Subscriber(plan.StreamKey, plan.Group, plan.Start, plan.Lanes)
	if err != nil {
		return nil, fmt.Errorf("flow %q: subscribe %s: %w", plan.Name, plan.StreamKey, err)
	}
	f.router.AddMiddleware(f.workers.middleware, f.observe, poisonQueue, markKind, f.retry, f.recoverPanics, f.refuseUndecodable)
	f.router.AddMiddleware(stages.Middlewares(f.stages)...)
	f.opened = &opened{Subscriber: f.sub}
	f.router.AddConsumerHandler(plan.Name, plan.StreamKey, f.opened, end)
	return f, nil
}

// markKind keeps the kind of a failure for the dead letter: the poison queue hands
// on its text only.
func markKind(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		out, err := next(msg)
		if err != nil {
			stages.From(msg.Context()).ErrorKind = stages.ErrorKind(err)
		}
		return out, err
	}
}

// opened is a subscriber that has subscribed before its router runs: a Watermill router
// whose subscriber fails never ends all of its goroutines.
type opened struct {
	message.Subscriber
	messages <-chan *message.Message
}

// Subscribe implements message.Subscriber.
func (o *opened) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return o.messages, nil
}

// String names the subscriber behind it, as Watermill does in a poisoned message.
func (o *opened) String() string { return strings.TrimLeft(fmt.Sprintf("%T", o.Subscriber), "*") }

// start subscribes and runs the Watermill router.
func (f *flow) start() error {
	var err error
	// Not a context that ends with the router: the subscriber drains first.
	if f.opened.messages, err = f.sub.Subscribe(context.Background(), f.plan.StreamKey); err != nil {
		return fmt.Errorf("flow %q: %w", f.plan.Name, err)
	}
	failed := make(chan error, 1)
	go func() {
		defer close(f.done)
		// Not the caller's context: the subscriber drains first, and a router whose
		// context ends cancels what is in flight.
		failed <- f.router.Run(context.Background())
	}()
	select {
	case <-f.router.Running():
		f.started = true
		return nil
	case err := <-failed:
		return fmt.Errorf("flow %q: %w", f.plan.Name, err)
	}
}

func (f *flow) stopping() bool { return f.stopped.Err() != nil }

// ended reports whether the flow has come to an end by itself, which it never
// should: its subscriber outlives every outage.
func (f *flow) ended() bool {
	select {
	case <-f.done:
		return !f.stopping()
	default:
		return false
	}
}

// drain stops the flow: no more reading, what is in flight is finished within the
// transport's drain timeout, acknowledgements are flushed. Called again, it waits for
// the first call.
func (f *flow) drain() error { return f.drained() }

func (f *flow) drainOnce() error {
	f.stop()
	err := f.sub.Close()
	f.countLost()
	// A handler that ignores the end of its context is left behind: its event is not
	// acknowledged, so there is nothing to report but that.
	if closeErr := f.router.Close(); closeErr != nil {
		f.log.Warn("flow stopped with handlers still running", "err", closeErr)
	}
	f.workers.close()
	return err
}

// countLost counts the events that were lost with the flow, of which there are none on
// a transport that delivers again.
func (f *flow) countLost() {
	if u, ok := f.sub.(unhandled); ok {
		n := int64(u.Unhandled())
		f.counts.lost.Add(n - f.lost.Swap(n))
	}
}

// discard closes a flow, whether it was ever run or not. A Watermill router that never
// ran has nothing to close, and would wait for handlers that never began.
func (f *flow) discard() error {
	if f.started {
		return f.drain()
	}
	f.stop()
	f.workers.close()
	return f.sub.Close()
}
