package flows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Decode fills the variables that the fields are bound to from a mapping, and appends everything that is wrong with it
// to d. The scope says in words which mapping it is, such as `flow "feedback": stage 2 (dedupe)`, and starts each
// message. A nil node, and one that was left empty in the file, is a mapping without keys.
//
// It is strict: unknown and repeated keys, values of a wrong type or out of bounds, and missing required keys are
// errors. All of them are reported, not just the first. A variable whose value is wrong gets its default.
func (fs Fields) Decode(n *Node, scope string, d *Diagnostics) {
	if err := fs.Verify(); err != nil {
		n.Errorf(d, scope, "the fields are declared wrongly: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	decoding{scope: scope, diags: d, at: n.Pos()}.fields(fs, n)
}

// Decode fills the variable that the field is bound to from a value by itself; see [Fields.Decode].
func (f Field) Decode(n *Node, scope string, d *Diagnostics) {
	decoding{scope: scope, diags: d, at: n.Pos()}.field(&f, n, nil)
}

// decoding is the state of reading one mapping: whose it is, where problems go, and where an absent key is reported.
type decoding struct {
	scope string
	diags *Diagnostics
	at    Position
}

func (c decoding) errorf(pos Position, format string, args ...any) {
	c.beyondf(pos, "", format, args...)
}

// beyondf is errorf about what a JSON Schema cannot say.
func (c decoding) beyondf(pos Position, limit Limit, format string, args ...any) {
	c.diags.Beyondf(pos, limit, "%s", scoped(c.scope, fmt.Sprintf(format, args...)))
}

// invalid reports that the value of f breaks a rule; without a node, that its default does. The limit is that of the
// rule, "" for one that a JSON Schema can say.
func (c decoding) invalid(f *Field, n *Node, rule string, limit Limit) {
	if n == nil {
		c.beyondf(c.at, limit, "%s: %s, the default is %s", f.Name, rule, cmp.Or(f.Default, `""`))
		return
	}
	// A password in a URL is as secret as any.
	secret := f.Secret || f.Kind == KindURL && strings.Contains(n.text, "@")
	c.beyondf(n.pos, n.limit(limit), "%s: %s", f.Name, n.complaint(rule, secret))
}

func (c decoding) fields(fs Fields, n *Node) {
	var (
		values map[string]*Node
		meant  map[string]bool
	)
	switch {
	case n.isMissing() || n.shape == mappingNode:
		values, meant = c.pairs(fs, n)
	case n.shape == unusable:
	default:
		c.beyondf(n.pos, n.limit(""), "%s", n.complaint(expectedMapping(fs), false))
	}
	for i := range fs {
		f := &fs[i]
		v := values[f.Name]
		if f.value != nil && v == nil && meant[f.Name] {
			// Another key was perhaps meant for this one. That it is missing too is no second fault.
			f.value.absent(f)
			f.setFaulty(true)
			continue
		}
		ok := c.field(f, v, n)
		if f.faulty = !ok; f.Kind != KindObject || v == nil || v.shape != mappingNode {
			f.setFaulty(!ok)
		}
	}
	for i := range fs {
		f := &fs[i]
		v := values[f.Name]
		if f.check == nil || v == nil && !f.HasDefault || f.faulty ||
			slices.ContainsFunc(f.neighbours, func(name string) bool { return fs.faulty(name) }) {
			continue
		}
		if err := f.check(); err != nil {
			f.faulty = true
			c.invalid(f, v, err.Error(), f.checkLimit(err))
			f.value.absent(f)
		}
	}
}

// expectedMapping is the rule that fields stand in a mapping: with those that it must have, or else those that it may.
func expectedMapping(fs Fields) string {
	var required []string
	for i := range fs {
		if f := &fs[i]; f.Required {
			required = append(required, f.Name+": "+cmp.Or(f.exemplify(), "…"))
		}
	}
	switch {
	case len(required) > 0:
		return "expected a mapping, such as {" + strings.Join(required, ", ") + "}"
	case len(fs) > 0:
		return "expected a mapping of " + strings.Join(fs.Names(), ", ")
	}
	return "expected a mapping"
}

// pairs sorts the mapping's values by key and reports the keys that do not belong. Meant are the names that these were
// perhaps meant to be; where that is as good as certain, the value is among the others.
func (c decoding) pairs(fs Fields, n *Node) (values map[string]*Node, meant map[string]bool) {
	values, meant = make(map[string]*Node, len(fs)), make(map[string]bool)
	if n == nil {
		return values, meant
	}
	c.repeated(n.pairs, "key")
	slips := make(map[string]*Node)
	for _, p := range n.pairs {
		name := p.key.text
		if _, ok := fs.Lookup(name); !ok {
			near := fs.nearest(name)
			meant[near] = true
			if slips[near] == nil && slip(name, near) {
				slips[near] = p.value
			}
			why := hint(near)
			if strings.Contains(name, "${") {
				why = " (variables are not replaced in it)"
			}
			c.errorf(p.key.pos, "unknown field %s%s; fields: %s", quote(name), why,
				cmp.Or(strings.Join(fs.Names(), ", "), "none"))
			continue
		}
		if _, ok := values[name]; !ok {
			values[name] = p.value
		}
	}
	for name, value := range slips {
		if _, given := values[name]; !given && name != "" {
			values[name] = value
			n.mean(name, value)
		}
	}
	return values, meant
}

// repeated reports the keys of a mapping that were there before.
func (c decoding) repeated(pairs []pair, what string) {
	first := make(map[string]*Node, len(pairs))
	for _, p := range pairs {
		before, ok := first[p.key.text]
		if !ok {
			first[p.key.text] = p.key
			continue
		}
		c.diags.Add(Diagnostic{
			Pos: p.key.pos,
			Message: scoped(c.scope, fmt.Sprintf("duplicate %s %s: first declared at %d:%d: rename or remove one",
				what, quote(p.key.text), before.pos.Line, before.pos.Column)),
			Related: []Related{{Pos: before.pos, Message: "first declared here"}},
			Beyond:  cmp.Or(p.key.limit(""), before.limit("")), // names that differ as they are written
		})
	}
}

// field reads one value, or the default of an absent one, and reports whether all is well with it.
func (c decoding) field(f *Field, v, parent *Node) bool {
	switch {
	case f.value == nil:
		return false // Verify has said so
	case v == nil && f.Required:
		if parent.isMissing() || parent.shape == mappingNode {
			c.beyondf(c.at, parent.limit(""), "missing required field %q%s", f.Name, f.suchAs())
		}
		return false
	case v == nil || v.shape == unusable:
		f.value.absent(f)
		return v == nil
	default:
		return f.value.decode(c, f, v)
	}
}

// checkLimit is the limit of the field's own rule, which broke with err. What looks at neighbours, or at how much a
// duration is, is in no schema; for other rules the schema has a pattern, unless they say otherwise.
func (f *Field) checkLimit(err error) Limit {
	switch limit := limitOf(err); {
	case limit != "":
		return limit
	case len(f.neighbours) > 0:
		return LimitNeighbour
	case f.Kind == KindDuration || f.Kind == KindSize:
		return LimitMagnitude
	default:
		return ""
	}
}

// suchAs shows how a missing field could be given, where there is an example.
func (f *Field) suchAs() string {
	if example := f.exemplify(); example != "" {
		return ", such as " + f.Name + ": " + example
	}
	return ""
}

// exemplify returns the field's example, or for a mapping one made of what is required in it.
func (f *Field) exemplify() string {
	if f.Kind != KindObject || f.Example != "" {
		return f.Example
	}
	var pairs []string
	for i := range f.Fields {
		if inner := &f.Fields[i]; inner.Required {
			example := inner.exemplify()
			if example == "" {
				return ""
			}
			pairs = append(pairs, inner.Name+": "+example)
		}
	}
	if len(pairs) == 0 {
		return ""
	}
	return "{" + strings.Join(pairs, ", ") + "}"
}
