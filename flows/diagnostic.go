package flows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a file. Line and Column count from 1, columns in characters; a zero Line means the file as a
// whole.
type Position struct {
	File         string
	Line, Column int
}

// String returns "file:line:column", without the parts that are not known.
func (p Position) String() string {
	switch {
	case p.Line == 0:
		return p.File
	case p.File == "":
		return fmt.Sprintf("%d:%d", p.Line, p.Column)
	default:
		return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
	}
}

func (p Position) compare(q Position) int {
	return cmp.Or(strings.Compare(p.File, q.File), cmp.Compare(p.Line, q.Line), cmp.Compare(p.Column, q.Column))
}

// Severity says whether a diagnostic stops the file from being used.
type Severity uint8

// The severities. An Error makes the file unusable; a Warning does not.
const (
	Error Severity = iota
	Warning
)

// String returns "error" or "warning".
func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "error"
}

// CodeRegistryUnused is the code of the warning that registry.enabled has no effect in this version.
const CodeRegistryUnused = "registry-unused"

// Diagnostic is one thing to say about a file. Code is a stable identifier; only warnings have one. Related holds other
// places that matter, such as where a key was declared first. Beyond is set when an error is about something that the
// JSON Schema of the file cannot say.
type Diagnostic struct {
	Pos      Position
	Severity Severity
	Code     string
	Message  string
	Related  []Related
	Beyond   Limit
}

// Related is a second place that a diagnostic speaks of.
type Related struct {
	Pos     Position
	Message string
}

// String returns "position: message" for an error and "position: warning: message [code]" for a warning.
func (d Diagnostic) String() string {
	var b strings.Builder
	if pos := d.Pos.String(); pos != "" {
		b.WriteString(pos)
		b.WriteString(": ")
	}
	if d.Severity == Warning {
		b.WriteString("warning: ")
	}
	b.WriteString(d.Message)
	if d.Code != "" {
		fmt.Fprintf(&b, " [%s]", d.Code)
	}
	return b.String()
}

// Diagnostics is everything that was found. It is an error; return it through [Diagnostics.Err], which is nil when
// nothing in it is an error.
type Diagnostics []Diagnostic

// Add appends one diagnostic.
func (d *Diagnostics) Add(diagnostic Diagnostic) {
	*d = append(*d, diagnostic)
}

// Errorf appends an error at a position.
func (d *Diagnostics) Errorf(pos Position, format string, args ...any) {
	d.Add(Diagnostic{Pos: pos, Message: fmt.Sprintf(format, args...)})
}

// Beyondf appends an error at a position about what a JSON Schema cannot say.
func (d *Diagnostics) Beyondf(pos Position, limit Limit, format string, args ...any) {
	d.Add(Diagnostic{Pos: pos, Message: fmt.Sprintf(format, args...), Beyond: limit})
}

// Warnf appends a warning at a position, under a stable code.
func (d *Diagnostics) Warnf(pos Position, code, format string, args ...any) {
	d.Add(Diagnostic{Pos: pos, Severity: Warning, Code: code, Message: fmt.Sprintf(format, args...)})
}

// Sort orders the diagnostics by position and drops those that say the same thing at the same place.
func (d *Diagnostics) Sort() {
	slices.SortStableFunc(*d, func(a, b Diagnostic) int {
		return cmp.Or(a.Pos.compare(b.Pos), cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Message, b.Message))
	})
	*d = slices.CompactFunc(*d, func(a, b Diagnostic) bool {
		return a.Pos == b.Pos && a.Severity == b.Severity && a.Code == b.Code && a.Message == b.Message
	})
}

// HasErrors reports whether any of the diagnostics is an error.
func (d Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(d, func(x Diagnostic) bool { return x.Severity == Error })
}

// Err returns nil when nothing is an error, and the errors among the diagnostics otherwise. Find them again with
// errors.As and a Diagnostics target.
func (d Diagnostics) Err() error {
	var errs Diagnostics
	for _, x := range d {
		if x.Severity == Error {
			errs = append(errs, x)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// Error returns the same text as String.
func (d Diagnostics) Error() string { return d.String() }

// String returns one diagnostic a line, without a newline at the end.
func (d Diagnostics) String() string {
	lines := make([]string, len(d))
	for i, x := range d {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}
