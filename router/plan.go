package router

import (
	"fmt"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Plan is a flows file resolved against a registry: what Build needs, and all that
// `pulseflow check` looks at.
type Plan struct {
	File  *flows.File
	Flows []FlowPlan
}

// FlowPlan is one flow, resolved.
type FlowPlan struct {
	// Name is the flow's name in the file.
	Name string
	// Topic is the stream without namespace, StreamKey its full key, Group the
	// consumer group, Start where a new group begins: oldest or newest.
	Topic     string
	StreamKey string
	Group     string
	Start     string
	// Lanes is how many keys run side by side; 0 leaves it to the transport.
	Lanes int
	// DeadLetterTopic and DeadLetterKey name the stream of dead letters.
	DeadLetterTopic string
	DeadLetterKey   string
	// Track labels events whose own track cannot be read.
	Track string
	Retry flows.Retry
	// Stages are in the order of the file.
	Stages []stages.Planned
	// Disabled says why the flow does not run; "" when it does.
	Disabled string
}

// preferTrack is implemented by stage configs that prefer a schema track.
type preferTrack interface{ PreferredTrack() string }

// NewPlan resolves f against reg. The plan is usable only when the diagnostics
// have no errors. It opens no connection.
func NewPlan(f *flows.File, reg *stages.Registry) (*Plan, flows.Diagnostics) {
	var d flows.Diagnostics
	plan := &Plan{File: f}
	providers := make([]string, len(f.Providers))
	for i, p := range f.Providers {
		providers[i] = p.Name
	}
	for i := range f.Flows {
		plan.Flows = append(plan.Flows, planFlow(f, &f.Flows[i], reg, providers, &d))
	}
	if !d.HasErrors() {
		warnPolicies(plan, &d)
	}
	d.Sort()
	return plan, d
}

func planFlow(f *flows.File, flow *flows.Flow, reg *stages.Registry, providers []string, d *flows.Diagnostics) FlowPlan {
	p := FlowPlan{
		Name: flow.Name, Topic: flow.From.Stream, StreamKey: flow.From.Key,
		Group: flow.From.Group, Start: flow.From.Start, Lanes: flow.Lanes,
		DeadLetterTopic: flow.DeadLetter.Stream, DeadLetterKey: flow.DeadLetter.Key,
		Track: event.TrackV1, Retry: flow.Retry,
	}
	p.Stages = reg.Resolve(flow.Stages, stages.Scope{
		Flow: flow.Name, SourceKey: p.StreamKey, Dir: f.Dir, Providers: providers, Key: f.StreamKey,
	}, d)
	needsProviders := false
	for _, s := range p.Stages {
		if t, ok := s.Config.(preferTrack); ok && t.PreferredTrack() != "" {
			p.Track = t.PreferredTrack()
		}
		if n, ok := s.Config.(stages.NeedsProviders); ok && n.NeedsProviders() {
			needsProviders = true
		}
	}
	switch {
	case !f.Enabled:
		p.Disabled = "consumption is switched off: enabled is false in " + f.Path
	case !flow.Enabled:
		p.Disabled = fmt.Sprintf("flow %q is switched off: enabled is false at %s", flow.Name, flow.Pos)
	case needsProviders && len(providers) == 0:
		p.Disabled = fmt.Sprintf("flow %q adjusts rates, and the file declares no provider", flow.Name)
	}
	return p
}
