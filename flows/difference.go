package flows

import (
	"reflect"
	"slices"
)

// Setting is a key of a file that has a value of its own, by its path: "bus.redis.url".
type Setting struct {
	Path string
	// Pos is where the value stands; where the file does not give it, the mapping that would.
	Pos Position
}

// Differences returns the settings whose values are others than in former, variables and defaults taken into account,
// in the order of the language. Those of providers and flows are left out: what they are is told by name.
func (f *File) Differences(former *File) []Setting {
	mine, theirs := f.fields(&tree{}), former.fields(&tree{})
	return differences(mine, theirs, f.root, "", Position{File: f.Path})
}

func differences(mine, theirs Fields, n *Node, path string, at Position) []Setting {
	var list []Setting
	if n != nil && n.pos.Line > 0 {
		at = n.pos
	}
	for i := range mine {
		field := &mine[i]
		if path == "" && (field.Name == "providers" || field.Name == "flows") {
			continue
		}
		other, _ := theirs.Lookup(field.Name)
		under, here := n.Get(field.Name), path+field.Name
		switch values := field.value.encode(field).(type) {
		case Fields:
			list = append(list, differences(values, other.Fields, under, here+".", at)...)
		case []namedFields:
			list = append(list, entryDifferences(values, other.value.encode(&other).([]namedFields), under, here+".", at)...)
		default:
			if field.same(&other) {
				continue
			}
			s := Setting{Path: here, Pos: at}
			if under != nil && under.pos.Line > 0 {
				s.Pos = under.pos
			}
			list = append(list, s)
		}
	}
	return list
}

// entryDifferences compares maps from names to mappings. An entry that only one of them has is a difference itself.
func entryDifferences(mine, theirs []namedFields, n *Node, path string, at Position) []Setting {
	var list []Setting
	if n != nil && n.pos.Line > 0 {
		at = n.pos
	}
	find := func(in []namedFields, name string) int {
		return slices.IndexFunc(in, func(e namedFields) bool { return e.name == name })
	}
	for _, e := range mine {
		under := n.Get(e.name)
		if i := find(theirs, e.name); i >= 0 {
			list = append(list, differences(e.fields, theirs[i].fields, under, path+e.name+".", at)...)
			continue
		}
		s := Setting{Path: path + e.name, Pos: at}
		if under != nil && under.pos.Line > 0 {
			s.Pos = under.pos
		}
		list = append(list, s)
	}
	for _, e := range theirs {
		if find(mine, e.name) < 0 {
			list = append(list, Setting{Path: path + e.name, Pos: at})
		}
	}
	return list
}

// Same reports whether the variables of both have the same values, field by field.
func (fs Fields) Same(others Fields) bool {
	if len(fs) != len(others) {
		return false
	}
	for i := range fs {
		other, ok := others.Lookup(fs[i].Name)
		if !ok || !fs[i].same(&other) {
			return false
		}
	}
	return true
}

func (f *Field) same(other *Field) bool {
	mine, ok := f.value.(bound)
	theirs, too := other.value.(bound)
	if ok && too {
		return reflect.DeepEqual(mine.current(), theirs.current())
	}
	if f.Kind == KindObject {
		return f.Fields.Same(other.Fields)
	}
	return ok == too && reflect.DeepEqual(f.value.encode(f), other.value.encode(other))
}

// bound is a value that is bound to one variable.
type bound interface{ current() any }

func (s *scalar[T]) current() any { return *s.dst }

func (s *stringList) current() any {
	if len(*s.dst) == 0 {
		return []string(nil)
	}
	return *s.dst
}

func (t *namedTexts) current() any {
	if len(*t.dst) == 0 {
		return []Named(nil)
	}
	return *t.dst
}
