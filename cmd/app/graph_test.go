package app

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var updateGraphs = flag.Bool("update-graphs", false, "write the golden files of TestGraph anew")

// Golden files, for the shipped file and for one with everything that is drawn
// otherwise: a flow that is off, shared streams, characters that need an escape.
func TestGraph(t *testing.T) {
	shipped, several := filepath.Join("..", "..", "flows.yaml"), filepath.Join("testdata", "graph.several.yaml")
	for golden, args := range map[string][]string{
		"graph.shipped.mmd": {shipped},
		"graph.shipped.dot": {shipped, "--format", "dot"},
		"graph.several.mmd": {several, "--format", "mermaid"},
		"graph.several.dot": {several, "--format", "dot"},
	} {
		t.Run(golden, func(t *testing.T) {
			status, out, errs := invoke(t, nil, "", append([]string{"graph"}, args...)...)
			if status != exitOK || errs != "" {
				t.Fatalf("status %d\n%s", status, errs)
			}
			path := filepath.Join("testdata", golden)
			if *updateGraphs {
				if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGraphErrors(t *testing.T) {
	broken := writeFile(t, strings.Replace(minimal, "dedupe", "dedup", 1))
	for _, args := range [][]string{{broken}, {"nowhere.yaml"}, {"--format", "svg"}, {"a", "b"}} {
		if status, out, errs := invoke(t, nil, "", append([]string{"graph"}, args...)...); status != exitConfig || out != "" || errs == "" {
			t.Errorf("%v: status %d\n%s%s", args, status, out, errs)
		}
	}
}

func TestLabelEscapes(t *testing.T) {
	const label = `a"b#c<d>e\f` + "`g&h|i"
	if got, want := mermaidText(label, "é"), `"a#34;b#35;c#60;d#62;e#92;f#96;g#38;h#124;i<br/>é"`; got != want {
		t.Errorf("mermaid: %s, want %s", got, want)
	}
	if got, want := dotText(label, "é"), `"a\"b#c<d>e\\f`+"`"+`g&h|i\né"`; got != want {
		t.Errorf("dot: %s, want %s", got, want)
	}
}
