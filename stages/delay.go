package stages

import (
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// From when a delay counts.
const (
	sinceEvent   = "event"
	sinceArrival = "arrival"
)

// DelayConfig is the block of a delay stage.
type DelayConfig struct {
	// For is how long an event is held.
	For time.Duration
	// Since is event or arrival.
	Since string
}

func delayKind() Kind {
	return Kind{
		Name:    "delay",
		Summary: "Holds each event for a while.",
		Doc: "With `since: event` an event goes on once it is `for` old by its own time, or its envelope's; one that is " +
			"older goes on at once, so a backlog is not delayed again. With `since: arrival` each event is held for the full " +
			"time from when it came to the stage. No event is held for longer than `for`.\n\n" +
			"An event that is held keeps its lane, and its place among the events in flight: at `since: arrival` a flow " +
			"handles no more than `lanes` events in each `for`. When the flow stops, the event is delivered again.",
		Example: "- delay: {for: 250ms}",
		New:     func() Config { return &DelayConfig{} },
	}
}

// Fields implements Config.
func (c *DelayConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.Duration("for", &c.For, "how long an event is held", flows.Required(), flows.Above("0s"), flows.Example("250ms")),
		flows.Enum("since", &c.Since, []string{sinceEvent, sinceArrival}, "whether the time counts from when the event "+
			"happened, or from when it came to the stage", flows.Default(sinceEvent)),
	}
}

// Validate implements Config.
func (c *DelayConfig) Validate(Scope, *flows.Diagnostics) {}

// Build implements Config.
func (c *DelayConfig) Build(deps Deps) (Stage, error) { return &delay{config: *c, deps: deps}, nil }

type delay struct {
	config DelayConfig
	deps   Deps
}

var _ Stage = (*delay)(nil)

// Middleware implements Stage.
func (s *delay) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		wait := s.config.For
		if s.config.Since == sinceEvent {
			at, ok := d.Event.EventTime()
			if !ok {
				at = d.Event.Time
			}
			wait = min(wait, wait-s.deps.Clock.Now().Sub(event.At(at)))
		}
		if d.Trace != nil {
			if wait > 0 {
				d.Trace.Note("held for %s", wait)
			} else {
				d.Trace.Note("goes on at once: it is older than %s", s.config.For)
			}
		}
		if wait > 0 {
			if err := s.deps.wait(d, wait); err != nil {
				return nil, err
			}
		}
		return next(msg)
	}
}
