package flows_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mjdevaccount/pulseflow/flows"
)

// The mark @ stands in the text of each node where the place is asked for.
func TestNodeAt(t *testing.T) {
	env := map[string]string{"LEVEL": "hard", "EMPTY": ""}
	for name, tt := range map[string]struct {
		yaml string
		want string
	}{
		"plain":                  {"when: a == @b", "f.yaml:7:22"},
		"plain, start":           {"when: '@b'", "f.yaml:7:18"},
		"plain, two lines":       {"when: a ==\n  @b", "f.yaml:8:13"},
		"plain, blank line":      {"when: a ==\n\n  @b", "f.yaml:9:13"},
		"single quotes":          {"when: 'it''s @b'", "f.yaml:7:24"},
		"single quotes, folded":  {"when: 'a\n  b @c'", "f.yaml:8:15"},
		"double quotes":          {`when: "a \"b\" @c"`, "f.yaml:7:26"},
		"double quotes, escapes": {`when: "\x41\u00e9\U0001F600\t@c"`, "f.yaml:7:40"},
		"double quotes, broken":  {"when: \"a \\\n   b @c\"", "f.yaml:8:16"},
		"literal":                {"when: |\n  a ==\n    @b\n", "f.yaml:9:15"},
		"literal, indented":      {"when: |2-\n    a\n    @b\n", "f.yaml:9:15"},
		"literal, comment":       {"when: |  # what\n  a\n  é @b\n", "f.yaml:9:15"},
		"folded":                 {"when: >-\n  a ==\n  b &&\n  @c\n", "f.yaml:10:13"},
		"folded, more indented":  {"when: >\n  a\n    b\n  @c\n", "f.yaml:10:13"},
		"anchored":               {"when: &x a @b", "f.yaml:7:22"},
		"anchored, quoted":       {"when: &x 'a @b'", "f.yaml:7:23"},
		"flow style":             {"other: {when: a @b}", "f.yaml:7:27"},
		"behind a variable":      {"when: ${LEVEL} @b", "f.yaml:7:26"},
		"within a variable":      {"when: a ${MARKED} b", "f.yaml:7:19"},
		"behind a default":       {"when: ${EMPTY:-x y} + ${LEVEL} + @b", "f.yaml:7:44"},
		"behind an escape":       {"when: $${x} @b", "f.yaml:7:23"},
		"wide characters":        {"when: é世 @b", "f.yaml:7:20"},
	} {
		t.Run(name, func(t *testing.T) {
			env["MARKED"] = "ab@c"
			n := config(t, tt.yaml, env)
			node := n.Get("when")
			if node == nil {
				node = n.Get("other").Get("when")
			}
			text, _ := node.Text()
			before, _, found := strings.Cut(text, "@")
			if !found {
				t.Fatalf("no mark in %q", text)
			}
			if got := node.At(utf8.RuneCountInString(before)).String(); got != tt.want {
				t.Errorf("%q is at %s, want %s", text, got, tt.want)
			}
		})
	}
}

func TestNodeAtTheEnd(t *testing.T) {
	n := config(t, "a: 'xy'\nlist: [1]", nil)
	if got := n.Get("a").At(99).String(); got != "f.yaml:7:17" {
		t.Errorf("beyond the end: %s", got)
	}
	if got, want := n.Get("list").At(3), n.Get("list").Pos(); got != want {
		t.Errorf("in a list: %s, want %s", got, want)
	}
	var none *flows.Node
	if none.At(1) != (flows.Position{}) || none.Key("x") != nil || none.Item(0) != nil || none.Origin() != "" {
		t.Error("a node that is not there has a place")
	}
}

// Whatever the style, each visible character is found where the file has it.
func FuzzNodeAt(f *testing.F) {
	for _, s := range []string{
		"a == b", "'a ''b'' c'", `"a \"b\" \u0041 c"`, "|\n  a\n    b\n  c", ">-\n  a\n\n  b\n  c", "a\n  b\n\n  c", "&x 'a'",
		"{a: b}", "\"a \\\n  b\"",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		src := "version: 1\nflows:\n  f:\n    from: {stream: s}\n    stages:\n      - x:\n          when: " +
			strings.ReplaceAll(value, "\n", "\n          ") + "\n"
		file, d := flows.Parse("f.yaml", []byte(src), environment(nil))
		if d.HasErrors() {
			return
		}
		node := file.Flows[0].Stages[0].Config.Get("when")
		text, ok := node.Text()
		if !ok || strings.Contains(value, "${") || strings.Contains(value, "*") {
			return
		}
		lines := strings.Split(src, "\n")
		i := 0
		for _, r := range text {
			at := node.At(i)
			i++
			line := []rune(lines[at.Line-1])
			if at.Column < 1 || at.Column > len(line)+1 {
				t.Fatalf("%q: character %d is at %s, which is not there", text, i, at)
			}
			if unicode.IsSpace(r) || strings.Contains(value, `\`) {
				continue
			}
			if at.Column > len(line) || line[at.Column-1] != r {
				t.Fatalf("%q: character %d (%q) is at %s in\n%s", text, i, r, at, src)
			}
		}
	})
}
