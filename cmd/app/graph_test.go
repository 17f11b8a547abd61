package app

import (
	"encoding/json"
	"flag"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
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
	if got, want := dotText(label, "é"), `"a\"b#c<d>e\\f`+"`"+`g&amp;h|i\né"`; got != want {
		t.Errorf("dot: %s, want %s", got, want)
	}
}

// drawing is a graph as it is read from what was printed.
type drawing struct {
	labels map[string]string // of nodes and subgraphs, by id
	edges  []edge
}

var (
	mermaidNode  = regexp.MustCompile(`^ +(?:subgraph )?(\w+)(?:\[\("([^"]*)"\)\]|\{\{"([^"]*)"\}\}|\["([^"]*)"\])$`)
	mermaidEdge  = regexp.MustCompile(`^ +(\w+) (-->|-\.->)(?:\|"([^"]*)"\|)? (\w+)$`)
	mermaidOther = regexp.MustCompile(`^(flowchart LR|  end|  style \w+ stroke-dasharray: 5 5)$`)
	mermaidCode  = regexp.MustCompile(`#(\d+);`)

	dotString = `"((?:[^"\\]|\\.)*)"`
	dotNode   = regexp.MustCompile(`^ +(\w+) \[(?:shape=\w+, )?label=` + dotString + `\]$`)
	dotEdge   = regexp.MustCompile(`^ +(\w+) -> (\w+)(?: \[label=` + dotString + `(?:, style=dashed, ltail=(\w+))?\])?$`)
	dotBox    = regexp.MustCompile(`^  subgraph (\w+) \{$`)
	dotLabel  = regexp.MustCompile(`^    label=` + dotString + `$`)
	dotOther  = regexp.MustCompile(`^(digraph flows \{|  rankdir=LR|  compound=true|  node \[shape=box\]|    style=dashed|  ?\}|\})$`)
)

func readMermaid(t *testing.T, text string) drawing {
	t.Helper()
	d := drawing{labels: make(map[string]string)}
	plain := func(label string) string {
		if strings.ContainsAny(strings.ReplaceAll(label, "<br/>", ""), "<>|`\\&\"") {
			t.Errorf("label %q is not escaped", label)
		}
		label = strings.ReplaceAll(label, "<br/>", "\n")
		return mermaidCode.ReplaceAllStringFunc(label, func(code string) string {
			n, err := strconv.Atoi(code[1 : len(code)-1])
			if err != nil {
				t.Error(err)
			}
			return string(rune(n))
		})
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if m := mermaidNode.FindStringSubmatch(line); m != nil {
			d.labels[m[1]] = plain(m[2] + m[3] + m[4])
		} else if m := mermaidEdge.FindStringSubmatch(line); m != nil {
			d.edges = append(d.edges, edge{from: m[1], to: m[4], label: plain(m[3]), failure: m[2] == "-.->"})
		} else if !mermaidOther.MatchString(line) {
			t.Errorf("no Mermaid: %q", line)
		}
	}
	return d
}

func readDOT(t *testing.T, text string) drawing {
	t.Helper()
	d := drawing{labels: make(map[string]string)}
	box, depth := "", 0
	plain := func(label string) string {
		return html.UnescapeString(strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(label))
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasSuffix(line, " {") {
			depth++
		}
		if m := dotBox.FindStringSubmatch(line); m != nil {
			box = strings.TrimPrefix(m[1], "cluster_")
		} else if m := dotLabel.FindStringSubmatch(line); m != nil {
			d.labels[box] = plain(m[1])
		} else if m := dotNode.FindStringSubmatch(line); m != nil {
			d.labels[m[1]] = plain(m[2])
		} else if m := dotEdge.FindStringSubmatch(line); m != nil {
			from := m[1]
			if m[4] != "" {
				from = strings.TrimPrefix(m[4], "cluster_")
			}
			d.edges = append(d.edges, edge{from: from, to: m[2], label: plain(m[3]), failure: m[4] != ""})
		} else if !dotOther.MatchString(line) {
			t.Errorf("no DOT: %q", line)
		} else if strings.HasSuffix(line, "}") {
			depth--
		}
	}
	if depth != 0 {
		t.Errorf("braces do not match: %d are open", depth)
	}
	return d
}

// A large file with names that need every escape is drawn in both formats alike, each
// stream once, and every label reads as it stands in the file.
func TestGraphOfALargeFile(t *testing.T) {
	const flows = 300
	key := func(i int) string {
		return fmt.Sprintf("k%d\"[]{}()<br/>|#34;&amp;&#35;é日本\U0001F600'\\n`%%%%end-->", i)
	}
	var b strings.Builder
	b.WriteString("version: 1\nproviders:\n  Polygon.io: {rate: 5}\nflows:\n")
	for i := range flows {
		fmt.Fprintf(&b, "  f%d:\n    enabled: %v\n    from: {stream: s%d, key: %s}\n    stages: [dedupe]\n    to: {stream: s%d, key: %s}\n",
			i, i%7 != 0, i, quoted(t, key(i)), i+1, quoted(t, key(i+1)))
	}
	fmt.Fprintf(&b, "  last:\n    from: {stream: s5, key: %s, group: g}\n    stages:\n      - validate: {schema: \"x\\ny\\e\\\"]\", files: {v1: s.json}}\n"+
		"      - route: {to: {s7: 'payload.x == \"]\\\"|\"'}, keys: {s7: %s}}\n", quoted(t, key(5)), quoted(t, key(7)))
	path := writeFile(t, b.String())
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "s.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var drawings []drawing
	for format, read := range map[string]func(*testing.T, string) drawing{"mermaid": readMermaid, "dot": readDOT} {
		status, out, errs := invoke(t, nil, "", "graph", path, "--format", format)
		if status != exitOK {
			t.Fatalf("status %d\n%s", status, errs)
		}
		d := read(t, out)
		drawings = append(drawings, d)
		streams := make(map[string]int)
		for _, label := range d.labels {
			streams[label]++
		}
		for i := range flows + 1 {
			if label := fmt.Sprintf("s%d\n%s", i, key(i)); streams[label] != 1 {
				t.Errorf("%s: stream %q is drawn %d times", format, label, streams[label])
			}
		}
		if label := "validate\nx\uFFFDy\uFFFD\"]"; streams[label] != 1 {
			t.Errorf("%s: no %q", format, label)
		}
		for _, e := range d.edges {
			if d.labels[e.from] == "" || d.labels[e.to] == "" {
				t.Errorf("%s: %+v leads from or to nothing", format, e)
			}
		}
		if len(d.edges) < 3*flows {
			t.Errorf("%s: %d edges", format, len(d.edges))
		}
	}
	if diff := cmp.Diff(drawings[0], drawings[1], cmp.AllowUnexported(drawing{}, edge{})); diff != "" {
		t.Errorf("the formats differ:\n%s", diff)
	}
}

func quoted(t *testing.T, text string) string {
	t.Helper()
	out, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
