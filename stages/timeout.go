package stages

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
)

// TimeoutConfig is the block of a timeout stage.
type TimeoutConfig struct {
	// After is how long the stages behind may take.
	After time.Duration
}

func timeoutKind() Kind {
	return Kind{
		Name:    "timeout",
		Summary: "Bounds the time that the stages behind it may take.",
		Doc: "When the time is over, the context of the event ends, and what waits by it gives up: `throttle`, `delay`, a " +
			"handler that heeds its context. The failure counts as one of the event's attempts and is retried; " +
			"as a dead letter its `error_kind` is `timeout`. Code that does not look at its context cannot be interrupted, " +
			"and what succeeds although late counts as a success.",
		Example: "- timeout: {after: 2s}",
		New:     func() Config { return &TimeoutConfig{} },
	}
}

// Fields implements Config.
func (c *TimeoutConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.Duration("after", &c.After, "how long the stages behind may take, in each attempt", flows.Required(),
			flows.Above("0s"), flows.Example("2s")),
	}
}

// Validate implements Config.
func (c *TimeoutConfig) Validate(Scope, *flows.Diagnostics) {}

// Build implements Config.
func (c *TimeoutConfig) Build(deps Deps) (Stage, error) {
	return &timeout{after: c.After, clock: deps.Clock}, nil
}

type timeout struct {
	after time.Duration
	clock Clock
}

var _ Stage = (*timeout)(nil)

// timeoutError is the failure of stages that took too long. It hides that a transport
// gave up: that would be taken for an outage, which is tried for ever.
type timeoutError struct {
	after time.Duration
	text  string
}

func (e *timeoutError) Error() string { return fmt.Sprintf("timed out after %s: %s", e.after, e.text) }
func (e *timeoutError) Kind() string  { return KindTimeout }
func (e *timeoutError) Unwrap() error { return context.DeadlineExceeded }

// Middleware implements Stage.
func (s *timeout) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		outer := d.Context
		ctx, cancel := withTimeout(outer, s.clock, s.after)
		d.Context = ctx
		defer func() {
			cancel()
			d.Context = outer
		}()
		if d.Trace != nil {
			d.Trace.Note("the stages behind may take %s", s.after)
		}
		out, err := next(msg)
		if err != nil && !IsPermanent(err) && outer.Err() == nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			if d.Trace != nil {
				d.Trace.Note("the stages behind were not done after %s", s.after)
			}
			return nil, &timeoutError{s.after, err.Error()}
		}
		return out, err
	}
}
