package flowtest

import (
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
)

type junitSuites struct {
	XMLName  xml.Name `xml:"testsuites"`
	Tests    int      `xml:"tests,attr"`
	Failures int      `xml:"failures,attr"`
	Errors   int      `xml:"errors,attr"`
	Time     seconds  `xml:"time,attr"`

	Suites []*junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string  `xml:"name,attr"`
	Tests    int     `xml:"tests,attr"`
	Failures int     `xml:"failures,attr"`
	Errors   int     `xml:"errors,attr"`
	Skipped  int     `xml:"skipped,attr"`
	Time     seconds `xml:"time,attr"`

	Cases []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	File    string        `xml:"file,attr"`
	Line    int           `xml:"line,attr,omitempty"`
	Time    seconds       `xml:"time,attr"`
	Failure *junitProblem `xml:"failure"`
	Error   *junitProblem `xml:"error"`
	Skipped *junitProblem `xml:"skipped"`
}

type junitProblem struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

type seconds time.Duration

// MarshalText implements encoding.TextMarshaler.
func (s seconds) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%.6f", time.Duration(s).Seconds()), nil
}

// add adds a test to the suite of a file, and counts it.
func (all *junitSuites) add(file string, c junitCase) {
	i := slices.IndexFunc(all.Suites, func(s *junitSuite) bool { return s.Name == file })
	if i < 0 {
		i = len(all.Suites)
		all.Suites = append(all.Suites, &junitSuite{Name: file})
	}
	s := all.Suites[i]
	c.Class, c.File = file, file
	s.Cases = append(s.Cases, c)
	s.Tests++
	all.Tests++
	s.Time += c.Time
	all.Time += c.Time
	switch {
	case c.Error != nil:
		s.Errors++
		all.Errors++
	case c.Failure != nil:
		s.Failures++
		all.Failures++
	case c.Skipped != nil:
		s.Skipped++
	}
}

// write writes the report. What XML cannot hold, such as control characters, becomes
// U+FFFD in it.
func (all *junitSuites) write(w io.Writer) error {
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	encoder := xml.NewEncoder(w)
	encoder.Indent("", "  ")
	if err := encoder.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// WriteJUnit writes a report that continuous integration reads: a test suite for each
// file. A test that was not as expected is a failure, one that could not run to its
// end an error. Times are real, and those of a suite the sum of its tests'.
func WriteJUnit(w io.Writer, results []*Result) error {
	var all junitSuites
	for _, r := range results {
		one := junitCase{Name: r.Test.Name, Line: r.Test.node.Pos().Line, Time: seconds(r.Took)}
		switch {
		case r.Err != nil:
			one.Error = &junitProblem{Message: r.Err.Error()}
		case !r.Passed():
			var lines []string
			for _, d := range r.Differences {
				lines = append(lines, d.String())
			}
			one.Failure = &junitProblem{Message: r.Differences[0].What, Text: strings.Join(lines, "\n")}
		}
		all.add(r.Suite.Path, one)
	}
	return all.write(w)
}

// WriteJUnitErrors writes the report of a run that did not come about because files are
// wrong. What is wrong with a file is an error each in its test suite, and the tests
// that could be read are skipped.
func WriteJUnitErrors(w io.Writer, suites []*Suite, d flows.Diagnostics) error {
	var all junitSuites
	for _, x := range d {
		if x.Severity != flows.Error {
			continue
		}
		name := x.Message
		if x.Pos.Line > 0 {
			name = fmt.Sprintf("%d:%d: %s", x.Pos.Line, x.Pos.Column, name)
		}
		lines := []string{x.String()}
		for _, r := range x.Related {
			lines = append(lines, r.Pos.String()+": "+r.Message)
		}
		all.add(x.Pos.File, junitCase{
			Name: name, Line: x.Pos.Line, Error: &junitProblem{Message: x.Message, Text: strings.Join(lines, "\n")},
		})
	}
	for _, s := range suites {
		for _, t := range s.Tests {
			all.add(s.Path, junitCase{
				Name: t.Name, Line: t.node.Pos().Line, Skipped: &junitProblem{Message: "not run, since a file is wrong"},
			})
		}
	}
	return all.write(w)
}
