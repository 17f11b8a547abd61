package flowtest

import (
	"context"
	"errors"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// injection is a failure at work in a run of a test.
type injection struct {
	Failure
	left   int // runs that still fail
	events map[*event.Event]*Input
}

// due reports whether the stage fails for e now, and counts it.
func (i *injection) due(e *event.Event, when string) bool {
	if i.When != when {
		return false
	}
	if input := i.events[e]; i.Event != "" && (input == nil || input.Name != i.Event) {
		return false
	}
	if i.Times == 0 {
		return true
	}
	if i.left == 0 {
		return false
	}
	i.left--
	return true
}

// fail takes its time, and then is what the stage returns, or panics with.
func (i *injection) fail(ctx context.Context, clock stages.Clock) error {
	if err := clock.Sleep(ctx, i.Delay); err != nil {
		return err
	}
	err := errors.New(i.Error)
	switch i.Kind {
	case failNone:
		return nil
	case failPanic:
		panic(i.Error)
	case failPermanent:
		return stages.Permanent(err)
	default:
		return err
	}
}

// instrumented is a plan as a test runs it: with the failures in its stages, and
// without jitter, so that every wait is what the file says.
func instrumented(plan *router.Plan, failures []Failure, events map[*event.Event]*Input) *router.Plan {
	p := *plan
	p.Flows = slices.Clone(plan.Flows)
	for f := range p.Flows {
		flow := &p.Flows[f]
		flow.Retry.Jitter = 0
		flow.Stages = slices.Clone(flow.Stages)
		for _, failure := range failures {
			at := slices.IndexFunc(flow.Stages, func(s stages.Planned) bool { return s.Kind == failure.Stage })
			if failure.Flow != flow.Name || at < 0 {
				continue
			}
			flow.Stages[at].Config = failingConfig{
				Config: flow.Stages[at].Config, injection: &injection{Failure: failure, left: failure.Times, events: events},
			}
		}
	}
	return &p
}

// failingConfig builds a stage that fails.
type failingConfig struct {
	stages.Config
	injection *injection
}

// Build implements stages.Config.
func (c failingConfig) Build(deps stages.Deps) (stages.Stage, error) {
	inner, err := c.Config.Build(deps)
	if err != nil {
		return nil, err
	}
	return failing{inner, c.injection, deps.Clock}, nil
}

// failing is a stage with a failure in it.
type failing struct {
	inner     stages.Stage
	injection *injection
	clock     stages.Clock
}

// Middleware implements stages.Stage.
func (s failing) Middleware(next message.HandlerFunc) message.HandlerFunc {
	inner := s.inner.Middleware(next)
	return func(msg *message.Message) ([]*message.Message, error) {
		d := stages.From(msg.Context())
		if s.injection.due(d.Received(), failBefore) {
			if err := s.injection.fail(d, s.clock); err != nil {
				return nil, err
			}
		}
		out, err := inner(msg)
		if err == nil && s.injection.due(d.Received(), failAfter) {
			err = s.injection.fail(d, s.clock)
		}
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}
