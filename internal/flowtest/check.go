package flowtest

import (
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Check looks at the tests that stand in a flow file, as Load does, and reports what
// is wrong with them alone. It reports nothing for a file without tests.
func Check(file *flows.File, kinds *stages.Registry) flows.Diagnostics {
	if file.Tests == nil {
		return nil
	}
	var d flows.Diagnostics
	TestsField(new([]Test)).Decode(file.Tests, "", &d)
	if d.HasErrors() {
		return d
	}
	_, d = Load(file.Path, kinds, false)
	return d
}
