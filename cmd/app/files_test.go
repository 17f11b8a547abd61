package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mjdevaccount/pulseflow/stages"
)

// fullDisk takes nothing.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// What could not be written to standard output is told, and is a failure: a file that a
// command was to make would be cut off.
func TestOutputThatCannotBeWritten(t *testing.T) {
	t.Chdir(filepath.Join("..", ".."))
	for _, args := range [][]string{
		{"schema"},
		{"graph"},
		{"config"},
		{"check"},
		{"check", "--format=json", writeFile(t, upsideDown)},
		{"stages"},
		{"stages", "--markdown"},
		{"stages", "route"},
		{"version"},
		{"test"},
		{"init", filepath.Join(t.TempDir(), "new")},
		{"--help"},
		{"completion", "bash"},
	} {
		var errs strings.Builder
		status := execute(context.Background(), args, system{
			stages: stages.Builtin(), lookupEnv: func(string) (string, bool) { return "", false },
			stdin: strings.NewReader(""), stdout: fullDisk{}, stderr: &errs,
		})
		if status != exitFailure || strings.Count(errs.String(), "no space left on device") != 1 {
			t.Errorf("%v: status %d, want 1\n%s", args, status, &errs)
		}
	}
}

// An argument that a variable of the shell left empty is no file, and not the default.
func TestEmptyFileNames(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range [][]string{
		{"check", ""},
		{"test", ""},
		{"graph", ""},
		{"init", ""},
		{"check", "--config", ""},
		{"graph", "--config="},
		{"run", "--config", "", "--drain", "--listen=off"},
		{"explain", "feedback", "", "--config="},
		{"simulate", "--config", ""},
		{"simulate", "--compare", ""},
		{"publish", "--stream", "", "-"},
	} {
		status, out, errs := invoke(t, nil, "", args...)
		if status != exitConfig || out != "" || !strings.Contains(errs, "empty") {
			t.Errorf("%q: status %d, output %q\n%s", args, status, out, errs)
		}
	}
}

// A hyphen is no file of flows, and what is meant by it is told.
func TestHyphenIsNoFlowsFile(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, args := range [][]string{{"check", "-"}, {"graph", "-"}, {"config", "--config", "-"}} {
		if status, _, errs := invoke(t, nil, "", args...); status != exitConfig || !strings.Contains(errs, "-: cannot be read: no such file or directory: standard input is /dev/stdin") {
			t.Errorf("%q: status %d\n%s", args, status, errs)
		}
	}
	if status, _, errs := invoke(t, nil, "", "graph", "a.yaml", "--config", "b.yaml"); status != exitConfig || !strings.Contains(errs, "not both") {
		t.Errorf("two files to graph: status %d\n%s", status, errs)
	}
}

// The names of files come from whoever made the files, and lead neither a terminal nor a
// reader of lines astray.
func TestFileNamesAreShownHarmless(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{
		"a\n::error::b.yaml": minimal, "c\x1b[31m.yaml": "version: 1\n", "d\u202e_test.yaml": "flows: \"a\\n::error::b.yaml\"\ntests: [{name: x, events: [raw: x]}]\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"check", "."}, {"check", "--excerpt", "."}, {"test", "."}, {"test"}} {
		_, out, errs := invoke(t, nil, "", args...)
		for line := range strings.Lines(out + errs) {
			if strings.HasPrefix(line, "::") || strings.ContainsAny(line, "\x1b\u202e") {
				t.Errorf("%q: %q", args, line)
			}
		}
	}
	// What init says to do next works in a shell.
	if _, out, _ := invoke(t, nil, "", "init", "it's new"); !strings.Contains(out, "\n  cd 'it'\\''s new'\n") {
		t.Errorf("%s", out)
	}
}

// A file that cannot be read may have tests that would fail.
func TestUnreadableFilesAreNotPassedOver(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, errs := invoke(t, nil, "", "init"); errs != "" {
		t.Fatal(errs)
	}
	if err := os.Symlink("nowhere", "more.yaml"); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := invoke(t, nil, "", "test"); status != exitConfig || !strings.Contains(errs, "more.yaml: cannot be read") {
		t.Errorf("test: status %d\n%s", status, errs)
	}
	// Nor are files that cannot be looked at there already.
	if os.Getuid() == 0 {
		return // whom nothing is denied
	}
	if err := os.Mkdir("locked", 0o000); err != nil {
		t.Fatal(err)
	}
	if status, _, errs := invoke(t, nil, "", "init", "locked"); status != exitFailure || !strings.Contains(errs, "permission denied") {
		t.Errorf("init: status %d\n%s", status, errs)
	}
}

// A name in the place of another does not cost a file.
func TestOutputsDoNotReplaceInputs(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, errs := invoke(t, nil, "", "init"); errs != "" {
		t.Fatal(errs)
	}
	if err := os.Symlink("flows_test.yaml", "link"); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"test", "--junit", "flows_test.yaml"},
		{"test", "--junit", "flows.yaml"},
		{"test", "--junit", "link", "."},
		{"simulate", "--csv", "flows.yaml"},
		{"simulate", "--svg", "./flows.yaml"},
	} {
		before, err := os.ReadFile(strings.Replace(args[2], "link", "flows_test.yaml", 1))
		if err != nil {
			t.Fatal(err)
		}
		status, _, errs := invoke(t, nil, "", args...)
		after, err := os.ReadFile(args[2])
		if err != nil || status != exitConfig || string(before) != string(after) || !strings.Contains(errs, args[2]+" is read") {
			t.Errorf("%q: status %d, %v\n%s", args, status, err, errs)
		}
	}
}

// Editors on Windows put a byte order mark before events too.
func TestEventsWithAByteOrderMark(t *testing.T) {
	const event = "\uFEFF" + `{"coordinator_id":"b","queue_size":9,"capacity":10,"level":"hard"}` + "\r\n"
	t.Chdir(t.TempDir())
	if err := os.WriteFile("e.jsonl", []byte(event), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"explain", "feedback", "e.jsonl"},
		{"explain", "feedback", "-"},
		{"explain", "feedback", "e.jsonl", "--after", "e.jsonl"},
		{"run", "--listen=off", "--drain", "--feed", "e.jsonl"},
	} {
		status, out, errs := invoke(t, nil, event, args...)
		if status != exitOK || strings.Contains(out, "dead letter") || args[0] == "run" && !strings.Contains(out, "1 success") {
			t.Errorf("%q: status %d\n%s%s", args, status, out, errs)
		}
	}
}
