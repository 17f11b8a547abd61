package flowtest

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Errors   int          `xml:"errors,attr"`
	Time     string       `xml:"time,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Time     string      `xml:"time,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string        `xml:"name,attr"`
	Class   string        `xml:"classname,attr"`
	File    string        `xml:"file,attr"`
	Line    int           `xml:"line,attr"`
	Time    string        `xml:"time,attr"`
	Failure *junitProblem `xml:"failure"`
	Error   *junitProblem `xml:"error"`
}

type junitProblem struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes a report that continuous integration reads: a test suite for each
// file. A test that was not as expected is a failure, one that could not run to its
// end an error. Times are real.
func WriteJUnit(w io.Writer, results []*Result) error {
	var all junitSuites
	var total time.Duration
	index := make(map[string]int)
	took := make(map[string]time.Duration)
	for _, r := range results {
		path := r.Suite.Path
		if _, ok := index[path]; !ok {
			index[path] = len(all.Suites)
			all.Suites = append(all.Suites, junitSuite{Name: path})
		}
		s := &all.Suites[index[path]]
		one := junitCase{
			Name: r.Test.Name, Class: path, File: path, Line: r.Test.node.Pos().Line, Time: seconds(r.Took),
		}
		switch {
		case r.Err != nil:
			one.Error = &junitProblem{Message: clean(r.Err.Error())}
			s.Errors++
			all.Errors++
		case !r.Passed():
			var lines []string
			for _, d := range r.Differences {
				lines = append(lines, d.String())
			}
			one.Failure = &junitProblem{Message: clean(r.Differences[0].What), Text: clean(strings.Join(lines, "\n"))}
			s.Failures++
			all.Failures++
		}
		s.Cases = append(s.Cases, one)
		s.Tests++
		all.Tests++
		total += r.Took
		took[path] += r.Took
		s.Time = seconds(took[path])
	}
	all.Time = seconds(total)
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

func seconds(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }

// clean drops what XML cannot hold.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
}
