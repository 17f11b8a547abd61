package stages

import (
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Build makes the stages of a flow, in order.
func Build(planned []Planned, deps Deps) ([]Named, error) {
	built := make([]Named, 0, len(planned))
	for i, p := range planned {
		stage, err := p.Config.Build(deps)
		if err != nil {
			return nil, fmt.Errorf("flow %q: stage %d (%s): %w", deps.Flow, i+1, p.Kind, err)
		}
		built = append(built, Named{Kind: p.Kind, Stage: stage, Config: p.Config})
	}
	return built, nil
}

// Named is a built stage with the name of its kind.
type Named struct {
	Kind  string
	Stage Stage
	// Config is what it was built from; nil when that is not known.
	Config Config
}

// Middlewares returns the stages as Watermill middleware, in order. Each keeps
// Delivery.Stage naming the stage at work, so that a failure can say where it
// happened.
func Middlewares(built []Named) []message.HandlerMiddleware {
	list := make([]message.HandlerMiddleware, len(built))
	for i, n := range built {
		list[i] = func(next message.HandlerFunc) message.HandlerFunc { return n.middleware(i+1, next) }
	}
	return list
}

func (n Named) middleware(index int, next message.HandlerFunc) message.HandlerFunc {
	inner := n.Stage.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		if d.Trace != nil {
			return n.tracedNext(d, next, msg)
		}
		out, err := next(msg)
		if err == nil {
			// Back from the stages behind: what fails now fails here.
			d.Stage = n.Kind
		}
		return out, err
	})
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		d.Stage = n.Kind
		if d.Trace == nil {
			return inner(msg)
		}
		step := d.Trace.enter(n.Kind, index, d.Attempts)
		out, err := inner(msg)
		d.Trace.leave(step, err)
		return out, err
	}
}

// tracedNext calls what is behind the stage, and says so in the trace, also when that
// panics.
func (n Named) tracedNext(
	d *Delivery, next message.HandlerFunc, msg *message.Message,
) (out []*message.Message, err error) {
	step := d.Trace.pass()
	returned := false
	defer func() {
		if !returned {
			d.Trace.unwind(step)
		}
	}()
	out, err = next(msg)
	returned = true
	if err == nil {
		d.Stage = n.Kind
	}
	d.Trace.back(step, err)
	return out, err
}
