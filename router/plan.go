package router

import (
	"fmt"
	"slices"

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
	// Bus is the name of the bus it reads from, which its dead letters and what its
	// stages publish go to as well.
	Bus string
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
	// To is what the flow publishes to when the stages have passed, in the given format;
	// its Key is empty when there is none. ToBus is the name of the bus it is on.
	To     stages.Publication
	ToBus  string
	Format string
	// Publications are all the streams that the flow writes, dead letters excepted: those
	// of its stages, and To as the last.
	Publications []stages.Publication
	// MaxEventSize is the most bytes an event may have.
	MaxEventSize int
	// Disabled says why the flow does not run; "" when it does.
	Disabled string
}

// Target is a stream by the name of its bus and its key.
type Target struct{ Bus, Key string }

// Targets are the streams of Publications, in their order.
func (p *FlowPlan) Targets() []Target {
	list := make([]Target, 0, len(p.Publications))
	for _, out := range p.Publications {
		list = append(list, Target{p.Bus, out.Key})
	}
	if p.To.Key != "" {
		list[len(list)-1].Bus = p.ToBus
	}
	return list
}

// Buses are the names of the buses that the flow needs.
func (p *FlowPlan) Buses() []string {
	if p.ToBus == "" || p.ToBus == p.Bus {
		return []string{p.Bus}
	}
	return []string{p.Bus, p.ToBus}
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
	checkLoops(plan, &d)
	d.Sort()
	return plan, d
}

func planFlow(f *flows.File, flow *flows.Flow, reg *stages.Registry, providers []string, d *flows.Diagnostics) FlowPlan {
	source, target := f.BusNamed(flow.From.Bus), f.BusNamed(flow.To.Bus)
	if source == nil {
		source = &f.Bus // which has been reported
	}
	p := FlowPlan{
		Name: flow.Name, Bus: source.Name, Topic: flow.From.Stream, StreamKey: flow.From.Key,
		Group: flow.From.Group, Start: flow.From.Start, Lanes: flow.Lanes,
		DeadLetterTopic: flow.DeadLetter.Stream, DeadLetterKey: flow.DeadLetter.Key,
		Track: event.TrackV1, Retry: flow.Retry, MaxEventSize: int(source.MaxEventSize), Format: flow.To.Format,
	}
	p.Stages = reg.Resolve(flow.Stages, stages.Scope{
		Flow: flow.Name, SourceKey: p.StreamKey, Dir: f.Dir, Providers: providers, Key: source.StreamKey,
	}, d)
	needsProviders := false
	for _, s := range p.Stages {
		if t, ok := s.Config.(preferTrack); ok && t.PreferredTrack() != "" {
			p.Track = t.PreferredTrack()
		}
		if n, ok := s.Config.(stages.NeedsProviders); ok && n.NeedsProviders() {
			needsProviders = true
		}
		if out, ok := s.Config.(stages.Publishes); ok {
			p.Publications = append(p.Publications, out.Publications()...)
		}
	}
	if flow.To.Stream != "" && target != nil {
		p.ToBus = target.Name
		p.MaxEventSize = min(p.MaxEventSize, int(target.MaxEventSize))
		p.To = stages.Publication{Topic: flow.To.Stream, Key: flow.To.Key, Always: true}
		p.Publications = append(p.Publications, p.To)
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

// Equal reports whether a flow that runs by p need not be touched to run by q: all
// that the file says of it, with variables and defaults, and the content of the files
// it refers to.
func (p FlowPlan) Equal(q FlowPlan) bool {
	if p.Name != q.Name || p.Bus != q.Bus || p.ToBus != q.ToBus || p.Topic != q.Topic || p.StreamKey != q.StreamKey || p.Group != q.Group || p.Start != q.Start ||
		p.Lanes != q.Lanes || p.DeadLetterTopic != q.DeadLetterTopic || p.DeadLetterKey != q.DeadLetterKey ||
		p.Track != q.Track || p.Retry != q.Retry || p.To != q.To || p.Format != q.Format ||
		p.MaxEventSize != q.MaxEventSize || p.Disabled != q.Disabled || !slices.Equal(p.Publications, q.Publications) {
		return false
	}
	return slices.EqualFunc(p.Stages, q.Stages, func(a, b stages.Planned) bool {
		return a.Kind == b.Kind && a.Config.Fields().Same(b.Config.Fields()) && slices.Equal(filesOf(a), filesOf(b))
	})
}

// filesOf lists what a stage's configuration has read beside the flow file.
func filesOf(s stages.Planned) []stages.File {
	if r, ok := s.Config.(stages.ReadsFiles); ok {
		return r.Files()
	}
	return nil
}

// Files lists the files that the stages refer to, each once, as they were read first.
func (p *Plan) Files() []stages.File {
	var list []stages.File
	for _, f := range p.Flows {
		for _, s := range f.Stages {
			for _, file := range filesOf(s) {
				if !slices.ContainsFunc(list, func(f stages.File) bool { return f.Path == file.Path }) {
					list = append(list, file)
				}
			}
		}
	}
	return list
}
