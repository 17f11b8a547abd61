package flows

import (
	"fmt"
	"slices"
	"strings"
)

// entries binds a map from free names to mappings: a slice in the order of the file.
type entries[T any] struct {
	dst    *[]T
	what   string // what one entry is, in messages
	tree   *tree  // reads variables in the names
	check  func(name string) error
	fields func(*T) Fields
	name   func(*T) *string
	finish func(t *T, n *Node, c decoding, fs Fields)
}

func (e *entries[T]) decode(c decoding, f *Field, n *Node) bool {
	if n.shape != mappingNode && !n.isNull() {
		c.invalid(f, n, "expected a mapping", "")
		return false
	}
	if len(n.pairs) == 0 && f.Required {
		c.errorf(n.pos, "%s must not be empty", f.Name)
		return false
	}
	before := len(*c.diags)
	pairs := make([]pair, 0, len(n.pairs))
	for _, p := range n.pairs {
		key := *p.key // an alias may use the mapping elsewhere, where variables in its keys are not replaced
		e.tree.interpolate(&key)
		pairs = append(pairs, pair{&key, p.value})
	}
	c.repeated(slices.DeleteFunc(slices.Clone(pairs), func(p pair) bool { return p.key.shape == unusable }), e.what)
	seen := map[string]bool{}
	for _, p := range pairs {
		if err := e.check(p.key.text); err != nil && p.key.shape != unusable && !seen[p.key.text] {
			c.beyondf(p.key.pos, p.key.limit(""), "%s name: %s", e.what, p.key.complaint(err.Error(), false))
		}
		seen[p.key.text] = true
		// Whatever its name is worth, what is wrong within is to be told in the same run.
		e.entry(c, p)
	}
	return len(*c.diags) == before
}

func (e *entries[T]) entry(c decoding, p pair) {
	var t T
	*e.name(&t) = p.key.text
	inner := decoding{scope: scoped(c.scope, e.what+" "+quote(p.key.text)), diags: c.diags, at: p.key.pos}
	fs := e.fields(&t)
	inner.fields(fs, p.value)
	e.finish(&t, p.value, inner, fs)
	*e.dst = append(*e.dst, t)
}

func (e *entries[T]) absent(*Field) {}

func (e *entries[T]) verify(*Field) error { return nil }

// namedFields is an entry's name with its fields, for a listing.
type namedFields struct {
	name   string
	fields Fields
}

func (e *entries[T]) encode(*Field) any {
	named := make([]namedFields, len(*e.dst))
	for i := range *e.dst {
		t := &(*e.dst)[i]
		named[i] = namedFields{*e.name(t), e.fields(t)}
	}
	return named
}

// stageList binds the stages of a flow.
type stageList struct{ dst *[]StageSpec }

func (s stageList) decode(c decoding, f *Field, n *Node) bool {
	if n.shape != listNode {
		c.invalid(f, n, "expected a list of stages", "")
		return false
	}
	if len(n.items) == 0 {
		c.errorf(n.pos, "%s must not be empty: a flow needs at least one stage", f.Name)
		return false
	}
	before := len(*c.diags)
	for i, item := range n.items {
		inner := decoding{scope: scoped(c.scope, fmt.Sprintf("stage %d", i+1)), diags: c.diags, at: item.pos}
		if spec, ok := inner.stage(item); ok {
			spec.Index = i + 1
			*s.dst = append(*s.dst, spec)
		}
	}
	return len(*c.diags) == before
}

func (c decoding) stage(n *Node) (StageSpec, bool) {
	const form = "expected a stage: a name, or a name with its fields"
	spec := StageSpec{Pos: n.pos}
	name := n
	switch {
	case n.shape == unusable:
		return spec, false
	case n.shape == scalarNode && !n.isNull():
		spec.Config = &Node{pos: n.pos, shape: mappingNode, vars: n.vars, size: 1, height: 1}
	case n.shape == mappingNode && len(n.pairs) == 1:
		name, spec.Config = n.pairs[0].key, n.pairs[0].value
	case n.shape == mappingNode && len(n.pairs) > 1:
		keys := make([]string, len(n.pairs))
		for i, p := range n.pairs {
			keys[i] = p.key.text
		}
		c.errorf(n.pos, "%s, found %d keys (%s): indent the fields further than the name",
			form, len(keys), shorten(strings.Join(keys, ", ")))
		name, spec.Config = n.pairs[0].key, n.pairs[0].value
		if spec.Config.isNull() {
			spec.Config = &Node{pos: n.pairs[1].key.pos, shape: mappingNode, pairs: n.pairs[1:], size: 1, height: 1}
		}
	case n.shape == mappingNode:
		c.errorf(n.pos, "%s, found an empty mapping", form)
		return spec, false
	default:
		c.errorf(n.pos, "%s", n.complaint(form, false))
		return spec, false
	}
	spec.Kind = name.text
	return spec, spec.Config.shape != unusable
}

func (stageList) absent(*Field) {}

func (stageList) verify(*Field) error { return nil }

func (s stageList) encode(*Field) any { return *s.dst }
