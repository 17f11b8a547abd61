package simulate

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/internal/virtual"
	"github.com/mjdevaccount/pulseflow/stages"
)

// pipeline is the flow: the stages of its plan, one event at a time, as in the
// lane of one key. It runs as a coroutine of the loop, so that a stage that
// sleeps on its clock gives way to it.
type pipeline struct {
	clock  *virtual.Clock
	handle message.HandlerFunc
	inbox  []entry
	busy   bool // with an event whose stage sleeps

	sleeper context.Context // of the stage that sleeps
	alarm   rate.Timer      // that wakes it

	resume func() (time.Duration, bool)
	stop   func()
	yield  func(time.Duration) bool

	published, refused int
	reason             error // of the first that was refused
}

// entry is an event on its way.
type entry struct {
	id   string
	data []byte
}

// idle is what the coroutine yields when there is nothing to do; any other
// duration is how long it sleeps.
const idle time.Duration = -1

func newPipeline(clock *virtual.Clock, flow Flow, rates stages.RateApplier) (*pipeline, error) {
	p := &pipeline{clock: clock}
	built, err := stages.Build(flow.Stages, stages.Deps{
		Flow: flow.Name, Clock: p, Rates: rates, Publisher: p, Observer: unobserved{},
		Logger: slog.New(slog.DiscardHandler), Limiters: adjust.NewLimiter, Stopping: context.Background(),
	})
	if err != nil {
		return nil, err
	}
	p.handle = func(*message.Message) ([]*message.Message, error) { return nil, nil }
	middlewares := stages.Middlewares(built)
	for i := len(middlewares) - 1; i >= 0; i-- {
		p.handle = middlewares[i](p.handle)
	}
	p.resume, p.stop = iter.Pull(p.run)
	return p, nil
}

// close ends the coroutine.
func (p *pipeline) close() { p.stop() }

// deliver hands an event to the flow. It returns when that is idle or asleep.
func (p *pipeline) deliver(e entry) {
	p.inbox = append(p.inbox, e)
	if !p.busy {
		p.goOn()
	}
}

func (p *pipeline) goOn() {
	d, ok := p.resume()
	if p.busy = ok && d != idle; p.busy {
		p.alarm = p.clock.AfterFunc(d, p.goOn)
	}
}

// run is the coroutine.
func (p *pipeline) run(yield func(time.Duration) bool) {
	p.yield = yield
	for {
		for len(p.inbox) > 0 {
			e := p.inbox[0]
			p.inbox = p.inbox[1:]
			p.take(e)
		}
		if !yield(idle) {
			return
		}
	}
}

// take passes one event through the stages. What would become a dead letter is
// counted.
func (p *pipeline) take(e entry) {
	decoded := event.Decoder{}.Decode(e.id, e.data)
	ctx := event.NewContext(context.Background(), decoded)
	d := &stages.Delivery{Context: ctx, Event: decoded, Attempts: 1}
	msg := message.NewMessage(e.id, e.data)
	msg.SetContext(d)
	err := decoded.Err
	if err == nil {
		_, err = p.handle(msg)
	}
	if err == nil {
		return
	}
	p.refused++
	if p.reason == nil {
		p.reason = fmt.Errorf("%s: %w", d.Stage, err)
	}
}

// Now implements stages.Clock.
func (p *pipeline) Now() time.Time { return p.clock.Now() }

// Sleep implements stages.Clock, for the goroutine that runs the stages.
func (p *pipeline) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 || ctx.Err() != nil {
		return virtual.Err(ctx)
	}
	p.sleeper = ctx
	if !p.yield(d) {
		return context.Canceled // the simulation has ended
	}
	return virtual.Err(ctx)
}

// WithTimeout implements stages.Deadliner: it wakes a stage that sleeps in the context.
func (p *pipeline) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return p.clock.WithTimeoutFunc(ctx, d, func() {
		if p.busy && p.sleeper.Err() != nil && p.alarm.Stop() {
			p.goOn()
		}
	})
}

// Publish implements message.Publisher: it counts.
func (p *pipeline) Publish(_ string, msgs ...*message.Message) error {
	p.published += len(msgs)
	return nil
}

// Close implements message.Publisher.
func (p *pipeline) Close() error { return nil }

// unobserved is the observer of a flow without metrics.
type unobserved struct{}

func (unobserved) ValidationFailed(string, string)  {}
func (unobserved) HashMismatched(string)            {}
func (unobserved) QueueDepth(int64)                 {}
func (unobserved) FeedbackProcessed(string, string) {}
func (unobserved) Published(string, string, string) {}
func (unobserved) RateStale(string)                 {}
