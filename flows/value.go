package flows

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
)

// value is the binding of a field to a variable.
type value interface {
	// decode reads a given value, reports what is wrong with it and returns whether all was well. The default takes the
	// place of a value that is wrong, so that what depends on it is judged by something sensible.
	decode(c decoding, f *Field, n *Node) bool
	// absent applies the default, if there is one.
	absent(f *Field)
	// verify reports faults of the declaration.
	verify(f *Field) error
	// encode returns the variable's present value for a listing.
	encode(f *Field) any
}

// scalar binds a single value. Text is all that parse needs; typed says whether a value that is written out in the
// file, without variables, has the type that YAML gives its spelling.
type scalar[T any] struct {
	dst     *T
	parse   func(text string) (T, error)
	format  func(T) string
	compare func(a, b T) int
	typed   func(n *Node) (rule, hint string)
}

func (s *scalar[T]) decode(c decoding, f *Field, n *Node) bool {
	v, ok := s.read(c, f, n)
	if !ok {
		s.absent(f)
		return false
	}
	*s.dst = v
	return true
}

func (s *scalar[T]) read(c decoding, f *Field, n *Node) (v T, ok bool) {
	switch {
	case n.isNull():
		c.errorf(n.pos, "%s has no value: give it one or remove the key", f.Name)
		return v, false
	case n.shape != scalarNode && f.Kind == KindExpression:
		c.beyondf(n.pos, n.limit(""), "%s: %s: quote the whole expression", f.Name, n.complaint("expected an expression", f.Secret))
		return v, false
	case n.shape != scalarNode:
		c.invalid(f, n, "expected "+article(f.Kind), "")
		return v, false
	}
	if s.typed != nil && len(n.vars) == 0 {
		if rule, hint := s.typed(n); rule != "" {
			c.beyondf(n.pos, f.spelling(n), "%s: %s: %s", f.Name, n.complaint(rule, f.Secret), hint)
			return v, false
		}
	}
	v, err := s.accept(f, n.text)
	if err != nil {
		c.invalid(f, n, err.Error()+suggestion(f, n.text), cmp.Or(limitOf(err), f.spelling(n)))
	}
	return v, err == nil
}

// spelling returns LimitSpelling when the value is refused for how it is written, while YAML has one for it that the
// field's schema takes.
func (f *Field) spelling(n *Node) Limit {
	v, ok := n.number()
	switch {
	case f.Kind == KindBoolean && n.quoted && yesNo.MatchString(n.text):
	case f.Kind == KindBoolean && ok && (v == 0 || v == 1):
	case f.Kind == KindInteger && ok && v == math.Trunc(v) && math.Abs(v) < 1<<63:
	case f.Kind == KindNumber && ok && !math.IsInf(v, 0) && !math.IsNaN(v):
	default:
		return ""
	}
	return LimitSpelling
}

var yesNo = regexp.MustCompile(yesNoPattern)

func suggestion(f *Field, text string) string {
	if f.Secret {
		return ""
	}
	return DidYouMean(text, f.Allowed)
}

func article(k Kind) string {
	switch k {
	case KindInteger:
		return "an integer"
	case KindBoolean:
		return "true or false"
	case KindExpression:
		return "an expression"
	default:
		return "a " + k.String()
	}
}

// accept parses a text and holds it against the field's rules.
func (s *scalar[T]) accept(f *Field, text string) (T, error) {
	var none T
	if f.Required && text == "" {
		return none, errors.New("must not be empty")
	}
	if len(f.Allowed) > 0 && !slices.Contains(f.Allowed, text) {
		return none, errors.New("must be " + alternatives(f.Allowed, ""))
	}
	v, err := s.parse(text)
	if err != nil {
		return none, err
	}
	if s.compare == nil {
		return v, nil
	}
	for _, b := range []struct {
		limit, rule string
		broken      func(order int) bool
	}{
		{f.Min, "must be at least ", func(order int) bool { return order < 0 }},
		{f.Above, "must be more than ", func(order int) bool { return order <= 0 }},
		{f.Max, "must be at most ", func(order int) bool { return order > 0 }},
	} {
		if b.limit == "" {
			continue
		}
		limit, err := s.parse(b.limit)
		if err == nil && b.broken(s.compare(v, limit)) {
			return none, f.bound(text, errors.New(b.rule+s.format(limit)))
		}
	}
	return v, nil
}

// bound marks the error of a bound that a schema cannot say: all of a duration's or a size's but that it is not zero.
func (f *Field) bound(text string, err error) error {
	if (f.Kind == KindDuration || f.Kind == KindSize) && strings.ContainsAny(text, "123456789") {
		return Beyond(LimitMagnitude, err)
	}
	return err
}

func (s *scalar[T]) absent(f *Field) {
	if !f.HasDefault {
		return
	}
	if v, err := s.accept(f, f.Default); err == nil {
		*s.dst = v
	}
}

func (s *scalar[T]) verify(f *Field) error {
	if s.dst == nil {
		return errors.New("is bound to no variable")
	}
	for _, limit := range []string{f.Min, f.Max, f.Above} {
		if limit == "" {
			continue
		}
		if s.compare == nil {
			return fmt.Errorf("a %s has no bounds", f.Kind)
		}
		if _, err := s.parse(limit); err != nil {
			return fmt.Errorf("bound %q: %w", limit, err)
		}
	}
	if f.HasDefault {
		if _, err := s.accept(f, f.Default); err != nil {
			return fmt.Errorf("default %q: %w", f.Default, err)
		}
	}
	return nil
}

func (s *scalar[T]) encode(f *Field) any {
	text := s.format(*s.dst)
	if f.Secret && text != "" && f.Kind != KindURL {
		return hidden
	}
	switch f.Kind {
	case KindInteger, KindNumber, KindBoolean:
		return *s.dst
	default:
		return text
	}
}

// stringList binds a list of texts.
type stringList struct{ dst *[]string }

func (s *stringList) decode(c decoding, f *Field, n *Node) bool {
	texts, ok := s.read(c, f, n)
	if !ok {
		s.absent(f)
		return false
	}
	*s.dst = texts
	return true
}

func (s *stringList) read(c decoding, f *Field, n *Node) (texts []string, ok bool) {
	if n.shape != listNode {
		c.invalid(f, n, "expected a list of strings", "")
		return nil, false
	}
	texts, ok = make([]string, len(n.items)), true
	for i, item := range n.items {
		element := String(fmt.Sprintf("%s: item %d", f.Name, i+1), &texts[i], f.Doc, OneOf(f.Allowed...))
		element.Secret = f.Secret
		ok = c.field(&element, item, n) && ok
	}
	if f.Required && len(texts) == 0 {
		c.errorf(n.pos, "%s must not be empty", f.Name)
		return nil, false
	}
	return texts, ok
}

func (s *stringList) absent(f *Field) {
	if !f.HasDefault {
		return
	}
	if texts, err := s.parse(f); err == nil {
		*s.dst = texts
	}
}

// parse reads the default, a YAML list, with the code that reads a file.
func (s *stringList) parse(f *Field) ([]string, error) {
	var (
		diags Diagnostics
		texts []string
	)
	element := Field{Name: f.Name, Doc: f.Doc, Kind: KindStrings, Allowed: f.Allowed}
	if t, document := newTree("", []byte(f.Default), nil, "[]", &diags); document != nil {
		texts, _ = s.read(decoding{diags: &diags}, &element, t.build(document, 1))
	}
	return texts, diags.Err()
}

func (s *stringList) verify(f *Field) error {
	if s.dst == nil {
		return errors.New("is bound to no variable")
	}
	if f.Min != "" || f.Max != "" || f.Above != "" {
		return fmt.Errorf("a %s has no bounds", f.Kind)
	}
	if f.HasDefault {
		if _, err := s.parse(f); err != nil {
			return fmt.Errorf("default %q: %w", f.Default, err)
		}
	}
	return nil
}

func (s *stringList) encode(f *Field) any {
	if f.Secret && len(*s.dst) > 0 {
		return hidden
	}
	return *s.dst
}

// namedTexts binds a mapping from free names to texts.
type namedTexts struct{ dst *[]Named }

func (t *namedTexts) decode(c decoding, f *Field, n *Node) bool {
	if n.shape != mappingNode && !n.isNull() {
		form := "{NAME: TEXT}"
		if f.Kind == KindExpressions {
			form = "{NAME: EXPRESSION}"
		}
		c.invalid(f, n, "expected a "+f.Kind.String()+" by name, such as "+form, "")
		return false
	}
	if len(n.pairs) == 0 && f.Required {
		c.errorf(n.pos, "%s must not be empty", f.Name)
		return false
	}
	before := len(*c.diags)
	c.repeated(n.pairs, "key")
	seen := map[string]bool{}
	for _, p := range n.pairs {
		if seen[p.key.text] {
			continue
		}
		seen[p.key.text] = true
		named := Named{Name: p.key.text}
		field := String(f.Name+": "+p.key.text, &named.Text, f.Doc, Required())
		if f.Kind == KindExpressions {
			field = Expression(field.Name, &named.Text, f.Doc, Required())
		}
		if c.field(&field, p.value, n) {
			*t.dst = append(*t.dst, named)
		}
	}
	return len(*c.diags) == before
}

func (t *namedTexts) absent(*Field) {}

func (t *namedTexts) verify(f *Field) error {
	if t.dst == nil {
		return errors.New("is bound to no variable")
	}
	if f.HasDefault || f.Min != "" || f.Max != "" || f.Above != "" || len(f.Allowed) > 0 {
		return fmt.Errorf("a %s has neither default nor bounds", f.Kind)
	}
	return nil
}

func (t *namedTexts) encode(*Field) any { return *t.dst }

// object binds a mapping; its fields hold the variables.
type object struct{}

func (object) decode(c decoding, f *Field, n *Node) bool {
	if !n.isNull() && n.shape != mappingNode {
		c.invalid(f, n, expectedMapping(f.Fields), "")
		f.value.absent(f)
		return false
	}
	before := len(*c.diags)
	decoding{scope: scoped(c.scope, f.Name), diags: c.diags, at: n.pos}.fields(f.Fields, n)
	return len(*c.diags) == before
}

func (object) absent(f *Field) {
	for i := range f.Fields {
		if inner := &f.Fields[i]; inner.value != nil {
			inner.value.absent(inner)
		}
	}
}

func (object) verify(f *Field) error {
	if f.HasDefault || f.Min != "" || f.Max != "" || f.Above != "" || len(f.Allowed) > 0 {
		return fmt.Errorf("a %s has neither default nor bounds of its own", f.Kind)
	}
	return nil
}

func (object) encode(f *Field) any { return f.Fields }
