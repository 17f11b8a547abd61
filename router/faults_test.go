package router_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

var update = flag.Bool("update", false, "write the golden files of testdata anew")

// TestFaults reads testdata/plan.<fault>.yml, each with one fault that only the plan
// finds, and compares what is reported with the .golden file beside it. Run it with
// -update after a change of wording, and read the difference.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/plan.*.yml")
	if err != nil || len(files) < 40 {
		t.Fatalf("found %d files: %v", len(files), err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(strings.TrimSuffix(strings.TrimPrefix(name, "plan."), ".yml"), func(t *testing.T) {
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f, d := flows.Parse(name, src, nil)
			f.Dir = "testdata"
			_, more := router.NewPlan(f, stages.Builtin())
			d = append(d, more...)
			d.Sort()
			got := d.String() + "\n"
			golden := strings.TrimSuffix(path, ".yml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("diagnostics differ (-want +got):\n%s", diff)
			}
			if len(d) != 1 || d[0].Pos.Line == 0 || d[0].Pos.Column == 0 {
				t.Errorf("%d diagnostics, want one with its place:\n%s", len(d), got)
			}
		})
	}
}

// A file with ten faults has ten diagnostics, in the order of the file.
func TestTenFaults(t *testing.T) {
	src, err := os.ReadFile("testdata/ten_faults.yml")
	if err != nil {
		t.Fatal(err)
	}
	f, d := flows.Parse("f.yaml", src, nil)
	_, more := router.NewPlan(f, stages.Builtin())
	d = append(d, more...)
	d.Sort()
	var got []string
	for _, x := range d {
		got = append(got, strings.TrimPrefix(x.Pos.String(), "f.yaml:"))
	}
	want := []string{"8:9", "8:17", "8:31", "9:28", "10:39", "11:44", "12:24", "12:39", "13:31", "14:26"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("places (-want +got):\n%s\n%s", diff, d)
	}
}
