package flows

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

type shape uint8

const (
	unusable shape = iota // something is wrong with it that has been reported already
	scalarNode
	listNode
	mappingNode
)

// Node is a part of the file after interpolation, aliases and merge keys: a scalar, a list or a mapping. It remembers
// its position and the variables that its text came from. A nil *Node stands for "not given" and is safe to use.
type Node struct {
	pos    Position
	shape  shape
	text   string // of a scalar
	tag    string // of a scalar: the YAML type its text has in the file
	quoted bool
	vars   []variable
	pairs  []pair
	meant  map[string]*Node // of a mapping that was decoded: the values of misspelt keys, by the names that were meant
	items  []*Node
	origin *origin // of a scalar value

	size, height int // in nodes, with all that aliases stand for
}

type pair struct{ key, value *Node }

// variable is one ${NAME} of a scalar and what it stood for.
type variable struct {
	name, value string
	isDefault   bool // the variable was unset, and the value is the one written in the file
}

// Pos returns where the node is written. For a value reached through an alias that is the anchor's place.
func (n *Node) Pos() Position {
	if n == nil {
		return Position{}
	}
	return n.pos
}

// Text returns the text of a scalar after interpolation, and false for anything else.
func (n *Node) Text() (string, bool) {
	if n == nil || n.shape != scalarNode || n.isNull() {
		return "", false
	}
	return n.text, true
}

// Get returns the value of a mapping's key, or nil. In a mapping that has been decoded, the value of a misspelt key is
// found under the name that was meant.
func (n *Node) Get(key string) *Node {
	if n == nil {
		return nil
	}
	for _, p := range n.pairs {
		if p.key.text == key {
			return p.value
		}
	}
	return n.meant[key]
}

// mean notes what a misspelt key was meant for.
func (n *Node) mean(name string, value *Node) {
	if n.meant == nil {
		n.meant = make(map[string]*Node)
	}
	n.meant[name] = value
}

// Variables returns the names of the environment variables that a scalar refers to, in order of appearance.
func (n *Node) Variables() []string {
	if n == nil {
		return nil
	}
	names := make([]string, len(n.vars))
	for i, v := range n.vars {
		names[i] = v.name
	}
	return names
}

// Value returns the node as plain Go values: map[string]any, []any, string, int64, float64, bool or nil. A scalar is
// typed as YAML types it, and one with variables as if its resulting text had stood in the file without quotes.
// Repeated keys are not reported here: the first one counts.
func (n *Node) Value() any {
	if n == nil {
		return nil
	}
	switch n.shape {
	case mappingNode:
		m := make(map[string]any, len(n.pairs))
		for _, p := range n.pairs {
			if _, ok := m[p.key.text]; !ok {
				m[p.key.text] = p.value.Value()
			}
		}
		return m
	case listNode:
		l := make([]any, len(n.items))
		for i, item := range n.items {
			l[i] = item.Value()
		}
		return l
	case scalarNode:
		return n.scalar()
	default:
		return nil
	}
}

func (n *Node) scalar() any {
	tag := n.tag
	if len(n.vars) > 0 && !n.quoted {
		tag = plainTag(n.text)
	}
	switch tag {
	case "!!null":
		return nil
	case "!!bool":
		if v, err := parseBool(n.text); err == nil {
			return v
		}
	case "!!int", "!!float":
		if v, err := parseInt[int64](n.text); err == nil && tag == "!!int" {
			return v
		}
		if v, err := parseFloat(n.text); err == nil {
			return v
		}
	}
	return n.text
}

// Invalid makes an error that says which rule the node's value breaks. It names the variable that the value came from,
// or else says what was found after a rule that starts with "must" (the value) or "expected" (its type too).
//
//	scope: LEVEL="x": must be ok or soft
//	scope: must be ok or soft, found "x"
//	scope: expected a list, found string "x"
func (n *Node) Invalid(scope, rule string) Diagnostic {
	return Diagnostic{Pos: n.Pos(), Message: scoped(scope, n.complaint(rule, false))}
}

// Errorf appends an error at the node's position to d.
func (n *Node) Errorf(d *Diagnostics, scope, format string, args ...any) {
	d.Errorf(n.Pos(), "%s", scoped(scope, fmt.Sprintf(format, args...)))
}

func scoped(scope, message string) string {
	if scope == "" {
		return message
	}
	return scope + ": " + message
}

// complaint words a rule that the value breaks. Neither a secret value nor that of a variable named like a secret is
// part of it.
func (n *Node) complaint(rule string, secret bool) string {
	if n == nil || n.shape == unusable {
		return rule
	}
	if len(n.vars) == 0 {
		return rule + n.finding(rule, secret)
	}
	subjects := make([]string, len(n.vars))
	for i, v := range n.vars {
		switch {
		case secret || secretName(v.name):
			secret = true
			subjects[i] = v.name
		case v.isDefault:
			subjects[i] = fmt.Sprintf("%s (default %s)", v.name, quote(v.value))
		default:
			subjects[i] = v.name + "=" + quote(v.value)
		}
	}
	subject := strings.Join(subjects, ", ")
	if !secret && (len(n.vars) > 1 || n.text != n.vars[0].value) {
		subject += " makes " + quote(n.text)
	}
	return subject + ": " + rule
}

// limit is the limit that a fault of the node is due to: that of a variable, where the text is not the file's own, else
// that of the rule.
func (n *Node) limit(rule Limit) Limit {
	if n != nil && len(n.vars) > 0 {
		return LimitVariable
	}
	return rule
}

// number returns the value that YAML has for an unquoted number, however it is spelled.
func (n *Node) number() (v float64, ok bool) {
	if n.shape != scalarNode || n.quoted || n.tag != "!!int" && n.tag != "!!float" {
		return 0, false
	}
	err := (&yaml.Node{Kind: yaml.ScalarNode, Value: n.text}).Decode(&v)
	return v, err == nil
}

// finding is what to add to a rule about what was found.
func (n *Node) finding(rule string, secret bool) string {
	isText := n.shape == scalarNode && !n.isNull()
	switch typed := strings.HasPrefix(rule, "expected "); {
	case typed && (secret || !isText):
		return ", found " + n.describeType()
	case typed:
		return ", found " + n.typeName() + " " + n.literal()
	case strings.HasPrefix(rule, "must ") && isText && !secret:
		return ", found " + n.literal()
	default:
		return ""
	}
}

// literal is a scalar as a file would have it.
func (n *Node) literal() string {
	if n.typeName() == "string" {
		return quote(n.text)
	}
	return shorten(n.text)
}

// describeType names the type of a node without its value.
func (n *Node) describeType() string {
	switch n.shape {
	case mappingNode:
		return "a mapping"
	case listNode:
		return "a list"
	case scalarNode:
		if n.isNull() {
			return "no value"
		}
		if n.tag == "!!int" {
			return "an integer"
		}
		return "a " + n.typeName()
	default:
		return "nothing usable"
	}
}

func (n *Node) typeName() string {
	switch n.tag {
	case "!!int":
		return "integer"
	case "!!float":
		return "number"
	case "!!bool":
		return "boolean"
	default:
		return "string"
	}
}

func (n *Node) isNull() bool {
	return n.shape == scalarNode && len(n.vars) == 0 && n.tag == "!!null"
}

// isMissing reports whether the key is there but has nothing after it.
func (n *Node) isMissing() bool { return n == nil || n.isNull() }

func quote(s string) string { return strconv.Quote(shorten(s)) }

// shorten keeps messages on one line when someone puts a page of text where a word belongs.
func shorten(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}

// plainTag is the YAML type that a text has when it stands in a file without quotes.
func plainTag(text string) string {
	return (&yaml.Node{Kind: yaml.ScalarNode, Value: text}).ShortTag()
}
