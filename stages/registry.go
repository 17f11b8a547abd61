package stages

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mjdevaccount/pulseflow/flows"
)

// Registry is the set of stage kinds and handlers a program offers. The zero
// value is empty; it is not safe for concurrent change.
type Registry struct {
	kinds    map[string]Kind
	handlers map[string]Handler
}

// Handler is the work of a handle stage: it reads d.Event, may set d.Adjustment,
// and returns a Permanent error for what no retry can mend.
type Handler func(ctx context.Context, d *Delivery, c HandleConfig, deps Deps) error

// Builtin returns a new Registry of the stages that ship with Pulseflow.
func Builtin() *Registry {
	r := &Registry{}
	r.mustAdd(validateKind())
	r.mustAdd(dedupeKind())
	r.mustAdd(r.handleKind())
	r.mustAdd(rateApplyKind())
	r.mustAdd(filterKind())
	r.mustAdd(mapKind())
	r.mustAdd(routeKind())
	r.mustAdd(tapKind())
	r.mustAdd(throttleKind())
	r.mustAdd(delayKind())
	r.mustAdd(timeoutKind())
	r.handlers = map[string]Handler{"feedback": handleFeedback}
	return r
}

// Add offers another kind. A name that is taken, or a kind without name, summary,
// example or constructor, is an error.
func (r *Registry) Add(k Kind) error {
	switch {
	case k.Name == "" || k.Summary == "" || k.Example == "" || k.New == nil:
		return fmt.Errorf("stage kind %q: name, summary, example and constructor are required", k.Name)
	case r.has(k.Name):
		return fmt.Errorf("stage kind %q is registered already", k.Name)
	}
	if r.kinds == nil {
		r.kinds = make(map[string]Kind)
	}
	r.kinds[k.Name] = k
	return nil
}

// AddHandler offers another handler to handle stages. A name that is taken is an
// error.
func (r *Registry) AddHandler(name string, h Handler) error {
	if _, taken := r.handlers[name]; taken || name == "" || h == nil {
		return fmt.Errorf("handler %q is empty or registered already", name)
	}
	if r.handlers == nil {
		r.handlers = make(map[string]Handler)
	}
	r.handlers[name] = h
	return nil
}

// Kinds lists the kinds, by name.
func (r *Registry) Kinds() []Kind {
	kinds := slices.Collect(maps.Values(r.kinds))
	slices.SortFunc(kinds, func(a, b Kind) int { return strings.Compare(a.Name, b.Name) })
	return kinds
}

// Planned is one stage of a flow, decoded and validated.
type Planned struct {
	Kind   string
	Config Config
	// Scope is where the stage stands, with which its Config was validated.
	Scope Scope
}

// Resolve decodes and validates the stages of a flow, reporting every problem to
// d. scope is completed with each stage's own node and position. What it returns
// is meaningful only when d has no errors.
func (r *Registry) Resolve(specs []flows.StageSpec, scope Scope, d *flows.Diagnostics) []Planned {
	planned := make([]Planned, 0, len(specs))
	for _, spec := range specs {
		s := scope
		s.Index, s.Stage, s.Node, s.Pos = spec.Index, spec.Kind, spec.Config, spec.Pos
		kind, ok := r.kinds[spec.Kind]
		if !ok {
			names := slices.Sorted(maps.Keys(r.kinds))
			var limit flows.Limit
			if len(spec.Config.Variables()) > 0 {
				limit = flows.LimitVariable
			}
			d.Beyondf(spec.Pos, limit, "flow %q: stage %d: %s", scope.Flow, spec.Index, unknown("stage", spec.Kind, names))
			// What is wrong with its keys, and with the stages behind it, is to be told in the same
			// run.
			if kind, ok = r.kinds[flows.Nearest(spec.Kind, names)]; !ok {
				continue
			}
		}
		cfg := kind.New()
		fields := cfg.Fields()
		var own, more flows.Diagnostics
		fields.Decode(spec.Config, s.Where(), &own)
		cfg.Validate(s, &more)
		if own.HasErrors() {
			more = s.independent(more, fields)
		}
		*d = append(append(*d, own...), more...)
		scope.Before = append(scope.Before, kind.Name)
		planned = append(planned, Planned{Kind: kind.Name, Config: cfg, Scope: s})
	}
	return planned
}

// independent keeps of what Validate reported that which is not due to the keys that are
// wrong or missing.
func (s Scope) independent(d flows.Diagnostics, fields flows.Fields) flows.Diagnostics {
	faulty := fields.Faulty()
	return slices.DeleteFunc(d, func(x flows.Diagnostic) bool {
		return x.Beyond == flows.LimitNeighbour || slices.ContainsFunc(faulty, func(key string) bool {
			f, _ := fields.Lookup(key)
			byName := f.Kind == flows.KindExpressions || f.Kind == flows.KindTexts // of which others may be right
			return x.Pos == s.Node.Get(key).Pos() || !byName && strings.HasPrefix(x.Message, s.Where()+": "+key+": ")
		})
	})
}

func (r *Registry) has(name string) bool {
	_, ok := r.kinds[name]
	return ok
}

// mustAdd adds a kind of this package; its completeness is a contract test's.
func (r *Registry) mustAdd(k Kind) {
	if r.kinds == nil {
		r.kinds = make(map[string]Kind)
	}
	r.kinds[k.Name] = k
}
