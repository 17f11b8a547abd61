package stages

import (
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
)

// What throttle does with an event for which there is no token.
const (
	overWait = "wait"
	overDrop = "drop"
)

// ThrottleConfig is the block of a throttle stage.
type ThrottleConfig struct {
	// Rate is in events a second, Burst in events.
	Rate  float64
	Burst float64
	// Key yields what has a rate of its own; "" is one rate for all.
	Key string
	// Keys is how many of them are remembered.
	Keys int
	// Over is wait or drop.
	Over string

	key *expression
}

func throttleKind() Kind {
	return Kind{
		Name:    "throttle",
		Summary: "Lets no more events on than a rate allows, for each key.",
		Doc: "Each key has a token bucket: `rate` events a second, and up to `burst` at once after a quiet time. With " +
			"`over: wait` an event waits for its token, and holds its lane meanwhile, so the stream backs up; with `drop` " +
			"it is acknowledged and counted with outcome `filtered`. The key is an expression; without one all events share " +
			"the rate. Rates are kept by this process: two processes of one group let twice as many on. A key that was " +
			"forgotten, being the one not seen for longest of more than `keys`, starts with a full burst.\n\n" +
			"An event that runs again takes a token again. When the flow stops, waiting ends and the event is delivered " +
			"again.\n\n" + expressionDoc,
		Example: "- throttle: {rate: 100, burst: 20, key: key}",
		New:     func() Config { return &ThrottleConfig{} },
	}
}

// Fields implements Config.
func (c *ThrottleConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.Float("rate", &c.Rate, "events a second for each key", flows.Required(), flows.Above(0), flows.Max(1e9),
			flows.Example("100")),
		flows.Float("burst", &c.Burst, "the most events at once after a quiet time", flows.Default("1"), flows.Min(1),
			flows.Max(1e9)),
		flows.Expression("key", &c.Key, "what has a rate of its own, a text; empty is one rate for all", flows.Default("")),
		flows.Int("keys", &c.Keys, "the number of keys remembered", flows.Default("10000"), flows.Min(1), flows.Max(10_000_000)),
		flows.Enum("over", &c.Over, []string{overWait, overDrop}, "whether an event over the rate waits or is dropped",
			flows.Default(overWait)),
	}
}

// Validate implements Config.
func (c *ThrottleConfig) Validate(s Scope, d *flows.Diagnostics) {
	if c.Key != "" {
		c.key = s.expression(d, "key", s.Node.Get("key"), c.Key, textResult)
	}
}

// Stops implements Stops.
func (c *ThrottleConfig) Stops() bool { return c.Over == overDrop }

// Build implements Config.
func (c *ThrottleConfig) Build(deps Deps) (Stage, error) {
	if c.Key != "" && c.key == nil {
		return nil, errNotValidated
	}
	if deps.Limiters == nil {
		return nil, errors.New("no limiters")
	}
	limiter, err := deps.Limiters(c.Rate, c.Burst, c.Keys, deps.Clock)
	if err != nil {
		return nil, err
	}
	return &throttle{config: *c, limiter: limiter, deps: deps, around: deps.surroundings()}, nil
}

type throttle struct {
	config  ThrottleConfig
	limiter Limiter
	deps    Deps
	around  surroundings
}

var _ Stage = (*throttle)(nil)

// Middleware implements Stage.
func (s *throttle) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d, key := From(msg.Context()), ""
		if s.config.key != nil {
			var err error
			if key, err = s.config.key.text(d, s.around); err != nil {
				return nil, err
			}
		}
		for {
			wait := s.limiter.Take(key)
			if d.Trace != nil {
				s.explain(d.Trace, key, wait)
			}
			if wait == 0 {
				return next(msg)
			}
			if s.config.Over == overDrop {
				d.Outcome = OutcomeFiltered
				return nil, nil
			}
			if err := s.deps.wait(d, wait); err != nil {
				return nil, err
			}
		}
	}
}

// explain says in the trace whether there was a token.
func (s *throttle) explain(t *Trace, key string, wait time.Duration) {
	whose := ""
	if s.config.key != nil {
		whose = fmt.Sprintf("key %q: ", cut(key))
	}
	switch {
	case wait == 0:
		t.Note("%sa token of %g/s", whose, s.config.Rate)
	case s.config.Over == overDrop:
		t.Note("%sdropped: no token of %g/s for another %s", whose, s.config.Rate, wait)
	default:
		t.Note("%swaits %s for a token of %g/s", whose, wait, s.config.Rate)
	}
}
