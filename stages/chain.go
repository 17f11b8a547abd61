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
		built = append(built, Named{Kind: p.Kind, Stage: stage})
	}
	return built, nil
}

// Named is a built stage with the name of its kind.
type Named struct {
	Kind  string
	Stage Stage
}

// Middlewares returns the stages as Watermill middleware, in order. Each keeps
// Delivery.Stage naming the stage at work, so that a failure can say where it
// happened.
func Middlewares(built []Named) []message.HandlerMiddleware {
	list := make([]message.HandlerMiddleware, len(built))
	for i, n := range built {
		list[i] = n.middleware
	}
	return list
}

func (n Named) middleware(next message.HandlerFunc) message.HandlerFunc {
	inner := n.Stage.Middleware(func(msg *message.Message) ([]*message.Message, error) {
		out, err := next(msg)
		if err == nil {
			// Back from the stages behind: what fails now fails here.
			From(msg.Context()).Stage = n.Kind
		}
		return out, err
	})
	return func(msg *message.Message) ([]*message.Message, error) {
		From(msg.Context()).Stage = n.Kind
		return inner(msg)
	}
}
