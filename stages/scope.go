package stages

import (
	"fmt"
	"strings"

	"github.com/mjdevaccount/pulseflow/flows"
)

// Where names the stage as messages do: flow "feedback": stage 2 (dedupe).
func (s Scope) Where() string {
	return fmt.Sprintf("flow %q: stage %d (%s)", s.Flow, s.Index, s.Stage)
}

// At is the position of the named key's value, the stage's own when the file does
// not give the key.
func (s Scope) At(key string) flows.Position {
	if n := s.Node.Get(key); n != nil {
		return n.Pos()
	}
	return s.Pos
}

// Report adds an error about the named key to d.
func (s Scope) Report(d *flows.Diagnostics, key, message string) {
	d.Errorf(s.At(key), "%s: %s: %s", s.Where(), key, message)
}

// ReportBeyond is Report about what the JSON Schema of the file cannot say, and so no
// editor marks: see flows.Limits.
func (s Scope) ReportBeyond(d *flows.Diagnostics, limit flows.Limit, key, message string) {
	d.Beyondf(s.At(key), limit, "%s: %s: %s", s.Where(), key, message)
}

// Warn adds a warning about the named key to d. The code is what a user silences
// it by.
func (s Scope) Warn(d *flows.Diagnostics, key, code, message string) {
	d.Warnf(s.At(key), code, "%s: %s: %s", s.Where(), key, message)
}

// unknown words an error about a name that is none of names.
func unknown(what, name string, names []string) string {
	return fmt.Sprintf("unknown %s %q%s; known: %s", what, name, flows.DidYouMean(name, names), strings.Join(names, ", "))
}
