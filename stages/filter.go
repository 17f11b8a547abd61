package stages

import (
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
)

// What a stage does with an event that its expression fails for.
const (
	onErrorFail = "fail"
	onErrorKeep = "keep"
	onErrorDrop = "drop"
)

// FilterConfig is the block of a filter stage.
type FilterConfig struct {
	// When is the condition an event must meet to go on.
	When string
	// OnError is fail, keep or drop.
	OnError string

	when *expression
}

func filterKind() Kind {
	return Kind{
		Name:    "filter",
		Summary: "Lets only events on that meet a condition.",
		Doc: "An event for which `when` is false goes no further: it is acknowledged and counted with outcome `filtered`. " +
			"Where the condition cannot be evaluated (it compares a text with a number, say, or a member that is missing), " +
			"`on_error: fail` makes the event a dead letter at once, with the condition's place in the file; `keep` lets it " +
			"on, `drop` filters it.\n\n" + expressionDoc,
		Example: "- filter: {when: payload.queue_size > 0}",
		New:     func() Config { return &FilterConfig{} },
	}
}

// Fields implements Config.
func (c *FilterConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.Expression("when", &c.When, "the condition: true lets the event on", flows.Required(),
			flows.Example(`payload.level != "ok"`)),
		flows.Enum("on_error", &c.OnError, []string{onErrorFail, onErrorKeep, onErrorDrop},
			"what becomes of an event for which the condition cannot be evaluated", flows.Default(onErrorFail)),
	}
}

// Validate implements Config.
func (c *FilterConfig) Validate(s Scope, d *flows.Diagnostics) {
	c.when = s.expression(d, "when", s.Node.Get("when"), c.When, boolResult)
}

// Stops implements Stops.
func (c *FilterConfig) Stops() bool { return true }

// Build implements Config.
func (c *FilterConfig) Build(deps Deps) (Stage, error) {
	if c.when == nil {
		return nil, errNotValidated
	}
	return &filter{when: c.when, onError: c.OnError, around: deps.surroundings()}, nil
}

type filter struct {
	when    *expression
	onError string
	around  surroundings
}

var _ Stage = (*filter)(nil)

// Middleware implements Stage.
func (s *filter) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		on, err := s.when.bool(d, s.around)
		if err != nil {
			if s.onError == onErrorFail {
				return nil, err
			}
			on = s.onError == onErrorKeep
		}
		if d.Trace != nil {
			s.explain(d, on, err)
		}
		if !on {
			d.Outcome = OutcomeFiltered
			return nil, nil
		}
		return next(msg)
	}
}

// explain says in the trace what became of the event, and why.
func (s *filter) explain(d *Delivery, on bool, err error) {
	verdict := "filtered"
	if on {
		verdict = "goes on"
	}
	if err != nil {
		d.Trace.Note("%s, by on_error: %s: %v", verdict, s.onError, err)
		return
	}
	d.Trace.Note("%s: %s", verdict, s.when.remark(d, s.around, on))
}
