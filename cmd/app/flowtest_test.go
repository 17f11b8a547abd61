package app

import (
	"encoding/json"
	"encoding/xml"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/internal/flowtest"
)

// The shipped flow keeps what its tests say.
func TestShippedFlowPassesItsTests(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	status, out, errs := invoke(t, map[string]string{"EVENT_BUS_BACKEND": "redis", "PULSE_ENABLED": "false"}, "", "test", "flows.yaml")
	if status != exitOK || errs != "" || !strings.Contains(out, "ok    flows_test.yaml  17 tests passed in ") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
}

// So do the examples.
func TestExamplesPassTheirTests(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	status, out, errs := invoke(t, nil, "", "test", "docs/examples")
	if status != exitOK || errs != "" {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	for _, name := range []string{"quotes", "schema-drift"} {
		if !strings.Contains(out, "ok    docs/examples/"+name+"_test.yaml  ") {
			t.Errorf("%s has not run:\n%s", name, out)
		}
	}
}

const (
	rightTest = `  - name: right
    events: [{payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}}]
    expect:
      outcomes: {success: 1}
`
	wrongTest = `  - name: wrong
    events: [{raw: x}]
    expect:
      outcomes: {success: 1} # how it ends
`
)

// inFolder makes a folder with the files the working directory.
func inFolder(t *testing.T, files map[string]string) {
	t.Helper()
	t.Chdir(t.TempDir())
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// withHandler is the minimal file with stages that adjust rates.
const withHandler = minimal + `      - handle: {with: feedback}
      - rate-apply: {publish: telemetry.rate_adjustment}
`

func TestTestCommand(t *testing.T) {
	files := map[string]string{
		"flows.yaml":           withHandler,
		"flows_test.yaml":      "tests:\n" + rightTest + wrongTest,
		"inside/flows.yaml":    withHandler + "tests:\n" + rightTest,
		"inside/other.yaml":    "name: no flows\n",
		"inside/bad/flows.yml": withHandler + "tests:\n" + strings.Replace(rightTest, "name", "nme", 1),
		"empty/flows.yaml":     minimal,
	}
	for name, tt := range map[string]struct {
		args   []string
		status int
		out    []string
		errs   string
	}{
		"a test file": {
			[]string{"flows_test.yaml"},
			exitFailure,
			[]string{
				"--- FAIL: wrong (0s virtual in ", ")\n    flows_test.yaml:9:17: outcomes\n      - success: 1\n      + success: 0\n" +
					"      - error: 0\n      + error: 1\n    0s       feedback 1767225600000-0: error, decode: entry: not JSON: unexpected character at byte 0\n",
				"FAIL  flows_test.yaml  1 of 2 tests failed in ", "\ntotal 1 of 2 tests failed in ", "\n-v lists every test, ",
			},
			"",
		},
		"the flow file beside it":    {[]string{"flows.yaml"}, exitFailure, []string{"FAIL  flows_test.yaml  1 of 2"}, ""},
		"a flow file with tests":     {[]string{"inside/flows.yaml"}, exitOK, []string{"ok    inside/flows.yaml  1 test passed in ", "\ntotal 1 test passed in "}, ""},
		"a pattern":                  {[]string{"insid*/*.yaml", "--run", "right"}, exitOK, []string{"ok    inside/flows.yaml  1 test passed in ", "\ntotal 1 test passed in "}, ""},
		"one hyphen":                 {[]string{"-run", "^right$", "flows.yaml"}, exitOK, []string{"\ntotal 1 test passed in "}, ""},
		"one hyphen and a sign":      {[]string{"flows.yaml", "-run=wrong"}, exitFailure, []string{"\ntotal 1 of 1 test failed in "}, ""},
		"every stage":                {[]string{"-v", "inside/flows.yaml"}, exitOK, []string{"--- ok: right (0s virtual in ", "3 handle      passed   level soft → scale 0.5 for ibkr"}, ""},
		"no such test":               {[]string{"--run", "x", "flows.yaml"}, exitConfig, nil, `--run "x": no test has such a name`},
		"no pattern":                 {[]string{"--run", "(", "flows.yaml"}, exitConfig, nil, "--run: error parsing regexp"},
		"no tests":                   {[]string{"empty/flows.yaml"}, exitConfig, nil, "empty/flows.yaml: has no tests"},
		"no tests in a folder":       {[]string{"empty"}, exitConfig, nil, "empty: no tests are in it"},
		"no such file":               {[]string{"no_test.yaml"}, exitConfig, nil, "no_test.yaml: cannot be read"},
		"a faulty one in the folder": {nil, exitConfig, nil, "inside/bad/flows.yml:13:5: test 1: unknown field \"nme\""},
		"no time":                    {[]string{"--timeout", "0s", "flows.yaml"}, exitConfig, nil, "--timeout must be positive"},
	} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, files)
			status, out, errs := invoke(t, nil, "", append([]string{"test"}, tt.args...)...)
			if status != tt.status || !strings.Contains(errs, tt.errs) || tt.errs == "" && errs != "" {
				t.Errorf("status %d, want %d\n%s%s", status, tt.status, out, errs)
			}
			for _, want := range tt.out {
				if !strings.Contains(out, want) {
					t.Errorf("lacks %q:\n%s", want, out)
				}
			}
		})
	}
}

// What --update cannot write is told and left, and all else is updated; what stands for
// another test's expectation is, once that has changed.
func TestTestUpdateLeaves(t *testing.T) {
	const payload = "{payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}}"
	for name, tt := range map[string]struct {
		before, after string
		status        int
		errs          string
	}{
		"an alias that is right no more": {
			"  - name: a\n    events: [" + payload + "]\n    expect:\n      outcomes: &o {success: 2}\n" +
				"  - name: b\n    events: [" + payload + ", " + payload + "]\n    expect:\n      outcomes: *o\n",
			"  - name: a\n    events: [" + payload + "]\n    expect:\n      outcomes: &o {success: 1}\n" +
				"  - name: b\n    events: [" + payload + ", " + payload + "]\n    expect:\n      outcomes: {success: 2}\n",
			exitOK, "",
		},
		"one that stands for another": {
			"  - name: a\n    events: [" + payload + "]\n    expect: &e {outcomes: {success: 1}}\n" +
				"  - name: b\n    events: [{raw: x}]\n    expect: *e\n  - name: c\n    events: [{raw: x}]\n    expect: {outcomes: {success: 1}}\n",
			"  - name: a\n    events: [" + payload + "]\n    expect: &e {outcomes: {success: 1}}\n" +
				"  - name: b\n    events: [{raw: x}]\n    expect: *e\n  - name: c\n    events: [{raw: x}]\n    expect: {outcomes: {success: 0, error: 1}}\n",
			exitFailure, "flows_test.yaml: test \"b\" cannot be updated: its expect stands for that of another test",
		},
		"events of other names": {
			"  - name: a\n    events: [{name: x, raw: x}, {name: z, raw: x}]\n    expect: &e {dead_letters: [{event: x}, {event: x}]}\n" +
				"  - name: b\n    events: [{name: x, raw: x}, {name: y, raw: x}]\n    expect: *e\n",
			"  - name: a\n    events: [{name: x, raw: x}, {name: z, raw: x}]\n    expect: &e {dead_letters: [{event: x}, {event: x}]}\n" +
				"  - name: b\n    events: [{name: x, raw: x}, {name: y, raw: x}]\n    expect: *e\n",
			exitFailure, "cannot be updated: what one test expects stands for what another one does",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inFolder(t, map[string]string{"flows.yaml": withHandler, "flows_test.yaml": "tests:\n" + tt.before})
			status, out, errs := invoke(t, nil, "", "test", "--update")
			if status != tt.status || !strings.Contains(errs, tt.errs) || tt.status == exitOK && errs != "" {
				t.Errorf("status %d, want %d\n%s%s", status, tt.status, out, errs)
			}
			if !strings.Contains(out, "\ntotal ") {
				t.Errorf("no report:\n%s", out)
			}
			text, err := os.ReadFile("flows_test.yaml")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff("tests:\n"+tt.after, string(text)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			_, _, _ = invoke(t, nil, "", "test", "--update")
			if again, err := os.ReadFile("flows_test.yaml"); err != nil || string(again) != string(text) {
				t.Errorf("the second time, %v:\n%s", err, again)
			}
		})
	}
}

// The times of the files and of all are of one kind: from the begin of the first test to
// the end of the last one.
func TestSummary(t *testing.T) {
	a, b := &flowtest.Suite{Path: "a_test.yaml"}, &flowtest.Suite{Path: "b_test.yaml"}
	begin := time.Unix(0, 0)
	result := func(s *flowtest.Suite, name string, from, to int, err error) *flowtest.Result {
		const ms = time.Millisecond
		return &flowtest.Result{
			Suite: s, Test: &flowtest.Test{Name: name}, Began: begin.Add(time.Duration(from) * ms),
			Took: time.Duration(to-from) * ms, Err: err, Elapsed: time.Hour,
		}
	}
	for name, tt := range map[string]struct {
		results []*flowtest.Result
		want    string
	}{
		"one file": {
			[]*flowtest.Result{result(a, "x", 10, 40, nil), result(a, "y", 20, 50, nil)},
			"ok    a_test.yaml  2 tests passed in 40ms\ntotal 2 tests passed in 40ms\n",
		},
		"two files at the same time": {
			[]*flowtest.Result{result(a, "x", 10, 60, nil), result(a, "y", 20, 40, nil), result(b, "z", 15, 70, nil)},
			"ok    a_test.yaml  2 tests passed in 50ms\nok    b_test.yaml  1 test passed in 55ms\ntotal 3 tests passed in 60ms\n",
		},
		"a failure": {
			[]*flowtest.Result{result(a, "x", 10, 11, nil), result(b, "y", 10, 12, os.ErrClosed), result(b, "z", 11, 15, nil)},
			"ok    a_test.yaml  1 test passed in 1ms\n--- FAIL: y (1h0m0s virtual in 2ms)\n    file already closed\n" +
				"FAIL  b_test.yaml  1 of 2 tests failed in 5ms\ntotal 1 of 3 tests failed in 5ms\n-v lists every test, and what each " +
				"stage did with each event; --run NAME runs some of them\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			failed := new(testFlags).print(&out, tt.results)
			if diff := cmp.Diff(tt.want, out.String()); diff != "" || failed != strings.Contains(tt.want, "FAIL") {
				t.Errorf("failed %v (-want +got):\n%s", failed, diff)
			}
		})
	}
}

func TestTestUpdateAndReport(t *testing.T) {
	inFolder(t, map[string]string{
		"flows.yaml": withHandler, "flows_test.yaml": "tests:\n" + rightTest + wrongTest + "  - name: new\n    events: [{raw: x}]\n",
	})
	status, out, errs := invoke(t, nil, "", "test", "--update", "--junit", "report.xml")
	if status != exitOK || errs != "" || !strings.HasPrefix(out, "flows_test.yaml: updated 2 of the tests\nok    flows_test.yaml  3 tests passed in ") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	text, err := os.ReadFile("flows_test.yaml")
	if err != nil || !strings.Contains(string(text), "      outcomes: {success: 0, error: 1} # how it ends\n") ||
		!strings.HasPrefix(string(text), "tests:\n"+rightTest) {
		t.Errorf("%v\n%s", err, text)
	}
	report, err := os.ReadFile("report.xml")
	if err != nil {
		t.Fatal(err)
	}
	if r := readReport(t, string(report)); r.Tests != 3 || r.Failures != 0 {
		t.Errorf("%+v\n%s", r, report)
	}
	if status, out, errs := invoke(t, nil, "", "test", "--junit", "no/such/folder.xml"); status != exitFailure || errs == "" {
		t.Errorf("a report that cannot be written: status %d\n%s%s", status, out, errs)
	}
}

// When a file is wrong there is a report all the same, with what is wrong.
func TestReportOfWrongFiles(t *testing.T) {
	inFolder(t, map[string]string{
		"flows.yaml": withHandler, "flows_test.yaml": "tests:\n" + rightTest,
		"bad.yaml": withHandler, "bad_test.yaml": "tests:\n" + strings.Replace(rightTest, "events", "evnts", 1),
	})
	const message = `test 1: unknown field "evnts" (did you mean "events"?)`
	for name, tt := range map[string]struct {
		args   []string
		errors []string // file and message of each
		others int
	}{
		"a fault":      {[]string{"."}, []string{"bad_test.yaml", message}, 2},
		"no such file": {[]string{"no_test.yaml", "flows.yaml"}, []string{"no_test.yaml", "cannot be read: no such file or directory"}, 1},
		"no files":     {[]string{t.TempDir()}, []string{"", "no *.yaml or *.yml file is in it"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			for _, where := range []string{"report.xml", "-"} {
				status, out, errs := invoke(t, nil, "", append([]string{"test", "--junit", where}, tt.args...)...)
				if status != exitConfig || !strings.Contains(errs, tt.errors[1]) {
					t.Errorf("status %d\n%s", status, errs)
				}
				if where != "-" {
					text, err := os.ReadFile(where)
					if err != nil || out != "" {
						t.Fatal(err, out)
					}
					out = string(text)
				}
				r := readReport(t, out)
				found := 0
				for _, s := range r.Suites {
					for _, c := range s.Cases {
						if c.Error != nil && strings.Contains(s.Name, tt.errors[0]) && strings.Contains(c.Error.Message, tt.errors[1]) {
							found++
						}
					}
				}
				if found != 1 || r.Errors == 0 || r.Tests != r.Errors+tt.others {
					t.Errorf("%d found, %+v\n%s", found, r, out)
				}
			}
		})
	}
	if status, _, errs := invoke(t, nil, "", "test", "--junit", "no/such/folder.xml", "bad_test.yaml"); status != exitConfig ||
		!strings.Contains(errs, message) || !strings.Contains(errs, "report: open no/such/folder.xml") {
		t.Errorf("a report that cannot be written: status %d\n%s", status, errs)
	}
}

// A report on standard output is alone there.
func TestReportOnStandardOutput(t *testing.T) {
	inFolder(t, map[string]string{"flows.yaml": withHandler, "flows_test.yaml": "tests:\n" + rightTest + wrongTest})
	for _, args := range [][]string{{"-v"}, {"--update"}} {
		status, out, errs := invoke(t, nil, "", append([]string{"test", "--junit", "-"}, args...)...)
		r := readReport(t, out)
		if len(r.Suites) != 1 || r.Suites[0].Name != "flows_test.yaml" || r.Tests != 2 || !strings.Contains(errs, "2 tests") {
			t.Errorf("%v: status %d, %+v\n%s", args, status, r, errs)
		}
		if want := map[string]int{"-v": exitFailure, "--update": exitOK}[args[0]]; status != want || r.Failures != map[int]int{exitFailure: 1}[want] {
			t.Errorf("%v: status %d, want %d; %+v", args, status, want, r)
		}
	}
}

type junitReport struct {
	Tests    int `xml:"tests,attr"`
	Failures int `xml:"failures,attr"`
	Errors   int `xml:"errors,attr"`
	Suites   []struct {
		Name  string `xml:"name,attr"`
		Cases []struct {
			Error *struct {
				Message string `xml:"message,attr"`
			} `xml:"error"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

func readReport(t *testing.T, text string) (r junitReport) {
	t.Helper()
	if err := xml.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if !strings.HasSuffix(text, "</testsuites>\n") || !strings.HasPrefix(text, "<?xml") {
		t.Errorf("not the report alone:\n%s", text)
	}
	return r
}

// check reads tests too, and does not take a file of them for one of flows.
func TestCheckLooksAtTests(t *testing.T) {
	inFolder(t, map[string]string{
		"flows.yaml": withHandler, "flows_test.yaml": "tests:\n" + rightTest,
		"bad.yaml":      withHandler + "tests:\n" + strings.Replace(rightTest, "success", "succes", 1),
		"bad_test.yaml": "tests:\n" + strings.Replace(rightTest, "events", "evnts", 1),
	})
	status, out, errs := invoke(t, nil, "", "check", "flows.yaml", "flows_test.yaml")
	if status != exitOK || errs != "" || !strings.Contains(out, "flows_test.yaml: ok: 1 test\n") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	status, _, errs = invoke(t, nil, "", "check", ".")
	if status != exitConfig || strings.Count(errs, "\n") != 2 ||
		!strings.Contains(errs, `bad.yaml:16:18: test 1: expect: outcomes: unknown field "succes" (did you mean "success"?)`) ||
		!strings.Contains(errs, `bad_test.yaml:3:5: test 1: unknown field "evnts" (did you mean "events"?)`) {
		t.Errorf("status %d\n%s", status, errs)
	}
	// Tests are none of run's business.
	if status, _, errs := invoke(t, nil, "", "config", "--config", "bad.yaml"); status != exitOK {
		t.Errorf("config: status %d\n%s", status, errs)
	}
}

const softEvent = `{"coordinator_id": "bars_1", "queue_size": 7, "capacity": 10, "level": "soft"}`

func TestExplain(t *testing.T) {
	feed := recording(t, "feedback.jsonl")
	inFolder(t, map[string]string{
		"flows.yaml": withHandler, "event.json": softEvent, "two.json": softEvent + "\n" + softEvent, "empty.json": "\n",
		"off.yaml":  strings.Replace(withHandler, "feedback:\n", "feedback:\n    enabled: false\n", 1),
		"more.yaml": withHandler + "  other:\n    from: {stream: x}\n    stages: [dedupe]\n",
	})
	feedText, err := os.ReadFile(feed)
	if err != nil {
		t.Fatal(err)
	}
	second := strings.SplitAfter(string(feedText), "\n")[1]
	for name, tt := range map[string]struct {
		stdin  string
		args   []string
		status int
		want   []string
	}{
		"a bare event": {"", []string{"feedback", "event.json", "--at", "2026-01-01T00:00:00Z"}, exitOK, []string{
			"event 1767225600000-0: bare, 78 bytes, telemetry.FeedbackEvent track v1, of 2026-01-01T00:00:00Z\n",
			"flow feedback, stream telemetry.feedback\n", "1 validate    passed ", "schema telemetry.FeedbackEvent, track v1\n",
			`first seen: key id, "1767225600000-0"`, "key remembered for 10m0s",
			`level soft → scale 0.5 for ibkr; coordinator "bars_1", queue 7 of 10`, "effective rate of ibkr: 60 → 30 tokens/s",
			`publishes on mdp:mdp.telemetry.rate_adjustment: {"ts": 1767225600.0, "key": "ibkr"`,
			"provider ibkr: level ok → soft, scale 1 → 0.5, effective 60 → 30 tokens/s\noutcome: success after 1 attempt\n",
		}},
		"from standard input, by file": {softEvent, []string{"flows.yaml", "-"}, exitOK, []string{"outcome: success"}},
		"an entry as recorded":         {second, []string{"feedback", "-"}, exitOK, []string{"event 1795556873479-0: nested, 529 bytes"}},
		"a duplicate": {second, []string{"feedback", "-", "--after", feed}, exitOK, []string{
			"2 dedupe      stopped ", `handled before: key id, "1795556873479-0"`, "outcome: duplicate",
		}},
		"a dead letter": {strings.Replace(softEvent, "soft", "loud", 1), []string{"feedback", "-"}, exitOK, []string{
			"1 validate    failed ", "dead letter on mdp:mdp.telemetry.feedback.dlq\n  stage    validate\n  kind     schema\n" +
				"  pointer  /level\n  reason   /level: must be ok, soft or hard (got string)\n", "outcome: error after 1 attempt\n",
		}},
		"an array": {"[1, 2]", []string{"feedback", "-"}, exitOK, []string{
			"unknown, 6 bytes", "stage    decode\n  kind     decode\n  reason   entry: entry must be an object (got array)",
		}},
		"no text": {"\xff\x00\x1b", []string{"feedback", "-"}, exitOK, []string{"unknown, 3 bytes", "not JSON: not valid UTF-8"}},
		"an event of another schema": {
			`{"ts": 1, "key": "k", "meta": {"schema_id": "market.Trade", "track": "v1"}, "payload": {}}`,
			[]string{"feedback", "-"},
			exitOK,
			[]string{"canonical, ", `market.Trade track v1, key "k"`, "pointer  /meta/schema_id\n", "outcome: error"},
		},
		"an object of no shape": {`{"a": 1}`, []string{"feedback", "-"}, exitOK, []string{"bare, 8 bytes", "/coordinator_id: is required"}},
		"2 MiB": {
			strings.Replace(softEvent, "bars_1", strings.Repeat("x", 2<<20), 1),
			[]string{"feedback", "-"},
			exitOK,
			[]string{"unknown, 2097224 bytes", "kind     size\n  reason   entry: entry has 2097224 bytes, more than the limit of 1048576"},
		},
		"8 MiB": {
			strings.Repeat("x", 8<<20), []string{"feedback", "-"}, exitOK, []string{"entry has 8388608 bytes, more than the limit"},
		},
		"too much":            {strings.Repeat(" ", 64<<20) + "x", []string{"feedback", "-"}, exitConfig, []string{"larger than 64 MiB"}},
		"a folder":            {"", []string{"feedback", "."}, exitConfig, []string{"read the event: read .: is a directory"}},
		"nothing":             {"", []string{"feedback", "-"}, exitConfig, []string{"the input is empty"}},
		"an unlike flow":      {softEvent, []string{"xyz", "-"}, exitConfig, []string{`flows.yaml: no flow "xyz"; flows: feedback`}},
		"JSONL":               {softEvent + "\n" + softEvent + "\n", []string{"feedback", "-"}, exitConfig, []string{"more than one event"}},
		"JSONL, then no JSON": {softEvent + "\nnope\n", []string{"feedback", "-"}, exitConfig, []string{"more than one event"}},
		"no terminal's": {
			`{"id": "\u001b[31mid\n\u202e", "fields": {"data": "{\"coordinator_id\": \"a\\u001b\u009b31m\", \"queue_size\": 7, \"capacity\": 10, \"level\": \"soft\"}"}}`,
			[]string{"feedback", "-"},
			exitOK,
			[]string{`event \x1b[31mid\n\u202e: bare`, `coordinator "a\x1b\u009b31m"`},
		},
		"no JSON":            {"nope", []string{"feedback", "-"}, exitOK, []string{"unknown, 4 bytes", "stage    decode"}},
		"a slip":             {softEvent, []string{"fedback", "-"}, exitConfig, []string{`no flow "fedback" (did you mean "feedback"?)`}},
		"a flow that is off": {softEvent, []string{"feedback", "-", "-c", "off.yaml"}, exitConfig, []string{"is switched off"}},
		"a file that is off": {softEvent, []string{"off.yaml", "-"}, exitConfig, []string{"no flow runs"}},
		"which flow":         {softEvent, []string{"more.yaml", "-"}, exitConfig, []string{"has the flows feedback, other: name one"}},
		"two events":         {"", []string{"feedback", "two.json"}, exitConfig, []string{"more than one event"}},
		"no event":           {"", []string{"feedback", "empty.json"}, exitConfig, []string{"the input is empty"}},
		"no file":            {"", []string{"feedback", "no.json"}, exitConfig, []string{"read the event"}},
		"no time":            {softEvent, []string{"feedback", "-", "--at", "noon"}, exitConfig, []string{`--at "noon": must be a time`}},
		"no format":          {softEvent, []string{"feedback", "-", "--format", "xml"}, exitConfig, []string{"must be text or json"}},
		"nothing before":     {softEvent, []string{"feedback", "-", "--after", "no.jsonl"}, exitConfig, []string{"--after: open no.jsonl"}},
	} {
		status, out, errs := invoke(t, nil, tt.stdin, append([]string{"explain"}, tt.args...)...)
		if status != tt.status {
			t.Errorf("%s: status %d, want %d\n%s%s", name, status, tt.status, out, errs)
		}
		for _, want := range tt.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("%s: lacks %q:\n%s%s", name, want, out, errs)
			}
		}
	}
	for _, event := range []string{"[1]", "\xff\x1b", `{"id": "\u001b", "fields": {}}`, `{"ts": 1, "payload": "\ufffe"}`} {
		if status, out, errs := invoke(t, nil, event, "explain", "feedback", "-", "--format", "json"); status != exitOK || !json.Valid([]byte(out)) {
			t.Errorf("%q: status %d\n%s%s", event, status, out, errs)
		}
	}
	status, out, errs := invoke(t, nil, softEvent, "explain", "feedback", "-", "--format", "json")
	var x flowtest.Explanation
	if err := json.Unmarshal([]byte(out), &x); err != nil || status != exitOK {
		t.Fatalf("status %d, %v\n%s%s", status, err, out, errs)
	}
	if x.Outcome != "success" || len(x.Steps) != 4 || len(x.Published) != 1 || x.Rates[0].After.Effective != 30 || x.Steps[2].Notes == nil {
		t.Errorf("%+v", x)
	}
}
