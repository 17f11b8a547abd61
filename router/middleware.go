package router

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/stages"
)

// observe is the outermost middleware: it gives the message its Delivery, and
// counts its one outcome once it is settled. An event that is neither handled nor
// dead-lettered has no outcome yet: it will be delivered again.
func (f *flow) observe(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		ctx := msg.Context()
		e := event.FromContext(ctx)
		if e == nil {
			// A transport that does not decode is a programming error; the entry still
			// must not be lost.
			e = event.Decoder{}.Decode(msg.UUID, msg.Payload)
		}
		d := &stages.Delivery{Context: ctx, Event: e}
		if f.trace != nil {
			d.Trace = f.trace(e)
		}
		msg.SetContext(d)
		if e.Err == nil {
			f.watch.Lag(max(0, f.clock.Now().Sub(event.At(e.Time))))
		}
		out, err := next(msg)
		if err != nil {
			return nil, err
		}
		track := e.Track
		if e.Err != nil || track == "" {
			track = f.plan.Track
		}
		f.watch.Consumed(track, d.Outcome.String())
		f.counts.settled(d.Outcome)
		return out, nil
	}
}

// poison says which errors go to the dead letters. A permanent error is a verdict
// on the event, whatever else happens. Any other, while the flow is stopping, may
// be the stop's own doing: the event stays unacknowledged and is delivered again.
func (f *flow) poison(err error) bool {
	return stages.IsPermanent(err) || !f.stopping()
}

// retry runs the stages again after an error that is not permanent, up to the
// flow's limit, waiting longer each time. It waits on the flow's clock and gives
// up when the flow stops. The event holds its lane meanwhile.
//
// A failure that says the bus itself was unavailable does not count towards the
// limit: it is no fault of the event, and no dead letter could be written either.
func (f *flow) retry(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := stages.From(msg.Context())
		wait, outages := f.plan.Retry.Initial, 0
		for {
			d.Restart()
			out, err := next(msg)
			if err == nil {
				return out, nil
			}
			if busUnavailable(err) {
				outages++ // this run does not count
				if outages == f.plan.Retry.Max+1 {
					f.log.Warn("event waits for the bus, and its lane with it", "stage", d.Stage, "event_id", d.Event.ID, "err", err)
				}
			}
			if stages.IsPermanent(err) || f.stopping() || d.Attempts-outages > f.plan.Retry.Max {
				return nil, err
			}
			f.watch.Retried()
			f.log.Debug("retrying event", "stage", d.Stage, "event_id", d.Event.ID, "attempt", d.Attempts, "err", err)
			pause := jittered(wait, f.plan.Retry.Jitter)
			if d.Trace != nil {
				d.Trace.Note("tried again after %s", pause)
			}
			if f.clock.Sleep(f.stopped, pause) != nil {
				return nil, err
			}
			wait = min(time.Duration(float64(wait)*f.plan.Retry.Multiplier), f.plan.Retry.MaxInterval)
		}
	}
}

// busUnavailable reports whether err says that the bus could not do its work, as
// an error of a transport does with a method Unavailable.
func busUnavailable(err error) bool {
	var u interface{ Unavailable() bool }
	return errors.As(err, &u) && u.Unavailable()
}

// jittered spreads d by up to the given fraction either way.
func jittered(d time.Duration, fraction float64) time.Duration {
	return time.Duration(float64(d) * (1 + fraction*(2*rand.Float64()-1)))
}

// recoverPanics turns a panic in a stage into an error, so that it is retried and
// dead-lettered like any other. The stack goes to the log, not into the error.
func (f *flow) recoverPanics(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (out []*message.Message, err error) {
		defer func() {
			if v := recover(); v != nil {
				d := stages.From(msg.Context())
				p := &stages.PanicError{Value: v, Stack: debug.Stack()}
				f.log.Error("stage panicked", "stage", d.Stage, "event_id", d.Event.ID, "err", p,
					slog.String("stack", string(p.Stack)))
				if d.Trace != nil {
					d.Trace.Panicked(p)
				}
				out, err = nil, p
			}
		}()
		return next(msg)
	}
}

// stageDecode names the step before the stages in dead letters.
const stageDecode = "decode"

// refuseUndecodable ends the way of an entry that is no envelope.
func (f *flow) refuseUndecodable(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := stages.From(msg.Context())
		if d.Event.Err != nil {
			d.Stage = stageDecode
			return nil, stages.Permanent(fmt.Errorf("entry: %w", d.Event.Err))
		}
		return next(msg)
	}
}
