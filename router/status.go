package router

import (
	"fmt"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// The states of a flow.
const (
	StateRunning  = "running"
	StateStarting = "starting"
	StateDegraded = "degraded"
	StateDisabled = "disabled"
	StateStopping = "stopping"
)

// FlowStatus tells what a flow is and how it fares.
type FlowStatus struct {
	Name       string   `json:"name"`
	Bus        string   `json:"bus"`
	State      string   `json:"state"`
	Reason     string   `json:"reason,omitempty"`
	Stream     string   `json:"stream"`
	StreamKey  string   `json:"stream_key"`
	Group      string   `json:"group"`
	Stages     []string `json:"stages"`
	To         string   `json:"to,omitempty"`
	ToBus      string   `json:"to_bus,omitempty"`
	DeadLetter string   `json:"dead_letter"`
	// Success, Duplicate, Filtered and Error count events settled since the start; Lost those
	// that a drain left unhandled on a bus that cannot deliver them again.
	Success   int64 `json:"success"`
	Duplicate int64 `json:"duplicate"`
	Filtered  int64 `json:"filtered"`
	Error     int64 `json:"error"`
	Lost      int64 `json:"lost"`
}

// Status lists the flows of the plan, in its order.
func (r *Router) Status() []FlowStatus {
	list, _ := r.Health()
	return list
}

// Health lists the flows of the plan, in its order, and by name what keeps each bus
// from being used: nil where nothing does. Buses are asked only while the flows run. A
// flow is degraded when a bus that it needs is.
func (r *Router) Health() (list []FlowStatus, buses map[string]error) {
	r.mu.Lock()
	state, plan, flows, left := r.state, r.plan, r.flows, r.left
	r.mu.Unlock()
	if state == stateRunning { // asking takes time when the answer does not come
		buses = r.transports.up()
	}
	totals := make(map[string]*counts, len(flows))
	for _, f := range left {
		totals[f.plan.Name] = f.counts
	}
	running := make(map[string]*flow, len(flows))
	for _, f := range flows {
		running[f.plan.Name], totals[f.plan.Name] = f, f.counts
	}
	list = make([]FlowStatus, 0, len(plan.Flows))
	for _, p := range plan.Flows {
		s := FlowStatus{
			Name: p.Name, Bus: p.Bus, State: StateRunning, Stream: p.Topic, StreamKey: p.StreamKey,
			Group: p.Group, To: p.To.Key, ToBus: p.ToBus, DeadLetter: p.DeadLetterKey,
		}
		for _, st := range p.Stages {
			s.Stages = append(s.Stages, st.Kind)
		}
		if total := totals[p.Name]; total != nil {
			s.Success = total.outcomes[stages.OutcomeSuccess].Load()
			s.Error = total.outcomes[stages.OutcomeError].Load()
			s.Duplicate = total.outcomes[stages.OutcomeDuplicate].Load()
			s.Filtered = total.outcomes[stages.OutcomeFiltered].Load()
			s.Lost = total.lost.Load()
		}
		f := running[p.Name]
		switch {
		case f == nil && p.Disabled == "":
			s.State, s.Reason = StateDegraded, "the flow could not be started again after a reload failed; load the file again, or restart the process"
		case f == nil:
			s.State, s.Reason = StateDisabled, p.Disabled
		case state >= stateStopping:
			s.State = StateStopping
		case state < stateRunning:
			s.State = StateStarting
		case f.ended():
			s.State, s.Reason = StateDegraded, "the flow has ended by itself; load the file again, or restart the process"
		default:
			s.degrade(&p, buses)
		}
		list = append(list, s)
	}
	return list, buses
}

// degrade tells which bus that the flow needs cannot be used.
func (s *FlowStatus) degrade(p *FlowPlan, buses map[string]error) {
	for _, name := range p.Buses() {
		err := buses[name]
		if err == nil {
			continue
		}
		s.State, s.Reason = StateDegraded, err.Error()
		if name != flows.DefaultBus {
			s.Reason = fmt.Sprintf("bus %q: %s", name, s.Reason)
		}
		return
	}
}
