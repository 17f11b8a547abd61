package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/stages"
)

// ErrNotRunning is returned by Apply of a Router that does not run, or no longer.
var ErrNotRunning = errors.New("the router is not running")

// BuildError is the error of an Apply whose plan cannot be built: nothing has changed.
type BuildError struct{ Err error }

func (e *BuildError) Error() string { return e.Err.Error() }
func (e *BuildError) Unwrap() error { return e.Err }

// RolledBackError is the error of an Apply that had ended flows, could not go on, and
// runs the plan from before again.
type RolledBackError struct{ Err error }

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("rolled back to the plan from before: %v", e.Err)
}

func (e *RolledBackError) Unwrap() error { return e.Err }

// Change is what Apply did, or would do, to each flow that runs or is to run, by name in
// the order of the file; those that were removed come in the order of the file before.
type Change struct {
	Added     []string `json:"added"`
	Changed   []string `json:"changed"`
	Removed   []string `json:"removed"`
	Unchanged []string `json:"unchanged"`
}

// Any reports whether any flow is not what it was.
func (c Change) Any() bool { return len(c.Added)+len(c.Changed)+len(c.Removed) > 0 }

// Compare tells what the flows of next change in those of before.
func Compare(before, next []FlowPlan) Change {
	c := Change{Added: []string{}, Changed: []string{}, Removed: []string{}, Unchanged: []string{}}
	for _, p := range next {
		old, ran := find(before, p.Name)
		ran = ran && old.Disabled == ""
		switch {
		case p.Disabled != "" && ran:
			c.Removed = append(c.Removed, p.Name)
		case p.Disabled != "":
		case !ran:
			c.Added = append(c.Added, p.Name)
		case p.Equal(old):
			c.Unchanged = append(c.Unchanged, p.Name)
		default:
			c.Changed = append(c.Changed, p.Name)
		}
	}
	for _, p := range before {
		if _, still := find(next, p.Name); !still && p.Disabled == "" {
			c.Removed = append(c.Removed, p.Name)
		}
	}
	return c
}

func find(list []FlowPlan, name string) (FlowPlan, bool) {
	i := slices.IndexFunc(list, func(f FlowPlan) bool { return f.Name == name })
	if i < 0 {
		return FlowPlan{}, false
	}
	return list[i], true
}

// Down lists the flows of the plan that should run and do not: those that could not be
// started again after an Apply failed, and those that have ended by themselves. The next
// Apply starts them.
func (r *Router) Down() []string {
	r.mu.Lock()
	state, plan, flows := r.state, r.plan, r.flows
	r.mu.Unlock()
	if state != stateRunning {
		return nil
	}
	working := plansOf(flows)
	var down []string
	for _, p := range plan.Flows {
		if _, works := find(working, p.Name); !works && p.Disabled == "" {
			down = append(down, p.Name)
		}
	}
	return down
}

// plansOf are the plans of the flows that work, in their order.
func plansOf(list []*flow) []FlowPlan {
	var plans []FlowPlan
	for _, f := range list {
		if !f.ended() {
			plans = append(plans, f.plan)
		}
	}
	return plans
}

// Apply makes the router run another plan. Flows that run and are Equal in both are not
// touched; one that should have run and did not (Down) is one more that is added.
// Of the others the new ones are built first, which is where most errors come to light;
// then the old ones are drained, between is called with the plan that is to run, and the
// new ones are started. One that takes the place of another on its stream and group is
// the same consumer, and what is queued for it is not lost; its stages inherit what those
// of the flow of its stream and group, or else of its name on that stream, know
// (stages.Heir).
//
// With an error the plan from before runs on. It is a BuildError when nothing was
// touched. When flows had been ended by then it is a
// RolledBackError: they were built anew, after between was called with that plan. Should
// even that fail, the flows that could not be started do not run, which Status tells;
// what they know is left for the next Apply.
// Applies are done one after another. When Run's context ends meanwhile, Apply gives up
// with ErrNotRunning.
func (r *Router) Apply(plan *Plan, between func(*Plan) error) (Change, error) {
	r.apply.Lock()
	defer r.apply.Unlock()
	r.mu.Lock()
	before, running, state := r.plan, r.flows, r.state
	r.mu.Unlock()
	if state != stateRunning {
		return Change{}, ErrNotRunning
	}
	change := Compare(plansOf(running), plan.Flows)
	s := swap{router: r, between: between, kept: pick(running, change.Unchanged), left: r.left, heirs: r.heirs}
	for _, f := range running {
		if !slices.Contains(s.kept, f) {
			s.old = append(s.old, f)
		}
	}
	next, err := s.build(plan, s.old)
	if err != nil {
		return change, &BuildError{err}
	}
	s.end(next)
	err = s.begin(plan, next)
	switch {
	case err == nil:
		return change, nil
	case errors.Is(err, ErrNotRunning):
		err = errors.Join(err, discardAll(next))
		for _, f := range s.old {
			f.countLost() // what was to be handed on
		}
		return change, err
	}
	r.log.Error("reload failed, going back to the plan from before", "err", err)
	return change, s.rollBack(before, next, err)
}

// pick returns the flows of the given names.
func pick(list []*flow, names []string) []*flow {
	var picked []*flow
	for _, f := range list {
		if slices.Contains(names, f.plan.Name) {
			picked = append(picked, f)
		}
	}
	return picked
}

// swap is one change of plans.
type swap struct {
	router  *Router
	between func(*Plan) error
	kept    []*flow // untouched
	left    []*flow // those that were ended by an Apply that failed
	old     []*flow // to be drained
	heirs   []*flow // those that have inherited from old, or from left, last
}

// build makes the flows of plan that are not kept, each to take the place of one of
// former where there is one.
func (s *swap) build(plan *Plan, former []*flow) ([]*flow, error) {
	var next []*flow
	for _, p := range plan.Flows {
		if p.Disabled != "" || slices.ContainsFunc(s.kept, func(f *flow) bool { return f.plan.Name == p.Name }) {
			continue
		}
		f, err := buildFlow(p, s.router.deps, s.router.transports)
		if err != nil {
			return nil, errors.Join(err, discardAll(next))
		}
		next = append(next, f)
	}
	for _, f := range next {
		if place := inPlaceOf(f, former); place != nil {
			if h, ok := f.sub.(successor); ok {
				h.Succeed(place.sub)
			}
		}
	}
	return next, nil
}

// inPlaceOf finds the flow that read what f reads.
func inPlaceOf(f *flow, former []*flow) *flow {
	if i := slices.IndexFunc(former, f.samePlace); i >= 0 {
		return former[i]
	}
	return nil
}

// sameStream reports whether two flows read one stream, and samePlace whether they do so
// in one group.
func (f *flow) sameStream(o *flow) bool {
	return o.plan.Bus == f.plan.Bus && o.plan.StreamKey == f.plan.StreamKey
}
func (f *flow) samePlace(o *flow) bool { return f.sameStream(o) && o.plan.Group == f.plan.Group }

// end drains the old flows. Where nobody is to read on, the transport is told before, so
// that those who publish meanwhile are not refused.
func (s *swap) end(next []*flow) {
	for _, f := range s.old {
		if slices.ContainsFunc(next, f.samePlace) {
			continue
		}
		if l, ok := f.sub.(leaver); ok {
			l.Leave()
		}
	}
	if err := drainAll(s.old); err != nil {
		s.router.log.Warn("flow not drained as it should be", "err", err)
	}
}

// begin starts the new flows, and makes plan the router's. On an error they are still
// to be discarded.
func (s *swap) begin(plan *Plan, next []*flow) error {
	r := s.router
	r.swap.Lock()
	defer r.swap.Unlock()
	r.mu.Lock()
	running := r.state == stateRunning
	r.mu.Unlock()
	if !running {
		return ErrNotRunning
	}
	if err := s.between(plan); err != nil {
		return err
	}
	// In their order: what the later ones know is newer.
	inherit(next, s.left, s.old, s.heirs)
	s.heirs = next
	if err := startAll(next); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan, r.flows, r.left, r.heirs = plan, inOrder(plan, slices.Concat(s.kept, next)), nil, nil
	return nil
}

// inOrder sorts flows as they stand in the plan.
func inOrder(plan *Plan, list []*flow) []*flow {
	at := func(f *flow) int {
		return slices.IndexFunc(plan.Flows, func(p FlowPlan) bool { return p.Name == f.plan.Name })
	}
	slices.SortFunc(list, func(a, b *flow) int { return at(a) - at(b) })
	return list
}

// rollBack runs the flows of before again that were ended for next, which failed with
// cause.
func (s *swap) rollBack(before *Plan, next []*flow, cause error) error {
	// Built before next is closed, so that what it was to take over is not given up.
	again, err := s.build(before, next)
	if closing := discardAll(next); closing != nil {
		s.router.log.Warn("flow not closed as it should be", "err", closing)
	}
	if err == nil {
		if err = s.begin(before, again); err == nil {
			return &RolledBackError{cause}
		}
		err = errors.Join(err, discardAll(again))
	}
	for _, f := range s.old {
		f.countLost() // what was to be handed on
	}
	r := s.router
	r.mu.Lock()
	r.flows, r.left, r.heirs = s.kept, slices.Concat(s.left, s.old), s.heirs
	r.mu.Unlock()
	return errors.Join(cause, fmt.Errorf("go back to the plan from before: %w", err))
}

// inherit makes flows that take the place of others know what those do: each what the one
// that read the same in the same group knows, or else, where no other flow has come to
// that place, the one of its name on the same stream. Of another stream's events it must
// not believe that it has seen them: ids are a stream's own. Where several generations of
// a flow have ended, it inherits from one after the other, the newest last.
func inherit(next []*flow, generations ...[]*flow) {
	former := slices.Concat(generations...)
	for _, f := range next {
		placed := slices.ContainsFunc(former, f.samePlace)
		for _, o := range former {
			named := o.plan.Name == f.plan.Name
			if named {
				f.counts = o.counts
			}
			moved := !placed && named && f.sameStream(o) && !slices.ContainsFunc(next, o.samePlace)
			if f.samePlace(o) || moved {
				stages.Inherit(f.stages, o.stages)
			}
		}
	}
}

// discardAll closes flows that were built and never run.
func discardAll(list []*flow) error {
	var errs []error
	for _, f := range list {
		errs = append(errs, f.discard())
	}
	return errors.Join(errs...)
}

// successor is implemented by subscribers that can take the place of another of their
// stream and group as the same consumer.
type successor interface {
	Succeed(former message.Subscriber)
}

// leaver is implemented by subscribers whose transport refuses what is published to a
// group that ends. After Leave it is not for the group any more.
type leaver interface{ Leave() }

// String is one line for people.
func (c Change) String() string {
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"added", c.Added}, {"changed", c.Changed}, {"removed", c.Removed}} {
		if len(p.names) > 0 {
			parts = append(parts, p.what+" "+strings.Join(p.names, ", "))
		}
	}
	if len(parts) == 0 {
		return "no flow changed"
	}
	return strings.Join(parts, "; ")
}
