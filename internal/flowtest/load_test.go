package flowtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Each fault is reported at its place, and says what to do.
func TestFaults(t *testing.T) {
	const events = "events: [{raw: x}], expect: {elapsed: 0s}"
	for text, want := range map[string]string{
		"tests: []":                      "1:8: tests must not be empty",
		"test: []":                       "1:1: unknown field \"test\" (did you mean \"tests\"?); fields: env, flows, tests|1:7: tests must not be empty",
		"tests: {a: 1}":                  "1:8: tests: expected a list, found a mapping",
		"tests: [1]":                     "1:9: test 1: expected a mapping, such as {name: a soft level halves the rate, events: …}, found integer 1",
		"tests: [{" + events + "}]":      "1:9: test 1: missing required field \"name\", such as name: a soft level halves the rate",
		"tests: [{name: a}]":             "1:9: test \"a\": expects nothing: give it expect, checks, or an outcome of an event; pulseflow test --update writes what happens|1:9: test 1: missing required field \"events\"",
		"tests: [{name: a, events: []}]": "1:9: test \"a\": expects nothing: give it expect, checks, or an outcome of an event; pulseflow test --update writes what happens|1:27: test 1: events must not be empty",
		"tests: [{name: a, events: [{}], expect: {elapsed: 0s}}]":                     "1:28: test \"a\": event 1: says no event: give it one of payload, envelope, raw, base64, from",
		"tests: [{name: a, events: [{raw: x, base64: eA==}], expect: {elapsed: 0s}}]": "1:28: test \"a\": event 1: has raw and base64: give only one of them",
		"tests: [{name: a, events: [{base64: '!'}], expect: {elapsed: 0s}}]":          "1:37: test 1: event 1: base64: must be base64, found \"!\"",
		"tests: [{name: a, events: [{payload: 5}], expect: {elapsed: 0s}}]":           "1:38: test 1: event 1: payload: must be a mapping, found 5",
		"tests: [{name: a, events: [{envelope: [5]}], expect: {elapsed: 0s}}]":        "1:39: test 1: event 1: envelope: must be a mapping (what is no object goes under raw)",
		"tests: [{name: a, events: [{from: no.jsonl, id: a}], expect: {elapsed: 0s}}]": "1:35: test \"a\": event 1: from: DIR/no.jsonl: cannot be read: no such file or directory|" +
			"1:49: test \"a\": event 1: id has no effect with from: entries keep theirs",
		"tests: [{name: a, events: [{raw: x, time: 1s}], expect: {elapsed: 0s}}]":                                 "1:43: test \"a\": event 1: time has no effect without payload",
		"tests: [{name: a, events: [{raw: x, stream: no}], expect: {elapsed: 0s}}]":                               "1:45: test \"a\": event 1: stream: no flow reads \"no\": the flows read telemetry.feedback",
		"tests: [{name: a, flow: feedbak, " + events + "}]":                                                       "1:25: test \"a\": flow: unknown flow \"feedbak\" (did you mean \"feedback\"?); known: feedback",
		"tests: [{name: a, start: now, " + events + "}]":                                                          "1:26: test 1: start: must be a time such as 2026-01-01T00:00:00Z, found \"now\"",
		"tests: [{name: a, until: 5, " + events + "}]":                                                            "1:26: test 1: until: expected a unit (ns, us, ms, s, m, h) after the number, such as 100ms, found integer 5",
		"tests: [{name: a, env: {A: 5}, " + events + "}]":                                                         "1:28: test 1: env: A: expected a string, found integer 5: quote it",
		"tests: [{name: a, env: {SOFT: x}, " + events + "}]":                                                      "flows.yaml:10:49: flow \"feedback\": stage 3 (handle): policy: soft: SOFT=\"x\": expected a finite number",
		"tests: [{name: a, fail: [{stage: handel}], " + events + "}]":                                             "1:34: test \"a\": fail: stage: unknown stage \"handel\" (did you mean \"handle\"?); known: validate, dedupe, handle, rate-apply",
		"tests: [{name: a, fail: [{stage: handle, event: b}], " + events + "}]":                                   "1:49: test \"a\": fail: event: event \"b\": there is none",
		"tests: [{name: a, fail: [{stage: handle, kind: none}], " + events + "}]":                                 "1:26: test 1: fail 1: delay: must be more than 0s with kind none, which would do nothing, the default is 0s",
		"tests: [{name: a, fail: [{stage: handle, kind: fatal}], " + events + "}]":                                "1:48: test 1: fail 1: kind: must be error, permanent, panic or none, found \"fatal\"",
		"tests: [{name: a, events: [{raw: x}]}]":                                                                  "1:9: test \"a\": expects nothing: give it expect, checks, or an outcome of an event; pulseflow test --update writes what happens",
		"tests: [{name: a, events: [{raw: x, outcome: duplicat}]}]":                                               "1:46: test 1: event 1: outcome: must be success, duplicate, filtered or error (did you mean \"duplicate\"?), found \"duplicat\"",
		"tests: [{name: a, events: [{raw: x}], expect: {outcome: {}}}]":                                           "1:48: test 1: expect: unknown field \"outcome\" (did you mean \"outcomes\"?); fields: dead_letters, elapsed, metrics, outcomes, outputs, rates",
		"tests: [{name: a, events: [{raw: x}], expect: {outputs: {telemetry.rate: []}}}]":                         "1:74: test \"a\": outputs: unknown stream \"telemetry.rate\"; known: telemetry.rate_adjustment, telemetry.feedback, telemetry.feedback.dlq",
		"tests: [{name: a, events: [{raw: x}], expect: {outputs: {telemetry.feedback: [{values: {scale: 1}}]}}}]": "1:96: test \"a\": values: \"scale\" is no JSON pointer: it starts with /, as in /payload/scale",
		"tests: [{name: a, events: [{raw: x}], expect: {rates: {ibrk: {scale: 1}}}}]":                             "1:62: test \"a\": rates: unknown provider \"ibrk\" (did you mean \"ibkr\"?); known: ibkr",
		"tests: [{name: a, events: [{raw: x}], expect: {metrics: {\"a{b=}\": 1}}}]":                               "1:67: test \"a\": metrics: \"a{b=}\": must be a metric, such as pulse_consume_total{outcome=\"success\"}",
		"tests: [{name: a, events: [{raw: x}], expect: {dead_letters: [{flow: x, event: y}]}}]": "1:70: test \"a\": dead_letters: unknown flow \"x\"; known: feedback|" +
			"1:80: test \"a\": dead_letters: event: event \"y\": there is none",
		"tests: [{name: a, " + events + "}, {name: a, " + events + "}]":                             "1:70: test \"a\": there is one of this name already: give each its own",
		"flows: no.yaml\ntests: [{name: a, " + events + "}]":                                        "no.yaml: cannot be read: no such file or directory",
		"tests: [{name: a, events: [{name: n, raw: x}, {name: n, raw: y}], expect: {elapsed: 0s}}]": "1:54: test \"a\": event 2: there is an event \"n\" already",
	} {
		path := write(t, flow, text)
		_, d := Load(path, stages.Builtin(), false)
		dir := filepath.Dir(path)
		got := strings.NewReplacer(path+":", "", dir+"/no.jsonl", "DIR/no.jsonl", dir+"/", "").Replace(strings.ReplaceAll(d.String(), "\n", "|"))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n(-want +got):\n%s", text, diff)
		}
	}
}

func TestFilesBesideEachOther(t *testing.T) {
	const tests = "tests: [{name: a, events: [{raw: x}], expect: {elapsed: 0s}}]\n"
	path := write(t, flow+tests, tests)
	dir := filepath.Dir(path)
	flowPath := filepath.Join(dir, "flows.yaml")
	if got := TestFile(flowPath); got != path {
		t.Errorf("test file %q, want %q", got, path)
	}
	for _, p := range []string{path, flowPath} {
		if s := load(t, p, false); s.Flows != flowPath || len(s.Tests) != 1 {
			t.Errorf("%s: %+v", p, s)
		}
	}
	other := filepath.Join(dir, "deep", "other_test.yaml")
	if err := os.Mkdir(filepath.Dir(other), 0o700); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		tests:                               "no flow file of this name without _test is beside it: name one with flows",
		"flows: ../flows.yaml\n" + tests:    "",
		"flows: " + flowPath + "\n" + tests: "",
	} {
		if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, d := Load(other, stages.Builtin(), false)
		if got := strings.TrimPrefix(d.String(), other+": "); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	bare := filepath.Join(dir, "bare.yaml")
	if err := os.WriteFile(bare, []byte(flow), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, d := Load(bare, stages.Builtin(), false); !strings.Contains(d.String(), "has no tests: add some under tests, or in bare_test.yaml beside it") {
		t.Errorf("%v", d)
	}
}

// Variables in the tests of a flow file are texts: the file needs none of them.
func TestTestsInAFlowFileHaveNoVariables(t *testing.T) {
	src := flow + "tests: [{name: \"${NAME}\", events: [{raw: \"${X\"}], expect: {elapsed: 0s}}]\n"
	file, d := flows.Parse("flows.yaml", []byte(src), nil)
	if len(d) > 0 || Check(&flows.File{}, stages.Builtin(), nil) != nil {
		t.Fatal(d)
	}
	var tests []Test
	TestsField(&tests).Decode(file.Tests, "", &d)
	if len(d) > 0 || tests[0].Name != "${NAME}" || tests[0].Events[0].Raw != "${X" {
		t.Errorf("%+v, %v", tests, d)
	}
}

// Whatever a test file is, loading it ends, and what is wrong is in it or in its flow
// file.
func FuzzLoad(f *testing.F) {
	// Short ones: the fuzzer spends its time on making long ones shorter.
	for _, seed := range []string{
		"env: {A: b}\ntests: [{name: a, events: [{payload: {}, repeat: 2}], expect: {outcomes: {}, outputs: {a: [{}]}}}]",
		"tests: [{name: a, events: [{raw: x, name: e, at: 1s}], fail: [{stage: handle, event: e, kind: none, delay: 1s}]}]",
		"tests: [{name: a, events: [{base64: eA==}], expect: {dead_letters: [{event: e}], rates: {ibkr: {scale: 1}}}}]",
		"tests: [{name: a, events: [{envelope: {}}], expect: {metrics: {\"a{b='c'}\": 1}, elapsed: 1s}}]",
	} {
		f.Add([]byte(seed))
	}
	path := write(f, flow, "")
	f.Fuzz(func(t *testing.T, src []byte) {
		if err := os.WriteFile(path, src, 0o600); err != nil {
			t.Fatal(err)
		}
		_, d := Load(path, stages.Builtin(), false)
		lines := strings.Split(strings.TrimPrefix(string(src), "\uFEFF"), "\n")
		for _, x := range d {
			if x.Message == "" || strings.Contains(x.Message, "\n") || !utf8.ValidString(x.Message) {
				t.Errorf("message %q is not one line of text", x.Message)
			}
			if p := x.Pos; p.File == path && p.Line > 0 &&
				(p.Line > len(lines) || p.Column < 1 || p.Column > utf8.RuneCountInString(lines[p.Line-1])+1) {
				t.Errorf("%v is not within the file: %s", p, x)
			}
		}
	})
}
