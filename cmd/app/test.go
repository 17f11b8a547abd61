package app

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/flowtest"
	"github.com/mjdevaccount/pulseflow/stages"
)

type testFlags struct {
	run     string
	verbose bool
	update  bool
	junit   string
	timeout time.Duration
}

func testCommand(sys system) *cobra.Command {
	var flags testFlags
	cmd := &cobra.Command{
		Use:   "test [FILE | DIRECTORY | PATTERN]...",
		Short: "Run flow tests on a virtual clock",
		Long: `Test runs the tests of flows: events that are put on their streams, failures that
are put into their stages, and what must come of it. The real router runs, with
its retries, dead letters and stages, over streams in memory and on a clock that
moves only when everything waits: backoff and time to live take no time, and a
test has the same result at every run. Whatever bus a file names, nothing is
connected to. Of the environment only what a test gives under env is seen.

Tests stand in NAME_test.yaml beside NAME.yaml, or under tests in a flows file.
A flows file stands for the tests in it and beside it, a directory for all below
it; without arguments it is this directory. docs/testing.md explains the format.

A test that fails shows what was expected and what was there, and what each stage
did with the events that tell why.

--junit also writes a report when a file is wrong: with an error for each problem.

With --update, what is expected of the tests that fail is replaced by what
happened, in the files, with their comments; look at the difference before you
keep it. A test without expectations gets all of them.

Exit status: 0 every test passed, 1 one failed, 2 a file or the command line is
wrong, or there is no test.`,
		Example: "  pulseflow test\n  pulseflow test flows.yaml -v\n  pulseflow test -run 'dead letter' deploy/\n" +
			"  pulseflow test --junit report.xml\n  pulseflow test --update flows_test.yaml",
		RunE: func(cmd *cobra.Command, args []string) error { return flags.test(cmd.Context(), sys, args) },
	}
	cmd.Flags().StringVar(&flags.run, "run", "", "run only the tests whose name matches this `REGEXP`; -run does too")
	cmd.Flags().BoolVarP(&flags.verbose, "verbose", "v", false, "list every test, and what each stage did with each event")
	cmd.Flags().BoolVar(&flags.update, "update", false, "replace what the files expect by what happened")
	cmd.Flags().StringVar(&flags.junit, "junit", "", "write a JUnit report in XML to this `FILE`; - is standard output, and all else goes to standard error")
	cmd.Flags().DurationVar(&flags.timeout, "timeout", 30*time.Second, "the longest time that a test may take in reality")
	_ = cmd.MarkFlagFilename("junit", "xml")
	return cmd
}

// goStyle lets -run be written with one hyphen, as go test has it.
func goStyle(args []string) []string {
	if len(args) == 0 || args[0] != "test" {
		return args
	}
	args = slices.Clone(args)
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if arg == "-run" || strings.HasPrefix(arg, "-run=") {
			args[i] = "-" + arg
		}
	}
	return args
}

// errTestsFailed ends a command whose report has said which.
var errTestsFailed = &exitError{exitFailure, errReported}

func (f *testFlags) test(ctx context.Context, sys system, args []string) error {
	var only *regexp.Regexp
	if f.run != "" {
		var err error
		if only, err = regexp.Compile(f.run); err != nil {
			return configError(fmt.Errorf("--run: %w", err))
		}
	}
	if f.timeout <= 0 {
		return configError(errors.New("--timeout must be positive"))
	}
	out := sys.stdout
	if f.junit == "-" {
		out = sys.stderr
	}
	suites, err := f.load(sys, args)
	if err != nil {
		return err
	}
	options := flowtest.Options{Run: only, Limit: f.timeout}
	results := flowtest.Run(ctx, suites, options)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case len(results) == 0:
		return configError(fmt.Errorf("--run %q: no test has such a name", f.run))
	}
	var left error // why a test cannot be updated
	for round := 0; f.update && round < maxRounds; round++ {
		var changed bool
		if changed, left = f.rewrite(out, sys.stages, results); !changed {
			break
		}
		if suites, err = f.load(sys, args); err != nil {
			return err
		}
		results = flowtest.Run(ctx, suites, options)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	failed := f.print(out, results)
	err = f.writeJUnit(sys, func(w io.Writer) error { return flowtest.WriteJUnit(w, results) })
	if err = errors.Join(left, err); err == nil && failed {
		err = errTestsFailed
	}
	return err
}

// maxRounds bounds how often --update goes over the files: what one test expects may stand
// for what another does, by an anchor, and be false once that is updated.
const maxRounds = 5

// load reads the tests that the arguments stand for. When a file is wrong, all that is
// wrong is reported.
func (f *testFlags) load(sys system, args []string) ([]*flowtest.Suite, error) {
	suites, d := f.read(sys, args)
	for _, s := range suites {
		if err := notRead(f.junit, s.Path, s.Flows); err != nil {
			return nil, configError(err)
		}
	}
	if !report(sys, d) {
		return suites, nil
	}
	if err := f.writeJUnit(sys, func(w io.Writer) error { return flowtest.WriteJUnitErrors(w, suites, d) }); err != nil {
		return nil, configError(err)
	}
	return nil, configError(errReported)
}

func report(sys system, d flows.Diagnostics) (wrong bool) {
	look, src := sys.style(), make(sources)
	for _, x := range d {
		look.print(sys.stderr, x, src)
	}
	return d.HasErrors()
}

// read reads the tests that the arguments stand for.
func (f *testFlags) read(sys system, args []string) ([]*flowtest.Suite, flows.Diagnostics) {
	var d flows.Diagnostics
	if len(args) == 0 {
		args = []string{"."}
	}
	var paths []string
	add := func(path string) {
		if path = filepath.Clean(path); !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	for _, arg := range args {
		found, err := testFiles(arg)
		if err != nil {
			d.Errorf(flows.Position{File: arg}, "%v", err)
		}
		for _, path := range found {
			add(path)
		}
	}
	var suites []*flowtest.Suite
	for _, path := range paths {
		s, found := flowtest.Load(path, sys.stages, f.update)
		d = append(d, found...)
		suites = append(suites, s)
	}
	return suites, d
}

// testFiles lists the files with tests that an argument stands for.
func testFiles(arg string) ([]string, error) {
	info, err := os.Stat(arg)
	dir := err == nil && info.IsDir()
	found, err := expandOne(arg)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, path := range found {
		if flowtest.IsTestFile(path) {
			paths = append(paths, path)
			continue
		}
		if hasTests(path) {
			paths = append(paths, path)
		}
		if beside := flowtest.TestFile(path); beside != "" && !dir {
			paths = append(paths, beside)
		}
	}
	switch {
	case len(paths) > 0:
		return paths, nil
	case dir:
		return nil, errors.New("no tests are in it: they stand in NAME_test.yaml beside NAME.yaml, or under tests in a flows file")
	}
	return found, nil // the loader says what is wrong with it
}

var testsKey = regexp.MustCompile(`(?m)^["']?tests["']?\s*:`)

// hasTests reports whether a file seems to have tests in it. One that cannot be read may:
// the loader says why.
func hasTests(path string) bool {
	src, err := os.ReadFile(path)
	return err != nil || len(src) <= maxSource && testsKey.Match(src)
}

// rewrite updates the files of the tests that failed, and reports whether one has
// changed. The error says what cannot be updated; all else is.
func (f *testFlags) rewrite(w io.Writer, kinds *stages.Registry, results []*flowtest.Result) (changed bool, err error) {
	var errs []error
	for _, path := range pathsOf(results) {
		src, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		text, n, err := flowtest.Update(src, resultsOf(results, path))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		}
		if n == 0 || bytes.Equal(src, text) {
			continue
		}
		if err := overwrite(path, text); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, d := flowtest.Load(path, kinds, true); d.HasErrors() {
			errs = append(errs, overwrite(path, src), fmt.Errorf("%s cannot be updated: what one test expects stands for what another one "+
				"does, where it would be wrong: write it out: %w", path, d.Err()))
			continue
		}
		changed = true
		fmt.Fprintf(w, "%s: updated %d of the tests\n", harmless(path), n)
	}
	return changed, errors.Join(errs...)
}

// overwrite keeps the file's permissions.
func overwrite(path string, text []byte) error {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	return os.WriteFile(path, text, mode)
}

// pathsOf lists the files of results, each once.
func pathsOf(results []*flowtest.Result) []string {
	var paths []string
	for _, r := range results {
		if !slices.Contains(paths, r.Suite.Path) {
			paths = append(paths, r.Suite.Path)
		}
	}
	return paths
}

func resultsOf(results []*flowtest.Result, path string) []*flowtest.Result {
	return slices.DeleteFunc(slices.Clone(results), func(r *flowtest.Result) bool { return r.Suite.Path != path })
}

// print reports the results, by file, and whether a test failed. Every time is the real
// one from the begin of the first test to the end of the last one, so that no file took
// longer than all.
func (f *testFlags) print(w io.Writer, results []*flowtest.Result) (failed bool) {
	for _, path := range pathsOf(results) {
		list := resultsOf(results, path)
		for _, r := range list {
			f.printOne(w, r)
		}
		verdict := "ok"
		if failures(list) > 0 {
			verdict = "FAIL"
		}
		fmt.Fprintf(w, "%-5s %s  %s\n", verdict, harmless(path), summary(list))
	}
	fmt.Fprintf(w, "total %s\n", summary(results))
	failed = failures(results) > 0
	if failed && !f.verbose {
		fmt.Fprintln(w, "-v lists every test, and what each stage did with each event; --run NAME runs some of them")
	}
	return failed
}

func failures(results []*flowtest.Result) (n int) {
	for _, r := range results {
		if !r.Passed() {
			n++
		}
	}
	return n
}

func summary(results []*flowtest.Result) string {
	span := rounded(flowtest.Span(results))
	if n := failures(results); n > 0 {
		return fmt.Sprintf("%d of %s failed in %s", n, tests(len(results)), span)
	}
	return fmt.Sprintf("%s passed in %s", tests(len(results)), span)
}

// rounded leaves as much of a duration as one looks at.
func rounded(d time.Duration) time.Duration {
	if d < 10*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
}

func tests(n int) string {
	if n == 1 {
		return "1 test"
	}
	return fmt.Sprintf("%d tests", n)
}

// mostTold is how many events of a failed test are shown without being asked for, and
// widest how wide what is said of them may be.
const (
	mostTold = 3
	widest   = 160
)

func (f *testFlags) printOne(out io.Writer, r *flowtest.Result) {
	w := new(strings.Builder)
	defer func() { fmt.Fprint(out, visible(w.String())) }()
	verdict := "ok"
	if !r.Passed() {
		verdict = "FAIL"
	} else if !f.verbose {
		return
	}
	fmt.Fprintf(w, "--- %s: %s (%s virtual in %s)\n", verdict, r.Test.Name, r.Elapsed, rounded(r.Took))
	if r.Err != nil {
		fmt.Fprintf(w, "    %v\n", r.Err)
	}
	for _, d := range r.Differences {
		fmt.Fprintf(w, "    %s\n", strings.ReplaceAll(d.String(), "\n", "\n    "))
	}
	if f.verbose {
		for _, h := range r.Events {
			printHappening(w, h)
		}
		return
	}
	list, left := r.Telling(mostTold)
	for _, h := range list {
		var b strings.Builder
		printHappening(&b, h)
		for line := range strings.Lines(b.String()) {
			fmt.Fprintln(w, shortened(strings.TrimSuffix(line, "\n")))
		}
	}
	if left > 0 {
		fmt.Fprintf(w, "    and %d more\n", left)
	}
}

func shortened(line string) string {
	if text := []rune(line); len(text) > widest {
		return string(text[:widest]) + "…"
	}
	return line
}

// printHappening shows what became of an event, and what each stage did with it.
func printHappening(w io.Writer, h flowtest.Happening) {
	outcome := h.Outcome
	if outcome == "" {
		outcome = "not settled"
	}
	if h.Reason != "" {
		outcome += ", " + h.Reason
	}
	fmt.Fprintf(w, "    %-8s %s %s: %s\n", h.At, h.Flow, oneLine(h.ID), outcome)
	printSteps(w, "      ", h.Steps, false)
}

// writeJUnit writes a report where one is asked for.
func (f *testFlags) writeJUnit(sys system, write func(io.Writer) error) error {
	switch f.junit {
	case "":
		return nil
	case "-":
		if err := write(sys.stdout); err != nil {
			return fmt.Errorf("report: %w", err)
		}
		return nil
	}
	file, err := os.Create(f.junit)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return fmt.Errorf("report %s: %w", f.junit, err)
	}
	return nil
}
