package stages

import (
	"context"
	"errors"
	"time"
)

// errNotValidated is a Config that was built without having been validated.
var errNotValidated = errors.New("the configuration was not validated")

func (deps Deps) surroundings() surroundings {
	return surroundings{clock: deps.Clock, stream: deps.Stream}
}

// wait holds the event of d for a while. It returns an error when its context ends
// first, or when the flow begins to stop: the event is then delivered again.
func (deps Deps) wait(d *Delivery, wait time.Duration) error {
	ctx := context.Context(d)
	if deps.Stopping != nil {
		merged, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		stop := context.AfterFunc(deps.Stopping, func() { cancel(context.Cause(deps.Stopping)) })
		defer stop()
		ctx = merged
	}
	return deps.Clock.Sleep(ctx, wait)
}
