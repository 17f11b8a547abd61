package main

import (
	"fmt"
	"math"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// onTickConfig is the block of an on-tick stage.
type onTickConfig struct {
	// Member is the payload's member that holds the price, Size the tick.
	Member string
	Size   float64
}

func onTickKind() stages.Kind {
	return stages.Kind{
		Name:    "on-tick",
		Summary: "Refuses prices that are not a multiple of the tick size.",
		Doc:     "An event whose price lies between two ticks, or that has none, is a dead letter at once.",
		Example: "- on-tick: {member: price, size: 0.01}",
		New:     func() stages.Config { return &onTickConfig{} },
	}
}

// Fields implements stages.Config.
func (c *onTickConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.String("member", &c.Member, "the payload's member that holds the price", flows.Default("price")),
		flows.Float("size", &c.Size, "the tick size", flows.Required(), flows.Above(0), flows.Example("0.01")),
	}
}

// Validate implements stages.Config.
func (c *onTickConfig) Validate(stages.Scope, *flows.Diagnostics) {}

// Build implements stages.Config.
func (c *onTickConfig) Build(stages.Deps) (stages.Stage, error) { return onTick{*c}, nil }

type onTick struct{ config onTickConfig }

// Middleware implements stages.Stage.
func (s onTick) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		if err := s.check(stages.From(msg.Context())); err != nil {
			return nil, stages.PermanentKind(stages.KindSchema, err)
		}
		return next(msg)
	}
}

func (s onTick) check(d *stages.Delivery) error {
	payload, err := d.Event.Object([]string{s.config.Member})
	if err != nil {
		return err
	}
	var price float64
	switch v := payload[s.config.Member].(type) {
	case int:
		price = float64(v)
	case float64:
		price = v
	default:
		return fmt.Errorf("/%s: must be a number", s.config.Member)
	}
	ticks := price / s.config.Size
	if math.Abs(ticks-math.Round(ticks)) > 1e-6 {
		return fmt.Errorf("/%s: must be a multiple of %g", s.config.Member, s.config.Size)
	}
	return nil
}
