package app

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/flowtest"
	"github.com/mjdevaccount/pulseflow/stages"
)

// everyTest are tests with every key, and with anchors, of a file with withHandler's flow.
const everyTest = `tests:
  - name: one
    flow: feedback
    env: {A: b}
    start: 2026-02-28T23:59:59.5+01:00
    until: 10m
    events:
      - {name: a, at: 1s, id: "1-0", payload: &soft {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}, outcome: success}
      - {payload: {<<: *soft, level: hard}, schema: telemetry.FeedbackEvent, track: v2, key: k, headers: {h: x}, time: 5s}
      - {envelope: {ts: 1, payload: *soft}, repeat: 2, every: 1s, stream: telemetry.feedback}
      - {raw: "x", outcome: error}
      - {base64: "AAE="}
      - {name: r, from: feedback.jsonl, keep_times: yes}
    fail:
      - {stage: handle, flow: feedback, times: 2, kind: permanent, delay: 1s, when: after, event: a, error: no}
      - {stage: rate-apply, kind: none, delay: 1s, times: 0}
    checks:
      - {at: 1s, outcomes: {success: 1, duplicate: 0, filtered: 0, error: 0}, rates: {ibkr: {level: soft}}}
    expect: &all
      outcomes:
      outputs:
        telemetry.rate_adjustment:
          - {equals: {a: 1}}
          - {payload: null, contains: [1], values: {/payload/scale: 0.5, "": {}}, text: x}
        "mdp:mdp.telemetry.feedback.dlq": []
      dead_letters: [{event: a, flow: feedback, stage: decode, kind: decode, reason: x, attempts: 1}]
      rates: {ibkr: {scale: 0.5, level: soft, effective: 30}}
      metrics: {'pulse_consume_total{outcome="success"}': 2}
      elapsed: 5s
  - {name: two, events: [{name: a, payload: *soft}], expect: *all}
`

// filesOfTests are files of tests beside the flow files that they are about, and a flow file
// with tests, in a folder.
func filesOfTests(t testing.TB) (paths []string, texts [][]byte) {
	t.Helper()
	dir := t.TempDir()
	put := func(name string, text []byte) {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "tests:") {
			paths, texts = append(paths, path), append(texts, text)
		}
	}
	root := filepath.Join("..", "..")
	for _, pattern := range []string{"flows.yaml", "flows_test.yaml", "event/testdata/feedback.jsonl", "docs/examples/*"} {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files: %v", pattern, len(found), err)
		}
		for _, path := range found {
			if info, err := os.Stat(path); err != nil || info.IsDir() {
				continue
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				t.Fatal(err)
			}
			put(filepath.ToSlash(name), text)
		}
	}
	recording, err := os.ReadFile(filepath.Join(root, "event", "testdata", "feedback.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	put("every/feedback.jsonl", recording)
	put("every/flows.yaml", []byte(withHandler))
	put("every/other_test.yaml", []byte("flows: flows.yaml\nenv: {X: y}\n"+everyTest))
	put("within/feedback.jsonl", recording)
	put("within/flows.yaml", []byte(withHandler+everyTest))
	if len(paths) < 5 {
		t.Fatalf("only %v have tests", paths)
	}
	return paths, texts
}

// compareTests writes a file with tests, and compares what its schema and the loader say
// of it, as check does.
func compareTests(t testing.TB, ofFlows, ofTests *jsonschema.Schema, path string, src []byte) agreement {
	t.Helper()
	if err := os.WriteFile(path, src, 0o600); err != nil {
		t.Fatal(err)
	}
	if flowtest.IsTestFile(path) {
		_, d := flowtest.Load(path, stages.Builtin(), false)
		return agree(ofTests, src, d)
	}
	file, d := flows.Parse(path, src, nil)
	new(fileFlags).examine(file, stages.Builtin(), &d)
	d = append(d, flowtest.Check(file, stages.Builtin(), d)...)
	return agree(ofFlows, src, d)
}

// FuzzTestSchemaAgrees is FuzzSchemaAgrees for tests, in files of their own and in flow
// files.
func FuzzTestSchemaAgrees(f *testing.F) {
	ofFlows, ofTests := printedSchema(f), printedSchema(f, "--tests")
	paths, texts := filesOfTests(f)
	words := append(vocabulary(), names(flowtest.Fields())...)
	words = append(words, "AAE=", "AAE", "AA\nE=", "2026-02-30T00:00:00Z", "2026-01-01T0:00:00Z", "2026-01-01T00:00:00+24:00", "2026-01-01",
		"/payload", "~", "pulse_consume_total{outcome=\"x\"}", "feedback.jsonl", "flows.yaml", "telemetry.rate_adjustment")
	slices.Sort(words)
	words = slices.Compact(words)
	addChoices(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := mutation{choices: data, words: words}
		i := m.pick(len(texts))
		src, ok := m.of(texts[i], texts)
		if !ok {
			return
		}
		if fault := compareTests(t, ofFlows, ofTests, paths[i], src).fault(); fault != "" {
			t.Errorf("%s: %s\n%s\n%s", filepath.Base(paths[i]), fault, strings.Join(m.done, "; "), src)
		}
	})
}

// What the two once saw differently, and what is close to it. A fault that the schema does
// not see must name its limit.
func TestTestSchemaAgrees(t *testing.T) {
	ofFlows, ofTests := printedSchema(t), printedSchema(t, "--tests")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "flows.yaml"), []byte(withHandler), 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		payload = "coordinator_id: a, queue_size: 1, capacity: 2, level: soft"
		end     = ", outcome: success"
	)
	for text, want := range map[string]string{ // a test's keys; a part of the loader's errors
		"events: [{payload: {" + payload + "}" + end + "}]":                                              "",
		"events: [{payload: {" + payload + ", level: hard}" + end + "}]":                                 `duplicate key "level"`,
		"events: [{payload: {" + payload + ", x: [{a: 1, a: 1}]}" + end + "}]":                           `duplicate key "a"`,
		"events: [{payload: {" + payload + ", x: [.inf]}" + end + "}]":                                   "JSON has no such number",
		"events: [{envelope: {x: .nan}" + end + "}]":                                                     "JSON has no such number",
		"events: [{envelope: [1]" + end + "}]":                                                           "envelope: must be a mapping",
		"events: [{payload: null" + end + "}]":                                                           "payload: must be a mapping",
		`events: [{base64: "AA\nE=\r\n"` + end + "}]":                                                    "",
		`events: [{base64: "AAE"` + end + "}]":                                                           "base64: must be base64",
		`events: [{base64: ""` + end + "}]":                                                              "",
		"events: [{raw: x" + end + "}], until: -0m":                                                      "until: must not be negative",
		"events: [{raw: x" + end + "}], until: +1m":                                                      "",
		"events: [{raw: x" + end + "}], start: 2026-02-30T00:00:00Z":                                     "start: must be a time",
		"events: [{raw: x" + end + "}], start: 2026-01-01T0:00:00Z":                                      "start: must be a time",
		"events: [{raw: x" + end + "}], start: 2026-01-01T00:00:00+24:00":                                "start: must be a time",
		"events: [{raw: x" + end + "}], start: 2026-01-01T00:00:00.123456789123+01:00":                   "",
		"events: [{raw: x}], expect: {outputs: {telemetry.rate_adjustment: [{equals: .inf}]}}":           "JSON has no such number",
		"events: [{raw: x}], expect: {outputs: {telemetry.rate_adjustment: [{contains: {a: .inf}}]}}":    "JSON has no such number",
		"events: [{raw: x}], expect: {outputs: {telemetry.rate_adjustment: [{values: {/a: [.nan]}}]}}":   "JSON has no such number",
		"events: [{raw: x}], expect: {outputs: {telemetry.rate_adjustment: [{values: {a: 1}}]}}":         "is no JSON pointer",
		"events: [{raw: x}], expect: {outputs: {telemetry.rate_adjustment: [{payload: null, text: x}]}}": "",
		"events: [{raw: x, envelope: {}}]":                                                               "give only one of them",
		"events: [{raw: x, time: 5s" + end + "}]":                                                        "time has no effect without payload",
		"events: [{raw: x}]":                              "expects nothing",
		"events: [{raw: x}], checks: [{at: 5s}]":          "expects nothing",
		"events: [{raw: x}], expect: {metrics: {a b: 1}}": "must be a metric",
	} {
		for _, path := range []string{"flows_test.yaml", "inside.yaml"} {
			src := "tests: [{name: n, " + text + "}]\n"
			if path == "inside.yaml" {
				src = withHandler + src
			}
			a := compareTests(t, ofFlows, ofTests, filepath.Join(dir, path), []byte(src))
			if fault := a.fault(); fault != "" {
				t.Errorf("%s: %s\n%s", path, text, fault)
			}
			if got := a.loader.String(); want == "" && got != "" || !strings.Contains(got, want) {
				t.Errorf("%s: %s: the loader says %q, want %q", path, text, got, want)
			}
		}
	}
}

// Every file that a mutation starts from is right by both, and together they have every
// key.
func TestRightTestFilesAgree(t *testing.T) {
	ofFlows, ofTests := printedSchema(t), printedSchema(t, "--tests")
	paths, texts := filesOfTests(t)
	for i, src := range texts {
		a := compareTests(t, ofFlows, ofTests, paths[i], src)
		if a.schema != nil || len(a.loader) > 0 {
			t.Errorf("%s: schema %v, loader %v", paths[i], a.schema, a.loader)
		}
	}
	all := bytes.Join(texts, nil)
	var look func(fs flows.Fields)
	look = func(fs flows.Fields) {
		for _, f := range fs {
			if f.Name != "value" && f.Name != "messages" && // of keys that are chosen freely
				!bytes.Contains(all, []byte(f.Name+":")) {
				t.Errorf("no file has %s", f.Name)
			}
			look(f.Fields)
		}
	}
	look(flowtest.Fields())
}
