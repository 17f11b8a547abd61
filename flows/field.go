package flows

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fields declares the keys of one mapping. Each [Field] is bound to the variable it fills, so a configuration struct
// usually has a method that returns its Fields.
type Fields []Field

// Field declares one key. The exported part describes it and is all that a generator of documentation or of a schema
// needs; the binding to a variable is made by the constructors [String], [Int], [Object] and so on.
type Field struct {
	// Name is the key, in snake_case.
	Name string
	// Doc says what the key does, with the unit and what zero means: a phrase without capital and full stop.
	Doc string
	// Kind is what the value must be.
	Kind Kind
	// Default is the value of an absent key, written as in the file. It means something only if HasDefault is true;
	// an absent key without a default leaves its variable alone.
	Default    string
	HasDefault bool
	// Allowed lists the only texts that are accepted; empty means any.
	Allowed []string
	// Min and Max are the inclusive bounds and Above is an exclusive lower bound, written as in the file; empty means
	// none.
	Min, Max, Above string
	// Required means that the key must be given; a required string must not be empty either.
	Required bool
	// Secret means that the value is never shown, neither in diagnostics nor in a listing.
	Secret bool
	// Example is a value worth showing, written as in the file.
	Example string
	// Fields declares the keys of an object, or those of each entry of a map.
	Fields Fields

	value      value
	check      func() error
	neighbours []string
	mistaken   []string
	faulty     bool // what was decoded last is wrong or missing
}

// Option changes a [Field].
type Option func(*Field)

// Required makes an absent key an error, and for a string an empty one.
func Required() Option { return func(f *Field) { f.Required = true } }

// Default sets the value of an absent key, as it would be written in the file: Default("10m"). The text is read by the
// code that reads the file, so a default is subject to the same rules as any value.
func Default(text string) Option {
	return func(f *Field) { f.Default, f.HasDefault = text, true }
}

// Min sets the smallest allowed value, as a number, a time.Duration or the text that the file would have:
// Min(1), Min(time.Second), Min("1KiB").
func Min[T Bound](limit T) Option { return func(f *Field) { f.Min = fmt.Sprint(limit) } }

// Max sets the largest allowed value, written like that of [Min].
func Max[T Bound](limit T) Option { return func(f *Field) { f.Max = fmt.Sprint(limit) } }

// Above sets a value that the field's value must exceed, written like that of [Min].
func Above[T Bound](limit T) Option { return func(f *Field) { f.Above = fmt.Sprint(limit) } }

// Bound is what a limit can be written as.
type Bound interface {
	int | int64 | float64 | time.Duration | string
}

// OneOf allows only the given texts, for a string or for each item of a list of strings.
func OneOf(allowed ...string) Option { return func(f *Field) { f.Allowed = allowed } }

// Secret keeps the value out of diagnostics and listings.
func Secret() Option { return func(f *Field) { f.Secret = true } }

// Example sets a value worth showing in the documentation.
func Example(text string) Option { return func(f *Field) { f.Example = text } }

// Check adds a rule of the owner's own. It runs when all fields of the mapping have been read and this one was given or
// has a default, and was sound. A rule that looks at other fields of the mapping names them, and does not run when one
// of them is faulty. The rule's error is reported at the value, after the field's name, and is best worded like the
// built-in ones, "must be at least initial"; see [Node.Invalid]. It must not contain the value of a secret.
func Check(rule func() error, neighbours ...string) Option {
	return func(f *Field) { f.check, f.neighbours = rule, neighbours }
}

// Mistaken names what is easily written for the field, in small letters: an unknown key of such a name is taken for it,
// whatever other field is spelled more like it.
func Mistaken(names ...string) Option { return func(f *Field) { f.mistaken = names } }

// nearest returns the name of the field that an unknown key was probably meant for, or "".
func (fs Fields) nearest(key string) string {
	for i := range fs {
		if slices.Contains(fs[i].mistaken, fold(key)) {
			return fs[i].Name
		}
	}
	if strings.Contains(key, "${") {
		return ""
	}
	return Nearest(key, fs.Names())
}

// faulty reports whether what was decoded last for a field, or for one within the objects on the way to it, is wrong or
// missing.
func (fs Fields) faulty(path ...string) bool {
	i := slices.IndexFunc(fs, func(f Field) bool { return f.Name == path[0] })
	switch {
	case i < 0:
		return false
	case len(path) == 1:
		return fs[i].faulty
	default:
		return fs[i].Fields.faulty(path[1:]...)
	}
}

// Faulty returns the names of the fields whose values were wrong or missing when they were decoded last.
func (fs Fields) Faulty() []string {
	var names []string
	for i := range fs {
		if fs[i].faulty {
			names = append(names, fs[i].Name)
		}
	}
	return names
}

// setFaulty marks the field, and all that is within an object.
func (f *Field) setFaulty(faulty bool) {
	f.faulty = faulty
	if f.Kind != KindObject {
		return
	}
	for i := range f.Fields {
		f.Fields[i].setFaulty(faulty)
	}
}

// Lookup returns the field with the given name.
func (fs Fields) Lookup(name string) (Field, bool) {
	i := slices.IndexFunc(fs, func(f Field) bool { return f.Name == name })
	if i < 0 {
		return Field{}, false
	}
	return fs[i], true
}

// Names returns the names of the fields, sorted.
func (fs Fields) Names() []string {
	names := make([]string, len(fs))
	for i, f := range fs {
		names[i] = f.Name
	}
	slices.Sort(names)
	return names
}

// Verify reports what is wrong with the declarations themselves: a repeated name, a default or bound that cannot be
// read or that the field would refuse, a field without documentation, a required field with a default. A test of the
// package that declares fields should call it; [Fields.Decode] reports the same faults, at the mapping.
func (fs Fields) Verify() error {
	var errs []error
	seen := make(map[string]bool, len(fs))
	for i := range fs {
		f := &fs[i]
		if err := f.verify(); err != nil {
			errs = append(errs, fmt.Errorf("field %q: %w", f.Name, err))
		}
		if seen[f.Name] {
			errs = append(errs, fmt.Errorf("field %q: declared twice", f.Name))
		}
		seen[f.Name] = true
		for _, name := range f.neighbours {
			if _, ok := fs.Lookup(name); !ok {
				errs = append(errs, fmt.Errorf("field %q: its check looks at %q, which is not declared", f.Name, name))
			}
		}
	}
	return errors.Join(errs...)
}

func (f *Field) verify() error {
	switch {
	case f.Name == "" || strings.Trim(f.Name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "":
		return errors.New("name must be snake_case")
	case f.Doc == "":
		return errors.New("has no documentation")
	case f.value == nil:
		return errors.New("was not made by a constructor of package flows")
	case f.Required && f.HasDefault:
		return errors.New("is required and has a default")
	}
	if err := f.Fields.Verify(); err != nil {
		return err
	}
	return f.value.verify(f)
}
