package flowtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// flow is the file that most tests are about.
const flow = `version: 1
providers:
  ibkr: {rate: 60}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages:
      - validate: {schema: telemetry.FeedbackEvent}
      - dedupe: {key: id, ttl: 10m}
      - handle: {with: feedback, policy: {soft: "${SOFT:-0.5}"}}
      - rate-apply: {publish: telemetry.rate_adjustment}
`

// write puts a flow file and its tests into a folder of their own and returns the path
// of the tests.
func write(t testing.TB, flowFile, testFile string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"flows.yaml": flowFile, "flows_test.yaml": testFile} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "flows_test.yaml")
}

func load(t testing.TB, path string, unfinished bool) *Suite {
	t.Helper()
	s, d := Load(path, stages.Builtin(), unfinished)
	if d.HasErrors() {
		t.Fatal(d)
	}
	return s
}

// run runs the tests of a file about flowFile.
func run(t testing.TB, flowFile, testFile string) []*Result {
	t.Helper()
	s := load(t, write(t, flowFile, testFile), true)
	return Run(context.Background(), []*Suite{s}, Options{Limit: time.Minute})
}

// passes expects that every test of a file passes.
func passes(t *testing.T, flowFile, testFile string) {
	t.Helper()
	for _, r := range run(t, flowFile, testFile) {
		if !r.Passed() {
			t.Errorf("%s", transcript(r))
		}
	}
}

// transcript is all that a result shows, but for what is real time.
func transcript(r *Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %v, %v\n", r.Test.Name, r.Elapsed, r.Err)
	for _, d := range r.Differences {
		fmt.Fprintln(&b, strings.ReplaceAll(d.String(), filepath.Dir(r.Suite.Path), ""))
	}
	for _, e := range r.Events {
		fmt.Fprintln(&b, e.At, e.Flow, e.ID, e.Outcome)
		for _, s := range e.Steps {
			fmt.Fprintln(&b, " ", s.Attempt, s.Index, s.Stage, s.Decision, s.Error, s.Notes)
		}
	}
	if r.world != nil {
		for _, p := range r.world.line.published {
			fmt.Fprintln(&b, p.at, p.stream, string(p.data), p.meta)
		}
	}
	return b.String()
}

var _ stages.Waiter = (*schedule)(nil)

var _ stages.Deadliner = (*schedule)(nil)
