package flows

import (
	"cmp"
	"strconv"
	"time"
)

// Kind is what a field's value is.
type Kind uint8

// The kinds of value.
const (
	KindString      Kind = iota + 1 // text
	KindInteger                     // a whole number
	KindNumber                      // a finite number
	KindBoolean                     // true, false, yes, no, 1, 0, in any letter case
	KindDuration                    // a number with a unit of time: 100ms, 1h30m
	KindSize                        // a number with a unit of bytes: 64KiB, 1MiB
	KindURL                         // an absolute URL
	KindStrings                     // a list of texts
	KindObject                      // a mapping with the keys of Field.Fields
	KindMap                         // a mapping from free names to mappings with the keys of Field.Fields
	KindStages                      // a list of stages
	KindExpression                  // an expression over an event
	KindExpressions                 // a map from free names to expressions
	KindAny                         // any value, which its owner decodes
	KindList                        // a list of mappings with the keys of Field.Fields
	KindValues                      // a mapping from free names to values of the one field in Field.Fields
	KindTexts                       // a map from free names to texts
)

// String returns the name of the kind as documentation shows it.
func (k Kind) String() string {
	names := [...]string{
		KindString: "string", KindInteger: "integer", KindNumber: "number", KindBoolean: "boolean",
		KindDuration: "duration", KindSize: "size", KindURL: "URL", KindStrings: "list of strings",
		KindObject: "mapping", KindMap: "map", KindStages: "list of stages",
		KindExpression: "expression", KindExpressions: "map of expressions", KindTexts: "map of strings",
		KindAny: "any value", KindList: "list of mappings", KindValues: "map of values",
	}
	if k == 0 || int(k) >= len(names) {
		return "unknown"
	}
	return names[k]
}

// String declares a text. In the file a text that YAML would take for a number, a boolean or nothing must be quoted.
func String(name string, dst *string, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindString, value: &scalar[string]{
		dst: dst, parse: parseString, format: func(s string) string { return s }, typed: stringTyped,
	}}, opts)
}

// Enum declares a text that must be one of allowed.
func Enum(name string, dst *string, allowed []string, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindString, Allowed: allowed, value: &scalar[string]{
		dst: dst, parse: parseString, format: func(s string) string { return s },
	}}, opts)
}

// Int declares a whole number.
func Int(name string, dst *int, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindInteger, value: integer(dst)}, opts)
}

// Int64 declares a whole number of 64 bits.
func Int64(name string, dst *int64, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindInteger, value: integer(dst)}, opts)
}

func integer[T int | int64](dst *T) value {
	return &scalar[T]{
		dst: dst, parse: parseInt[T], compare: cmp.Compare[T], typed: unquoted("an integer"),
		format: func(v T) string { return strconv.FormatInt(int64(v), 10) },
	}
}

// Float declares a finite number.
func Float(name string, dst *float64, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindNumber, value: &scalar[float64]{
		dst: dst, parse: parseFloat, compare: cmp.Compare[float64], typed: unquoted("a number"),
		format: formatFloat,
	}}, opts)
}

// Bool declares a switch: true or false, yes or no, 1 or 0, in any letter case.
func Bool(name string, dst *bool, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindBoolean, value: &scalar[bool]{
		dst: dst, parse: parseBool, typed: unquoted("true or false"), format: strconv.FormatBool,
	}}, opts)
}

// Duration declares a length of time, never negative. It needs a unit: ns, us, ms, s, m, h or a sum such as 1h30m.
func Duration(name string, dst *time.Duration, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindDuration, value: &scalar[time.Duration]{
		dst: dst, parse: parseDuration, compare: cmp.Compare[time.Duration], format: formatDuration,
	}}, opts)
}

// Size declares a number of bytes. It needs a unit: B, KB, MB and GB are powers of 1000; KiB, MiB and GiB are powers
// of 1024.
func Size(name string, dst *int64, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindSize, value: &scalar[int64]{
		dst: dst, parse: parseSize, compare: cmp.Compare[int64], format: formatSize,
	}}, opts)
}

// URL declares an absolute URL with one of the given schemes, or an empty text. A password in it is never shown.
func URL(name string, dst *string, schemes []string, doc string, opts ...Option) Field {
	parse := func(text string) (string, error) { return parseURL(text, schemes) }
	return newField(Field{Name: name, Doc: doc, Kind: KindURL, value: &scalar[string]{
		dst: dst, parse: parse, format: redactURL,
	}}, opts)
}

// Strings declares a list of texts.
func Strings(name string, dst *[]string, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindStrings, value: &stringList{dst: dst}}, opts)
}

// Expression declares a text in a language that the field's owner knows: package flows only reads it. Any scalar will do,
// since true and 5 are expressions too. The owner finds the place of an error within it by [Node.At].
func Expression(name string, dst *string, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindExpression, value: &scalar[string]{
		dst: dst, parse: parseString, format: func(s string) string { return s }, typed: finite,
	}}, opts)
}

// Named is a name and the text that the file gives it.
type Named struct{ Name, Text string }

// Expressions declares a mapping from free names to expressions, in the order of the file.
func Expressions(name string, dst *[]Named, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindExpressions, value: &namedTexts{dst: dst}}, opts)
}

// Texts declares a mapping from free names to texts, in the order of the file.
func Texts(name string, dst *[]Named, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindTexts, value: &namedTexts{dst: dst}}, opts)
}

// Object declares a mapping within the mapping. An absent one has all its defaults; what is required in it is required
// only when it is given, unless it is itself required.
func Object(name string, fields Fields, doc string, opts ...Option) Field {
	return newField(Field{Name: name, Doc: doc, Kind: KindObject, Fields: fields, value: object{}}, opts)
}

func newField(f Field, opts []Option) Field {
	for _, opt := range opts {
		opt(&f)
	}
	return f
}
