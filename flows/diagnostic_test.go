package flows_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
)

func environment(vars map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := vars[name]
		return v, ok
	}
}

// check does what a program does with a file: read it, then let the owner of the stages decode their fields.
func check(f *flows.File, diags flows.Diagnostics) flows.Diagnostics {
	for _, w := range f.Flows {
		for _, s := range w.Stages {
			if s.Kind == "dedupe" {
				new(dedupe).fields().Decode(s.Config, scope(w, s), &diags)
			}
		}
	}
	diags.Sort()
	return diags
}

// TestFaults reads testdata/conf.<fault>.yml, each with one fault, and compares what is reported with the .golden file
// beside it. Run it with -update after a change of wording, and read the difference.
func TestFaults(t *testing.T) {
	env := environment(map[string]string{
		"PROVIDER":   "ibkr",
		"EMPTY":      "",
		"BACKEND":    "kafka",
		"WITH_UNIT":  "30s",
		"SECRET_URL": "https://:hunter2@localhost",
		"YAML":       "mdp}\nevil: true",
		"BINARY":     "\xff\xfe",
		"API_TOKEN":  "hunter2",
	})
	files, err := filepath.Glob("testdata/conf.*.yml")
	if err != nil || len(files) < 40 {
		t.Fatalf("found %d files: %v", len(files), err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(strings.TrimSuffix(strings.TrimPrefix(name, "conf."), ".yml"), func(t *testing.T) {
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got := check(flows.Parse(name, src, env)).String() + "\n"
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
			if strings.TrimSpace(got) == "" {
				t.Error("the fault is not reported")
			}
			if strings.Contains(got, "hunter2") {
				t.Error("a password is shown")
			}
		})
	}
}

func TestTenFaults(t *testing.T) {
	src, err := os.ReadFile("testdata/conf.ten_faults.yml")
	if err != nil {
		t.Fatal(err)
	}
	if _, diags := flows.Parse("f.yaml", src, nil); len(diags) != 10 {
		t.Errorf("got %d diagnostics, want 10:\n%v", len(diags), diags)
	}
}

func TestDiagnostics(t *testing.T) {
	at := func(file string, line, column int) flows.Position {
		return flows.Position{File: file, Line: line, Column: column}
	}
	var d flows.Diagnostics
	d.Errorf(at("b.yaml", 1, 1), "in another file")
	d.Errorf(at("a.yaml", 10, 2), "tenth line")
	d.Errorf(at("a.yaml", 2, 10), "second line, right")
	d.Warnf(at("a.yaml", 2, 9), "some-code", "second line, %s", "left")
	d.Errorf(at("a.yaml", 2, 10), "second line, right")
	d.Errorf(at("a.yaml", 2, 9), "error before warning")
	d.Errorf(flows.Position{File: "a.yaml"}, "the file")
	d.Errorf(flows.Position{}, "nowhere")
	d.Errorf(at("", 3, 4), "no file")
	d.Sort()
	want := `nowhere
3:4: no file
a.yaml: the file
a.yaml:2:9: error before warning
a.yaml:2:9: warning: second line, left [some-code]
a.yaml:2:10: second line, right
a.yaml:10:2: tenth line
b.yaml:1:1: in another file`
	if diff := cmp.Diff(want, d.String()); diff != "" {
		t.Errorf("text differs (-want +got):\n%s", diff)
	}
}

func TestDiagnosticsErr(t *testing.T) {
	var d flows.Diagnostics
	d.Warnf(flows.Position{}, "code", "only a warning")
	if d.HasErrors() || d.Err() != nil {
		t.Errorf("a warning is an error: %v", d.Err())
	}
	d.Errorf(flows.Position{}, "wrong")
	err := fmt.Errorf("load: %w", d.Err())
	var errs flows.Diagnostics
	if !d.HasErrors() || !errors.As(err, &errs) || len(errs) != 1 || err.Error() != "load: wrong" {
		t.Errorf("got %q with %v", err, errs)
	}
}

func TestDuplicatesTellWhereTheFirstIs(t *testing.T) {
	_, diags := flows.Parse("f.yaml", []byte(minimal+"version: 1\n"), nil)
	want := flows.Diagnostics{{
		Pos:     flows.Position{File: "f.yaml", Line: 6, Column: 1},
		Message: `duplicate key "version": first declared at 1:1: rename or remove one`,
		Related: []flows.Related{{
			Pos: flows.Position{File: "f.yaml", Line: 1, Column: 1}, Message: "first declared here",
		}},
	}}
	if diff := cmp.Diff(want, diags); diff != "" {
		t.Errorf("diagnostics differ (-want +got):\n%s", diff)
	}
}

func TestNearest(t *testing.T) {
	names := []string{"capacity", "key", "store", "ttl", "max_interval", "v1", "v2"}
	tests := []struct{ name, want string }{
		{"tll", "ttl"},
		{"TTL", "ttl"},
		{"keys", "key"},
		{"capcity", "capacity"},
		{"maxInterval", "max_interval"},
		{"max-intervall", "max_interval"},
		{"url", ""},
		{"v3", ""},
		{"", ""},
		{"colour", ""},
		{strings.Repeat("x", 1<<20), ""},
	}
	for _, tt := range tests {
		if got := flows.Nearest(tt.name, names); got != tt.want {
			t.Errorf("Nearest(%.20q) = %q, want %q", tt.name, got, tt.want)
		}
	}
}
