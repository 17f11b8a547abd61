package flowtest

import (
	"slices"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Check looks at the tests that stand in a flow file, as Load does, and reports what is
// wrong beyond what is known of the file, which may have faults of its own. It reports
// nothing for a file without tests.
func Check(file *flows.File, kinds *stages.Registry, known flows.Diagnostics) flows.Diagnostics {
	if file.Tests == nil {
		return nil
	}
	s := &Suite{Path: file.Path, Flows: file.Path, kinds: kinds, plans: make(map[string]planned)}
	var (
		d     flows.Diagnostics
		tests []Test
	)
	TestsField(&tests).Decode(file.Tests, "", &d)
	s.resolve(tests, false, &d)
	return slices.DeleteFunc(d, func(x flows.Diagnostic) bool {
		return slices.ContainsFunc(known, func(k flows.Diagnostic) bool { return k.Pos == x.Pos && k.Message == x.Message })
	})
}
