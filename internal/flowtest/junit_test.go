package flowtest

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

var someTime = regexp.MustCompile(`time="[0-9.]+"`)

// without leaves out of a report what differs from run to run.
func without(report, dir string) string {
	return someTime.ReplaceAllString(strings.ReplaceAll(report, dir, "DIR"), `time="T"`)
}

func TestJUnit(t *testing.T) {
	results := run(t, flow, `tests:
  - {name: "a < b", events: [{raw: x}], expect: {outcomes: {error: 1}}}
  - {name: wrong, events: [{raw: x}], expect: {outcomes: {success: 1, error: 1}}}
`)
	results = append(results, &Result{Suite: results[0].Suite, Test: results[0].Test, Err: os.ErrDeadlineExceeded})
	var b bytes.Buffer
	if err := WriteJUnit(&b, results); err != nil {
		t.Fatal(err)
	}
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="1" errors="1" time="T">
  <testsuite name="DIR/flows_test.yaml" tests="3" failures="1" errors="1" skipped="0" time="T">
    <testcase name="a &lt; b" classname="DIR/flows_test.yaml" file="DIR/flows_test.yaml" line="2" time="T"></testcase>
    <testcase name="wrong" classname="DIR/flows_test.yaml" file="DIR/flows_test.yaml" line="3" time="T">
      <failure message="outcomes">DIR/flows_test.yaml:3:58: outcomes&#xA;  - success: 1&#xA;  + success: 0</failure>
    </testcase>
    <testcase name="a &lt; b" classname="DIR/flows_test.yaml" file="DIR/flows_test.yaml" line="2" time="T">
      <error message="i/o timeout"></error>
    </testcase>
  </testsuite>
</testsuites>
`
	if diff := cmp.Diff(want, without(b.String(), filepath.Dir(results[0].Suite.Path))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The times of a suite, and of all, are the sum of the tests'.
func TestJUnitTimes(t *testing.T) {
	one, two := &Suite{Path: "a"}, &Suite{Path: "b"}
	var results []*Result
	for i, s := range []*Suite{one, two, one} {
		results = append(results, &Result{Suite: s, Test: new(Test), Took: time.Duration(i+1) * time.Millisecond})
	}
	var b bytes.Buffer
	if err := WriteJUnit(&b, results); err != nil {
		t.Fatal(err)
	}
	got := parsed(t, b.String())
	if got.Time != "0.006000" || len(got.Suites) != 2 || got.Suites[0].Time != "0.004000" || got.Suites[1].Cases[0].Time != "0.002000" {
		t.Errorf("%s", b.String())
	}
}

// Of files that are wrong each problem is an error, and what could be read is skipped.
func TestJUnitErrors(t *testing.T) {
	path := write(t, flow, `tests:
  - {name: a, events: [{raw: x}], expect: {outcomes: {error: 1}}}
  - {name: b, events: [{raw: x, time: 1s}], expect: {outcomes: {error: 1}}}
  - {name: b, events: [{raw: x}], expect: {outcomes: {error: 1}}}
`)
	s, d := Load(path, stages.Builtin(), false)
	d.Warnf(flows.Position{File: path}, "c", "no matter")
	d.Errorf(flows.Position{File: "none_test.yaml"}, "cannot be read")
	var b bytes.Buffer
	if err := WriteJUnitErrors(&b, []*Suite{s}, d); err != nil {
		t.Fatal(err)
	}
	const want = `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="6" failures="0" errors="3" time="T">
  <testsuite name="DIR/flows_test.yaml" tests="5" failures="0" errors="2" skipped="3" time="T">
    <testcase name="3:39: test &#34;b&#34;: event 1: time has no effect without payload" classname="DIR/flows_test.yaml" file="DIR/flows_test.yaml" line="3" time="T">
      <error message="test &#34;b&#34;: event 1: time has no effect without payload">DIR/flows_test.yaml:3:39: test &#34;b&#34;: event 1: time has no effect without payload</error>
    </testcase>
    <testcase name="4:12: test &#34;b&#34;: there is one of this name already: give each its own" classname="DIR/flows_test.yaml" file="DIR/flows_test.yaml" line="4" time="T">
      <error message="test &#34;b&#34;: there is one of this name already: give each its own">DIR/flows_test.yaml:4:12: test &#34;b&#34;: there is one of this name already: give each its own&#xA;DIR/flows_test.yaml:3:12: the first one is here</error>
    </testcase>
    <testcase name="a" classname="DIR/flows_test.yaml" file="DIR/flows_test.yaml" line="2" time="T">
      <skipped message="not run, since a file is wrong"></skipped>
    </testcase>
    <testcase name="b" classname="DIR/flows_test.yaml" file="DIR/flows_test.yaml" line="3" time="T">
      <skipped message="not run, since a file is wrong"></skipped>
    </testcase>
    <testcase name="b" classname="DIR/flows_test.yaml" file="DIR/flows_test.yaml" line="4" time="T">
      <skipped message="not run, since a file is wrong"></skipped>
    </testcase>
  </testsuite>
  <testsuite name="none_test.yaml" tests="1" failures="0" errors="1" skipped="0" time="T">
    <testcase name="cannot be read" classname="none_test.yaml" file="none_test.yaml" time="T">
      <error message="cannot be read">none_test.yaml: cannot be read</error>
    </testcase>
  </testsuite>
</testsuites>
`
	if diff := cmp.Diff(want, without(b.String(), filepath.Dir(path))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// report is a JUnit report as one reads it.
type report struct {
	Time   string `xml:"time,attr"`
	Suites []struct {
		Name  string `xml:"name,attr"`
		Time  string `xml:"time,attr"`
		Cases []struct {
			Name  string `xml:"name,attr"`
			Time  string `xml:"time,attr"`
			Error struct {
				Message string `xml:"message,attr"`
				Text    string `xml:",chardata"`
			} `xml:"error"`
			Failure struct {
				Message string `xml:"message,attr"`
				Text    string `xml:",chardata"`
			} `xml:"failure"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// parsed reads a report, and expects that it is well-formed XML to its end.
func parsed(t *testing.T, text string) report {
	t.Helper()
	decoder := xml.NewDecoder(strings.NewReader(text))
	var r report
	if err := decoder.Decode(&r); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return r
		}
		if text, space := token.(xml.CharData); err != nil || !space || len(bytes.TrimSpace(text)) > 0 {
			t.Fatalf("behind the report: %v, %v", token, err)
		}
	}
}

// Whatever is in a name or a message, the report is XML, and says it as far as XML can.
func TestJUnitIsXML(t *testing.T) {
	const (
		odd  = "a\x00\x01\x1b[31m]]>&amp;<b>\"'\xff\xed\xa0\x80\uFFFE\r\n\té\U0001F600\x7f"
		said = "a\uFFFD\uFFFD\uFFFD[31m]]>&amp;<b>\"'\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\r\n\té\U0001F600\x7f"
	)
	s, test := &Suite{Path: odd}, &Test{Name: odd}
	s.Tests = []*Test{test}
	var b bytes.Buffer
	if err := WriteJUnit(&b, []*Result{
		{Suite: s, Test: test, Err: errors.New(odd)},
		{Suite: s, Test: test, Differences: []Difference{{What: odd, Lines: []string{odd}}}},
	}); err != nil {
		t.Fatal(err)
	}
	r := parsed(t, b.String())
	if len(r.Suites) != 1 || len(r.Suites[0].Cases) != 2 {
		t.Fatalf("%+v", r)
	}
	for what, got := range map[string]string{
		"suite": r.Suites[0].Name, "test": r.Suites[0].Cases[0].Name, "error": r.Suites[0].Cases[0].Error.Message,
		"failure": r.Suites[0].Cases[1].Failure.Message,
	} {
		if diff := cmp.Diff(said, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	if text := r.Suites[0].Cases[1].Failure.Text; strings.Count(text, said) != 2 {
		t.Errorf("the failure says %q", text)
	}
	b.Reset()
	d := flows.Diagnostics{{Pos: flows.Position{File: odd}, Message: odd, Related: []flows.Related{{Message: odd}}}}
	if err := WriteJUnitErrors(&b, []*Suite{s}, d); err != nil {
		t.Fatal(err)
	}
	r = parsed(t, b.String())
	if got := r.Suites[0].Cases[0].Error; got.Message != said || strings.Count(got.Text, said) != 3 || r.Suites[0].Cases[1].Name != said {
		t.Errorf("%+v", r)
	}
}
