package flows_test

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
)

var update = flag.Bool("update", false, "write what the tests see to the golden files")

// dedupe is a stage's configuration, as a package of stages declares one.
type dedupe struct {
	Key      string
	Capacity int
	TTL      time.Duration
	Store    string
}

func (c *dedupe) fields() flows.Fields {
	return flows.Fields{
		flows.String("key", &c.Key, "what two events must share to be the same", flows.Default("id")),
		flows.Int("capacity", &c.Capacity, "the number of keys that are remembered", flows.Default("10000"),
			flows.Min(1)),
		flows.Duration("ttl", &c.TTL, "how long a key is remembered", flows.Default("10m"),
			flows.Min(time.Second)),
		flows.Enum("store", &c.Store, []string{"memory", "redis"}, "where keys are kept", flows.Default("memory")),
	}
}

func scope(w flows.Flow, s flows.StageSpec) string {
	return fmt.Sprintf("flow %q: stage %d (%s)", w.Name, s.Index, s.Kind)
}

// config parses a mapping as the configuration of a stage.
func config(t *testing.T, yaml string, env map[string]string) *flows.Node {
	t.Helper()
	src := "version: 1\nflows:\n  f:\n    from: {stream: s}\n    stages:\n      - x:\n" + indented(yaml, 10)
	f, diags := flows.Parse("f.yaml", []byte(src), environment(env))
	if err := diags.Err(); err != nil {
		t.Fatalf("parse: %v", err)
	}
	return f.Flows[0].Stages[0].Config
}

func indented(text string, by int) string {
	pad := strings.Repeat(" ", by)
	return pad + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+pad) + "\n"
}

// everything has a field of each kind.
type everything struct {
	S  string
	E  string
	I  int
	L  int64
	F  float64
	B  bool
	D  time.Duration
	Z  int64
	U  string
	SS []string
	O  struct{ P, Q string }
}

func (e *everything) fields() flows.Fields {
	return flows.Fields{
		flows.String("s", &e.S, "a string"),
		flows.Enum("e", &e.E, []string{"one", "two", "3"}, "a choice"),
		flows.Int("i", &e.I, "an integer", flows.Min(-10), flows.Max(100_000)),
		flows.Int64("l", &e.L, "a long integer"),
		flows.Float("f", &e.F, "a number", flows.Above(-1.5), flows.Max(1e6)),
		flows.Bool("b", &e.B, "a switch"),
		flows.Duration("d", &e.D, "a duration", flows.Max(time.Hour)),
		flows.Size("z", &e.Z, "a size", flows.Max("1GiB")),
		flows.URL("u", &e.U, []string{"http", "https"}, "a URL"),
		flows.Strings("ss", &e.SS, "some strings", flows.OneOf("a", "b", "c")),
		flows.Object("o", flows.Fields{
			flows.String("p", &e.O.P, "an inner string", flows.Default("inner")),
			flows.String("q", &e.O.Q, "a required inner string", flows.Required()),
		}, "an object"),
	}
}

func TestDecodeAccepts(t *testing.T) {
	env := map[string]string{"FIVE": "5", "HALF": "0.5", "YES": "YES", "NULL": "null", "WORD": "word", "EMPTY": ""}
	tests := []struct {
		yaml string
		want func(*everything)
	}{
		{`s: word`, func(e *everything) { e.S = "word" }},
		{`s: ""`, func(*everything) {}},
		{`s: "5"`, func(e *everything) { e.S = "5" }},
		{`s: ${FIVE}`, func(e *everything) { e.S = "5" }},
		{`s: ${NULL}`, func(e *everything) { e.S = "null" }},
		{`s: "${EMPTY:-}"`, func(*everything) {}},
		{`s: ${UNSET:-}`, func(*everything) {}},
		{`s: 2026-11-24`, func(e *everything) { e.S = "2026-11-24" }},
		{`s: 1.4.61`, func(e *everything) { e.S = "1.4.61" }},
		{`s: no`, func(e *everything) { e.S = "no" }},
		{"s: |\n  two\n  lines", func(e *everything) { e.S = "two\nlines\n" }},
		{`s: "a $${WORD} b ${WORD} $WORD $$"`, func(e *everything) { e.S = "a ${WORD} b word $WORD $$" }},
		{`e: two`, func(e *everything) { e.E = "two" }},
		{`e: 3`, func(e *everything) { e.E = "3" }},
		{`i: 5`, func(e *everything) { e.I = 5 }},
		{`i: +5`, func(e *everything) { e.I = 5 }},
		{`i: -10`, func(e *everything) { e.I = -10 }},
		{`i: 10_000`, func(e *everything) { e.I = 10000 }},
		{`i: ${FIVE}`, func(e *everything) { e.I = 5 }},
		{`i: "${FIVE}"`, func(e *everything) { e.I = 5 }},
		{`i: 1${FIVE}`, func(e *everything) { e.I = 15 }},
		{`l: 9223372036854775807`, func(e *everything) { e.L = 1<<63 - 1 }},
		{`f: 5`, func(e *everything) { e.F = 5 }},
		{`f: 0.25`, func(e *everything) { e.F = 0.25 }},
		{`f: .5`, func(e *everything) { e.F = 0.5 }},
		{`f: 1.`, func(e *everything) { e.F = 1 }},
		{`f: -1e-3`, func(e *everything) { e.F = -0.001 }},
		{`f: 1e6`, func(e *everything) { e.F = 1e6 }},
		{`{f: "${HALF}"}`, func(e *everything) { e.F = 0.5 }},
		{`b: true`, func(e *everything) { e.B = true }},
		{`b: Yes`, func(e *everything) { e.B = true }},
		{`b: 1`, func(e *everything) { e.B = true }},
		{`b: ${YES}`, func(e *everything) { e.B = true }},
		{`b: FALSE`, func(*everything) {}},
		{`b: nO`, func(*everything) {}},
		{`b: 0`, func(*everything) {}},
		{`d: 100ms`, func(e *everything) { e.D = 100 * time.Millisecond }},
		{`d: "1m30s"`, func(e *everything) { e.D = 90 * time.Second }},
		{`d: 0s`, func(*everything) {}},
		{`d: ${FIVE}s`, func(e *everything) { e.D = 5 * time.Second }},
		{`z: 1KiB`, func(e *everything) { e.Z = 1024 }},
		{`z: 1.5 MiB`, func(e *everything) { e.Z = 3 << 19 }},
		{`z: 1GiB`, func(e *everything) { e.Z = 1 << 30 }},
		{`z: 2KB`, func(e *everything) { e.Z = 2000 }},
		{`z: 2MB`, func(e *everything) { e.Z = 2e6 }},
		{`z: 0.5GB`, func(e *everything) { e.Z = 5e8 }},
		{`z: 7B`, func(e *everything) { e.Z = 7 }},
		{`u: https://user:word@host/path`, func(e *everything) { e.U = "https://user:word@host/path" }},
		{`u: ""`, func(*everything) {}},
		{`ss: [a, "b"]`, func(e *everything) { e.SS = []string{"a", "b"} }},
		{"ss:\n  - c", func(e *everything) { e.SS = []string{"c"} }},
		{`ss: []`, func(e *everything) { e.SS = []string{} }},
		{`o: {q: x}`, func(e *everything) { e.O.Q = "x" }},
		{`o: {p: y, q: x}`, func(e *everything) { e.O.P, e.O.Q = "y", "x" }},
	}
	for _, tt := range tests {
		t.Run(tt.yaml, func(t *testing.T) {
			var got, want everything
			want.O.P = "inner"
			tt.want(&want)
			var diags flows.Diagnostics
			got.fields().Decode(config(t, tt.yaml, env), "x", &diags)
			if diags != nil {
				t.Fatalf("diagnostics: %v", diags)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("result differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	env := map[string]string{"WORD": "word", "LONG": strings.Repeat("é", 100), "PAD": " 5", "FIVE": "5"}
	tests := []struct{ yaml, want string }{
		{`s: 5`, `s: expected a string, found integer 5: quote it`},
		{`s: 1.10`, `s: expected a string, found number 1.10: quote it`},
		{`s: true`, `s: expected a string, found boolean true: quote it`},
		{`s: {}`, `s: expected a string, found a mapping`},
		{`s:`, `s has no value: give it one or remove the key`},
		{`e: four`, `e: must be one, two or 3, found "four"`},
		{`e: ~`, `e has no value: give it one or remove the key`},
		{`e: ${WORD}`, `e: WORD="word": must be one, two or 3`},
		{`e: ${LONG}`, `e: LONG="` + strings.Repeat("é", 60) + `…": must be one, two or 3`},
		{`i: five`, `i: expected an integer, found string "five"`},
		{`i: 5.0`, `i: expected an integer, found number 5.0`},
		{`i: 0x10`, `i: expected an integer in decimal, without leading zeros, found integer 0x10`},
		{`i: -11`, `i: must be at least -10, found -11`},
		{`i: 100001`, `i: must be at most 100000, found 100001`},
		{`i: ${WORD}`, `i: WORD="word": expected an integer`},
		{`i: ${PAD}`, `i: PAD=" 5": expected an integer`},
		{`i: "${UNSET:-}"`, `i: UNSET (default ""): expected an integer`},
		{`i: ${FIVE}${WORD}`, `i: FIVE="5", WORD="word" makes "5word": expected an integer`},
		{`l: 9223372036854775808`, `l: must fit into 64 bits, found 9223372036854775808`},
		{`f: -1.5`, `f: must be more than -1.5, found -1.5`},
		{`f: .nan`, `f: expected a finite number, found number .nan`},
		{`f: -.INF`, `f: expected a finite number, found number -.INF`},
		{`f: NaN`, `f: expected a finite number, found string "NaN"`},
		{`f: infinity`, `f: expected a finite number, found string "infinity"`},
		{`f: 1e999`, `f: expected a finite number, found string "1e999"`},
		{`f: 0x1p4`, `f: expected a finite number, found string "0x1p4"`},
		{`f: "0.5"`, `f: expected a number, found string "0.5": remove the quotes`},
		{`b: on`, `b: expected true or false (yes, no, 1 and 0 do too), found string "on"`},
		{`b: 2`, `b: expected true or false (yes, no, 1 and 0 do too), found integer 2`},
		{`b: []`, `b: expected true or false, found a list`},
		{`d: 100`, `d: expected a unit (ns, us, ms, s, m, h) after the number, such as 100ms, found integer 100`},
		{`d: "100"`, `d: expected a unit (ns, us, ms, s, m, h) after the number, such as 100ms, found string "100"`},
		{`d: 2h`, `d: must be at most 1h, found "2h"`},
		{`d: -1s`, `d: must not be negative, found "-1s"`},
		{`d: -0s`, `d: must not be negative, found "-0s"`},
		{
			`z: 100`,
			`z: expected a unit after the number (B, KB, KiB, MB, MiB, GB, GiB), such as 1MiB, found integer 100`,
		},
		{`z: 2GiB`, `z: must be at most 1GiB, found "2GiB"`},
		{`z: -1B`, `z: must not be negative, found "-1B"`},
		{`z: 0.5B`, `z: must be a whole number of bytes, at most 8388608GiB, found "0.5B"`},
		{
			`z: 1kib`,
			`z: expected a size with a unit (B, KB, KiB, MB, MiB, GB, GiB), such as 1MiB, found string "1kib"`,
		},
		{`u: ftp://host`, `u: must be a URL that starts with http:// or https://, found "ftp://host"`},
		{`u: http:host`, `u: must be a URL that starts with http:// or https://, found "http:host"`},
		{`ss: a`, `ss: expected a list of strings, found string "a"`},
		{`ss:`, `ss: expected a list of strings, found no value`},
		{`ss: [a, d]`, `ss: item 2: must be a, b or c, found "d"`},
		{`ss: [a, ~]`, `ss: item 2 has no value: give it one or remove the key`},
		{`o: x`, `o: expected a mapping, such as {q: …}, found string "x"`},
		{`o: {}`, `o: missing required field "q"`},
		{`o:`, `o: missing required field "q"`},
		{`o: {q: ""}`, `o: q: must not be empty, found ""`},
		{`o: {q: x, P: y}`, `o: unknown field "P" (did you mean "p"?); fields: p, q`},
		{`[s]`, `expected a mapping of b, d, e, f, i, l, o, s, ss, u, z, found a list`},
		{`ü: 1`, `unknown field "ü"; fields: b, d, e, f, i, l, o, s, ss, u, z`},
	}
	for _, tt := range tests {
		t.Run(tt.yaml, func(t *testing.T) {
			var diags flows.Diagnostics
			new(everything).fields().Decode(config(t, tt.yaml, env), "x", &diags)
			if len(diags) != 1 {
				t.Fatalf("got %d diagnostics, want one: %v", len(diags), diags)
			}
			if diff := cmp.Diff("x: "+tt.want, diags[0].Message); diff != "" {
				t.Errorf("message differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeWithoutNodeUsesDefaults(t *testing.T) {
	var got dedupe
	var diags flows.Diagnostics
	got.fields().Decode(nil, "", &diags)
	want := dedupe{Key: "id", Capacity: 10000, TTL: 10 * time.Minute, Store: "memory"}
	if diff := cmp.Diff(want, got); diff != "" || diags != nil {
		t.Errorf("diagnostics %v, result differs (-want +got):\n%s", diags, diff)
	}
}

func TestDecodeReplacesAWrongValueByTheDefault(t *testing.T) {
	got := dedupe{Capacity: 7}
	var diags flows.Diagnostics
	got.fields().Decode(config(t, `{capacity: many, ttl: 5m}`, nil), "", &diags)
	want := dedupe{Key: "id", Capacity: 10000, TTL: 5 * time.Minute, Store: "memory"}
	if diff := cmp.Diff(want, got); diff != "" || len(diags) != 1 {
		t.Errorf("diagnostics %v, result differs (-want +got):\n%s", diags, diff)
	}
}

// window shows a rule of the owner's own, which looks at two fields.
type window struct {
	From, To int
	Token    string
}

func (w *window) fields() flows.Fields {
	return flows.Fields{
		flows.Int("to", &w.To, "the last one", flows.Default("10"), flows.Check(func() error {
			if w.To < w.From {
				return fmt.Errorf("must be at least from (%d)", w.From)
			}
			return nil
		}, "from")),
		flows.Int("from", &w.From, "the first one", flows.Required()),
		flows.String("token", &w.Token, "a secret", flows.Secret(), flows.Check(func() error {
			if w.Token != "" && len(w.Token) < 5 {
				return errors.New("must have at least 5 characters")
			}
			return nil
		})),
	}
}

func TestCheck(t *testing.T) {
	tests := []struct{ name, yaml, want string }{
		{"holds", `{from: 1, to: 2}`, ""},
		{"sees fields declared later", `{from: 3, to: 2}`, "f.yaml:7:25: x: to: must be at least from (3), found 2"},
		{"default", `{from: 11}`, "f.yaml:7:11: x: to: must be at least from (11), the default is 10"},
		{"not beside a fault", `{from: eleven}`, `f.yaml:7:18: x: from: expected an integer, found string "eleven"`},
		{"not with a wrong value", `{from: 11, to: ten}`, `f.yaml:7:26: x: to: expected an integer, found string "ten"`},
		{"secret", `{from: 1, token: abcd}`, "f.yaml:7:28: x: token: must have at least 5 characters"},
		{
			"secret of a wrong type", `{from: 1, token: 123456}`,
			"f.yaml:7:28: x: token: expected a string, found an integer: quote it",
		},
		{"secret variable", `{from: 1, token: "${TOKEN}"}`, "f.yaml:7:28: x: token: TOKEN: must have at least 5 characters"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var diags flows.Diagnostics
			new(window).fields().Decode(config(t, tt.yaml, map[string]string{"TOKEN": "abcd"}), "x", &diags)
			if diff := cmp.Diff(tt.want, diags.String()); diff != "" {
				t.Errorf("diagnostics differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	var (
		s  string
		i  int
		ss []string
	)
	tests := []struct {
		name  string
		field flows.Field
		want  string
	}{
		{"sound", flows.Int("n", &i, "doc", flows.Default("5"), flows.Min(1), flows.Max(5)), ""},
		{"sound list", flows.Strings("n", &ss, "doc", flows.Default("[a, b]"), flows.OneOf("a", "b")), ""},
		{"name", flows.Int("N", &i, "doc"), "snake_case"},
		{"doc", flows.Int("n", &i, ""), "no documentation"},
		{"literal", flows.Field{Name: "n", Doc: "doc"}, "not made by a constructor"},
		{"required with default", flows.Int("n", &i, "doc", flows.Required(), flows.Default("1")), "has a default"},
		{"default of a wrong type", flows.Int("n", &i, "doc", flows.Default("x")), `default "x": expected an integer`},
		{"default out of bounds", flows.Int("n", &i, "doc", flows.Default("6"), flows.Max(5)), "must be at most 5"},
		{"default not allowed", flows.Enum("n", &s, []string{"a"}, "doc", flows.Default("b")), "must be a"},
		{"bound of a wrong type", flows.Int("n", &i, "doc", flows.Min("1s")), `bound "1s"`},
		{"bound of a string", flows.String("n", &s, "doc", flows.Min(1)), "has no bounds"},
		{"bound of a list", flows.Strings("n", &ss, "doc", flows.Max(1)), "has no bounds"},
		{"default of a list", flows.Strings("n", &ss, "doc", flows.Default("[a")), "not valid YAML"},
		{"default of a list's item", flows.Strings("n", &ss, "doc", flows.Default("[c]"), flows.OneOf("a")), "must be a"},
		{"unbound", flows.Int("n", nil, "doc"), "bound to no variable"},
		{"unbound list", flows.Strings("n", nil, "doc"), "bound to no variable"},
		{"default of an object", flows.Object("n", nil, "doc", flows.Default("x")), "neither default nor bounds"},
		{"inner field", flows.Object("n", flows.Fields{flows.Int("m", &i, "")}, "doc"), `"m": has no documentation`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := flows.Fields{tt.field}.Verify()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Verify() = %v, want %q", err, tt.want)
			}
		})
	}
	alone := flows.Fields{flows.Int("n", &i, "doc", flows.Check(func() error { return nil }, "m"))}
	if err := alone.Verify(); err == nil || !strings.Contains(err.Error(), `looks at "m"`) {
		t.Errorf("Verify() = %v, want the missing neighbour", err)
	}
	twice := flows.Fields{flows.Int("n", &i, "doc"), flows.Int("n", &i, "doc")}
	if err := twice.Verify(); err == nil || !strings.Contains(err.Error(), "declared twice") {
		t.Errorf("Verify() = %v, want the repeated name", err)
	}
}

func TestDecodeReportsAWrongDeclaration(t *testing.T) {
	var diags flows.Diagnostics
	flows.Fields{{Name: "a", Doc: "doc"}}.Decode(config(t, "a: 1", nil), "x", &diags)
	want := `f.yaml:7:11: x: the fields are declared wrongly: field "a": was not made by a constructor of package flows`
	if got := diags.String(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReferenceIsSound(t *testing.T) {
	fields := flows.Reference()
	if err := fields.Verify(); err != nil {
		t.Error(err)
	}
	var walk func(path string, fs flows.Fields)
	walk = func(path string, fs flows.Fields) {
		for _, f := range fs {
			if strings.HasSuffix(f.Doc, ".") || strings.ToLower(f.Doc[:1]) != f.Doc[:1] {
				t.Errorf("%s%s: documentation is not a phrase: %q", path, f.Name, f.Doc)
			}
			if f.Kind.String() == "unknown" {
				t.Errorf("%s%s: kind %d has no name", path, f.Name, f.Kind)
			}
			if f.Kind == flows.KindMap && len(f.Fields) == 0 {
				t.Errorf("%s%s: entries are not declared", path, f.Name)
			}
			walk(path+f.Name+".", f.Fields)
		}
	}
	walk("", fields)
	if _, ok := fields.Lookup("flows"); !ok {
		t.Error("flows is not declared")
	}
}
