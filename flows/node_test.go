package flows_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
)

func TestNode(t *testing.T) {
	n := config(t, `
text: word
number: ${NUMBER}
quoted: "${NUMBER}"
large: 99999999999999999999
rate: 1.5
yes: yes
flag: true
nothing: ~
list: [1, "1", "${A}-${B:-b}"]
map: {a: {b: c}}
`[1:], map[string]string{"NUMBER": "5", "A": "a"})
	want := map[string]any{
		"text": "word", "number": int64(5), "quoted": "5", "large": 1e20, "rate": 1.5, "yes": "yes", "flag": true,
		"nothing": nil, "list": []any{int64(1), "1", "a-b"}, "map": map[string]any{"a": map[string]any{"b": "c"}},
	}
	if diff := cmp.Diff(want, n.Value()); diff != "" {
		t.Errorf("value differs (-want +got):\n%s", diff)
	}
	if text, ok := n.Get("number").Text(); text != "5" || !ok {
		t.Errorf("text is %q, %v", text, ok)
	}
	for _, key := range []string{"nothing", "list", "map", "absent"} {
		if text, ok := n.Get(key).Text(); text != "" || ok {
			t.Errorf("%s has the text %q, %v", key, text, ok)
		}
	}
	if got := n.Get("map").Get("a").Get("b").Pos().String(); got != "f.yaml:16:24" {
		t.Errorf("position is %s", got)
	}
	if diff := cmp.Diff([]string{"NUMBER"}, n.Get("number").Variables()); diff != "" {
		t.Errorf("variables differ (-want +got):\n%s", diff)
	}
}

func TestNilNode(t *testing.T) {
	var n *flows.Node
	if n.Get("a") != nil || n.Value() != nil || n.Variables() != nil || n.Pos() != (flows.Position{}) {
		t.Error("a nil node is something")
	}
	if got := n.Invalid("scope", "must be given").String(); got != "scope: must be given" {
		t.Errorf("got %q", got)
	}
}

func TestNodeDiagnostics(t *testing.T) {
	n := config(t, "a: word\nb: 5\nc: [x]\nd: ${D}", map[string]string{"D": "x\ny"})
	var diags flows.Diagnostics
	diags.Add(n.Get("a").Invalid("x: a", "must be shorter"))
	diags.Add(n.Get("b").Invalid("x: b", "expected a word"))
	diags.Add(n.Get("c").Invalid("x: c", "expected a word"))
	diags.Add(n.Get("d").Invalid("", "must be shorter"))
	n.Get("a").Errorf(&diags, "x", "a is %s", "wrong")
	want := `f.yaml:7:14: x: a: must be shorter, found "word"
f.yaml:8:14: x: b: expected a word, found integer 5
f.yaml:9:14: x: c: expected a word, found a list
f.yaml:10:14: D="x\ny": must be shorter
f.yaml:7:14: x: a is wrong`
	if diff := cmp.Diff(want, diags.String()); diff != "" {
		t.Errorf("diagnostics differ (-want +got):\n%s", diff)
	}
}
