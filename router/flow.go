package router

import (
	"context"
	"fmt"
	"log/slog"
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
	router  *message.Router
	workers *workers
	done    chan struct{} // closed when the Watermill router has ended

	stopped context.Context // ended when the flow begins to stop
	stop    context.CancelFunc
	counts  counts
	lost    atomic.Int64 // events a drain left unhandled, with no one to deliver them again
}

// counts are a flow's totals since it started.
type counts struct{ outcomes [stages.Outcomes]atomic.Int64 }

func (c *counts) settled(o stages.Outcome) { c.outcomes[o].Add(1) }

func buildFlow(plan FlowPlan, deps Deps, buses transports) (*flow, error) {
	source, err := buses.of(plan.Bus)
	if err != nil {
		return nil, fmt.Errorf("flow %q: %w", plan.Name, err)
	}
	f := &flow{
		plan: plan, clock: deps.Clock, trace: deps.Trace, watch: deps.Observe(plan.Name, plan.Topic),
		publisher: source.Publisher(), done: make(chan struct{}), workers: newWorkers(),
		log: deps.Logger.With("flow", plan.Name, "stream", plan.Topic),
	}
	f.stopped, f.stop = context.WithCancel(context.Background())
	own := stages.Deps{
		Flow: plan.Name, Stream: plan.Topic, Clock: deps.Clock, Rates: deps.Rates, Publisher: f.publisher,
		Observer: deps.Observer, Logger: f.log, Limiters: deps.Limiters, Stopping: f.stopped,
		MaxEventSize: plan.MaxEventSize,
	}
	built, err := stages.Build(plan.Stages, own)
	if err != nil {
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
	f.router.AddMiddleware(stages.Middlewares(built)...)
	f.router.AddConsumerHandler(plan.Name, plan.StreamKey, f.sub, end)
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

// start runs the Watermill router and returns once it has subscribed.
func (f *flow) start() error {
	failed := make(chan error, 1)
	go func() {
		defer close(f.done)
		// Not the caller's context: the subscriber drains first, and a router whose
		// context ends cancels what is in flight.
		failed <- f.router.Run(context.Background())
	}()
	select {
	case <-f.router.Running():
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
// transport's drain timeout, acknowledgements are flushed. It returns how many
// events were lost with it, which is zero on a transport that delivers again.
func (f *flow) drain() (lost int, err error) {
	f.stop()
	err = f.sub.Close()
	if u, ok := f.sub.(unhandled); ok {
		lost = u.Unhandled()
	}
	// A handler that ignores the end of its context is left behind: its event is not
	// acknowledged, so there is nothing to report but that.
	if closeErr := f.router.Close(); closeErr != nil {
		f.log.Warn("flow stopped with handlers still running", "err", closeErr)
	}
	f.workers.close()
	return lost, err
}

// discard closes a flow that was built and never run.
func (f *flow) discard() error {
	f.stop()
	f.workers.close()
	return f.sub.Close()
}
