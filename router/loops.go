package router

import (
	"strings"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// CodeFlowLoop is the code of the warning that flows publish in a circle, which only
// a condition of theirs ends.
const CodeFlowLoop = "flow-loop"

// checkLoops reports the circles of flows that read what the one before publishes. An
// event that nothing stops would run in one for ever, which is an error; where a
// stage may stop it, it is a warning. Dead letters do not count: a flow that reads
// them to try again is no circle of events that succeed.
func checkLoops(plan *Plan, d *flows.Diagnostics) {
	c := circles{plan: plan, diags: d, state: make([]uint8, len(plan.Flows))}
	places := make(map[string]string)
	for _, b := range plan.File.UsedBuses() {
		places[b.Name] = b.Place()
	}
	for i := range plan.Flows {
		p := &plan.Flows[i]
		c.reads = append(c.reads, Target{places[p.Bus], p.StreamKey})
		writes := p.Targets()
		for j := range writes {
			writes[j].Bus = places[writes[j].Bus]
		}
		c.writes = append(c.writes, writes)
	}
	for i := range plan.Flows {
		c.visit(i)
	}
}

// circles walks the flows depth first.
type circles struct {
	plan   *Plan
	diags  *flows.Diagnostics
	reads  []Target   // by flow; for the bus its place, which two of them may share
	writes [][]Target // by flow, in the order of its publications
	state  []uint8    // 0 not seen, 1 on the path, 2 done
	path   []step
}

// step is a flow and what it publishes on the way to the next.
type step struct {
	flow int
	out  stages.Publication
}

func (c *circles) visit(i int) {
	if c.state[i] == 2 || !c.counts(i) {
		return
	}
	c.state[i] = 1
	for k, out := range c.plan.Flows[i].Publications {
		if c.writes[i][k] == c.reads[i] {
			continue // its own diagnostic
		}
		for j := range c.plan.Flows {
			if c.reads[j] != c.writes[i][k] || !c.counts(j) {
				continue
			}
			c.path = append(c.path, step{i, out})
			if c.state[j] == 1 {
				c.report(j)
			} else {
				c.visit(j)
			}
			c.path = c.path[:len(c.path)-1]
		}
	}
	c.state[i] = 2
}

// counts reports whether a flow can be part of a circle: one that runs, and of which it
// is known what it reads.
func (c *circles) counts(i int) bool {
	f := &c.plan.File.Flows[i]
	return f.Enabled && !f.Vague()
}

// report tells of the circle that ends at the flow first, which is on the path.
func (c *circles) report(first int) {
	start := 0
	for c.path[start].flow != first {
		start++
	}
	var way strings.Builder
	ends := false
	for _, s := range c.path[start:] {
		p := c.plan.Flows[s.flow]
		way.WriteString(p.Name + " -> " + s.out.Topic + " -> ")
		ends = ends || !s.out.Always || p.stops()
	}
	way.WriteString(c.plan.Flows[first].Name)
	pos := c.plan.File.Flows[first].Pos
	if ends {
		c.diags.Warnf(pos, CodeFlowLoop,
			"flows publish in a circle: %s: an event runs in it until a stage stops it: allow it here if that is meant", &way)
		return
	}
	c.diags.Beyondf(pos, flows.LimitReference,
		"flows publish in a circle: %s: each event would run in it for ever: let one of them publish elsewhere", &way)
}

// stops reports whether a stage of the flow may end an event's way.
func (p FlowPlan) stops() bool {
	for _, s := range p.Stages {
		if st, ok := s.Config.(stages.Stops); ok && st.Stops() {
			return true
		}
	}
	return false
}
