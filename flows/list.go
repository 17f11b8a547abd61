package flows

import (
	"fmt"
	"iter"
	"math"
)

// Any declares a value of any shape, which is kept as it stands in the file, for its owner to decode.
func Any(name string, dst **Node, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindAny, value: anyValue{dst}}, opts)
}

// List declares a list of mappings. What names one of them in messages. The fields function declares the keys of an
// item; its node is nil when they are only looked at.
func List[T any](name string, dst *[]T, what string, fields func(*T, *Node) Fields, doc string, opts ...Option) Field {
	return newField(Field{
		Name: name, Doc: doc, Kind: KindList, Fields: fields(new(T), nil),
		value: mappingList[T]{dst: dst, what: what, fields: fields},
	}, opts)
}

// Map declares a mapping from free names to mappings, in which no variables are replaced. What names one of them in
// messages. The entry function returns where an entry's name and its node go. Entries are kept in the order of the file.
func Map[T any](
	name string, dst *[]T, what string, entry func(*T) (name *string, node **Node), fields func(*T) Fields, doc string,
	opts ...Option,
) Field {
	return newField(Field{
		Name: name, Doc: doc, Kind: KindMap, Fields: fields(new(T)),
		value: &entries[T]{
			dst: dst, what: what, tree: &tree{source: source{diags: new(Diagnostics)}, raw: true},
			check: func(string) error { return nil }, fields: fields,
			name:   func(t *T) *string { name, _ := entry(t); return name },
			finish: func(t *T, n *Node, _ decoding, _ Fields) { _, node := entry(t); *node = n },
		},
	}, opts)
}

// Values declares a mapping from free names to values, each as value declares it, in which no variables are replaced.
// The entry function returns where an entry's name and its node go. Entries are kept in the order of the file.
func Values[T any](
	name string, dst *[]T, entry func(*T) (name *string, node **Node), value func(*T) Field, doc string, opts ...Option,
) Field {
	return newField(Field{
		Name: name, Doc: doc, Kind: KindValues, Fields: Fields{value(new(T))},
		value: namedValues[T]{dst: dst, entry: entry, value: value},
	}, opts)
}

type namedValues[T any] struct {
	dst   *[]T
	entry func(*T) (*string, **Node)
	value func(*T) Field
}

func (m namedValues[T]) decode(c decoding, f *Field, n *Node) bool {
	if n.shape != mappingNode && !n.isNull() {
		c.invalid(f, n, "expected a mapping", "")
		return false
	}
	before := len(*c.diags)
	c.repeated(n.pairs, "key")
	inner := decoding{scope: scoped(c.scope, f.Name), diags: c.diags, at: n.pos}
	seen := make(map[string]bool, len(n.pairs))
	for _, p := range n.pairs {
		if seen[p.key.text] {
			continue
		}
		seen[p.key.text] = true
		var t T
		name, node := m.entry(&t)
		*name, *node = p.key.text, p.value
		field := m.value(&t)
		field.Name = shorten(p.key.text)
		inner.field(&field, p.value, n)
		*m.dst = append(*m.dst, t) // also with a fault, so that its owner can look at the name
	}
	return len(*c.diags) == before
}

func (namedValues[T]) absent(*Field) {}

func (namedValues[T]) verify(f *Field) error {
	if f.HasDefault {
		return fmt.Errorf("a %s has no default", f.Kind)
	}
	return nil
}

// encode lists nothing: what is declared so is no part of a configuration.
func (namedValues[T]) encode(*Field) any { return Fields{} }

type anyValue struct{ dst **Node }

func (a anyValue) decode(c decoding, f *Field, n *Node) bool {
	if f.Required && n.isNull() {
		c.errorf(n.pos, "%s has no value: give it one or remove the key", f.Name)
		return false
	}
	before := len(*c.diags)
	if f.Name != keyTests { // which is looked at by whoever runs them
		decoding{scope: scoped(c.scope, f.Name), diags: c.diags}.json(n)
	}
	*a.dst = n
	return len(*c.diags) == before
}

// json reports what JSON has not, at any depth: repeated keys, and numbers that are infinite or none.
func (c decoding) json(n *Node) {
	if v, ok := n.number(); ok && (math.IsInf(v, 0) || math.IsNaN(v)) {
		c.errorf(n.pos, "%s: JSON has no such number: quote it to make it a text", n.text)
	}
	c.repeated(n.pairs, "key")
	for _, p := range n.pairs {
		c.json(p.value)
	}
	for _, item := range n.items {
		c.json(item)
	}
}

func (anyValue) absent(*Field) {}

func (a anyValue) verify(f *Field) error {
	if f.HasDefault {
		return fmt.Errorf("a %s has no default", f.Kind)
	}
	return nil
}

func (a anyValue) encode(*Field) any { return *a.dst }

type mappingList[T any] struct {
	dst    *[]T
	what   string
	fields func(*T, *Node) Fields
}

func (l mappingList[T]) decode(c decoding, f *Field, n *Node) bool {
	if n.shape != listNode {
		c.invalid(f, n, "expected a list", "")
		return false
	}
	if f.Required && len(n.items) == 0 {
		c.errorf(n.pos, "%s must not be empty", f.Name)
		return false
	}
	before := len(*c.diags)
	*l.dst = make([]T, len(n.items))
	for i, item := range n.items {
		inner := decoding{scope: scoped(c.scope, fmt.Sprintf("%s %d", l.what, i+1)), diags: c.diags, at: item.pos}
		inner.fields(l.fields(&(*l.dst)[i], item), item)
	}
	return len(*c.diags) == before
}

func (mappingList[T]) absent(*Field) {}

func (mappingList[T]) verify(f *Field) error {
	if f.HasDefault {
		return fmt.Errorf("a %s has no default", f.Kind)
	}
	return nil
}

func (l mappingList[T]) encode(*Field) any {
	items := make([]Fields, len(*l.dst))
	for i := range *l.dst {
		items[i] = l.fields(&(*l.dst)[i], nil)
	}
	return items
}

// Document reads the text of a YAML file of another kind than a flow file into a tree, with the limits and the
// diagnostics of [Parse] but without variables. The node is nil when the text is no tree, which is then reported. Needs says
// what an empty file lacks.
func Document(name string, src []byte, needs string) (*Node, Diagnostics) {
	var diags Diagnostics
	t, document := newTree(name, src, nil, needs, &diags)
	if document == nil {
		return nil, diags
	}
	t.raw = true
	root := t.build(document, 1)
	diags.Sort()
	if t.full {
		return nil, diags
	}
	return root, diags
}

// LoadDocument reads a file of at most 1 MiB; see [Document].
func LoadDocument(path, needs string) (*Node, Diagnostics) {
	src, err := read(path)
	if err != nil {
		return nil, Diagnostics{{Pos: Position{File: path}, Message: err.Error()}}
	}
	return Document(path, src, needs)
}

// IsMapping reports whether the node is a mapping.
func (n *Node) IsMapping() bool { return n != nil && n.shape == mappingNode }

// IsList reports whether the node is a list.
func (n *Node) IsList() bool { return n != nil && n.shape == listNode }

// IsNull reports whether the node was written without a value.
func (n *Node) IsNull() bool { return n != nil && n.isNull() }

// Items yields the items of a list.
func (n *Node) Items() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		if n == nil {
			return
		}
		for _, item := range n.items {
			if !yield(item) {
				return
			}
		}
	}
}

// Pairs yields the keys and values of a mapping, in the order of the file.
func (n *Node) Pairs() iter.Seq2[*Node, *Node] {
	return func(yield func(key, value *Node) bool) {
		if n == nil {
			return
		}
		for _, p := range n.pairs {
			if !yield(p.key, p.value) {
				return
			}
		}
	}
}
