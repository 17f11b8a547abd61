package app

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mjdevaccount/pulseflow/stages"
)

// written is what a command writes, which one that was left to itself may go on to do.
type written struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// mkfifo makes a named pipe.
func mkfifo(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	// Who waits for it at the end of the test goes on.
	t.Cleanup(func() {
		if f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0); err == nil {
			_ = f.Close()
		}
	})
	return path
}

// reading waits until somebody has a pipe open to read it, or waits in opening it, and
// returns its other end.
func reading(t *testing.T, path string, detail func() string) *os.File {
	t.Helper()
	var end *os.File
	eventually(t, "a reader of the pipe", func() bool {
		f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		end = f
		return err == nil
	}, detail)
	t.Cleanup(func() { _ = end.Close() })
	return end
}

// Every command ends while it waits for a pipe that nobody opens or nobody fills.
func TestCommandsEndWhileTheyWaitForAFile(t *testing.T) {
	flow := writeFile(t, minimal)
	events := recording(t, "feedback.jsonl")
	tested := func(text string) string {
		path := filepath.Join(t.TempDir(), "flows_test.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tt := range map[string]struct {
		file string // the name of the pipe
		args func(pipe string) []string
		want int
	}{
		"check":         {"p.yaml", func(p string) []string { return []string{"check", p} }, exitInterrupted},
		"check, second": {"p.yaml", func(p string) []string { return []string{"check", flow, p} }, exitInterrupted},
		"check, tests":  {"p_test.yaml", func(p string) []string { return []string{"check", p} }, exitInterrupted},
		"config":        {"p.yaml", func(p string) []string { return []string{"config", "--config", p} }, exitInterrupted},
		"graph":         {"p.yaml", func(p string) []string { return []string{"graph", p} }, exitInterrupted},
		"test":          {"p.yaml", func(p string) []string { return []string{"test", p} }, exitInterrupted},
		"test, tests":   {"p_test.yaml", func(p string) []string { return []string{"test", p} }, exitInterrupted},
		"test, flows": {"p.yaml", func(p string) []string {
			return []string{"test", tested("flows: " + p + "\ntests: [{name: a, events: [raw: x]}]\n")}
		}, exitInterrupted},
		"explain":        {"p.yaml", func(p string) []string { return []string{"explain", p, events} }, exitInterrupted},
		"explain, event": {"p.json", func(p string) []string { return []string{"explain", flow, p} }, exitInterrupted},
		"explain, after": {"p.jsonl", func(p string) []string {
			return []string{"explain", flow, tested("{}"), "--after", p}
		}, exitInterrupted},
		"simulate":          {"p.yaml", func(p string) []string { return []string{"simulate", "--config", p} }, exitInterrupted},
		"simulate, compare": {"p.yaml", func(p string) []string { return []string{"simulate", "--compare", p} }, exitInterrupted},
		"publish":           {"p.yaml", func(p string) []string { return []string{"publish", "--config", p, "--stream", "x", events} }, exitInterrupted},
		"publish, events": {"p.jsonl", func(p string) []string {
			return []string{"publish", "--config", flow, "--stream", "telemetry.feedback", p}
		}, exitInterrupted},
		"dlq":       {"p.yaml", func(p string) []string { return []string{"dlq", "list", "--config", p} }, exitInterrupted},
		"run":       {"p.yaml", func(p string) []string { return []string{"run", "--config", p} }, exitOK},
		"run, feed": {"p.jsonl", func(p string) []string { return []string{"run", "--config", flow, "--feed", p} }, exitOK},
	} {
		t.Run(name, func(t *testing.T) {
			for _, opened := range []bool{false, true} {
				pipe := mkfifo(t, tt.file)
				args := tt.args(pipe)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				var out, errs written
				status := make(chan int, 1)
				go func() {
					status <- execute(ctx, args, system{
						stages: stages.Builtin(), lookupEnv: func(string) (string, bool) { return "", false },
						stdin: strings.NewReader(""), stdout: &out, stderr: &errs,
					})
				}()
				if opened {
					reading(t, pipe, errs.String)
				} else {
					time.Sleep(20 * time.Millisecond) // it may wait by then, or not
				}
				cancel()
				select {
				case got := <-status:
					interrupted := strings.Contains(errs.String(), "pulseflow: interrupted\n")
					if got != tt.want || interrupted != (tt.want == exitInterrupted) || out.String() != "" {
						t.Errorf("opened %v: status %d, want %d; output %q, %q", opened, got, tt.want, &out, &errs)
					}
				case <-time.After(5 * time.Second):
					t.Errorf("opened %v: still waiting", opened)
				}
			}
		})
	}
}

// A pipe whose other end writes is a file like any other, but that it cannot be watched.
func TestPipesAreRead(t *testing.T) {
	for name, tt := range map[string]struct {
		args   []string // before the pipe
		status int
		want   string
	}{
		"check":       {[]string{"check"}, exitOK, "ok: 1 of 1 flows run"},
		"graph":       {[]string{"graph"}, exitOK, "flowchart"},
		"run":         {[]string{"run", "--listen=off", "--drain", "--config"}, exitOK, "summary"},
		"run --watch": {[]string{"run", "--listen=off", "--watch", "--config"}, exitConfig, "flows.yaml cannot be watched"},
	} {
		t.Run(name, func(t *testing.T) {
			pipe := mkfifo(t, "flows.yaml")
			fed := make(chan error, 1)
			go func() {
				f, err := os.OpenFile(pipe, os.O_WRONLY, 0)
				if err == nil {
					_, err = f.WriteString(minimal)
					err = errors.Join(err, f.Close())
				}
				fed <- err
			}()
			status, out, errs := invoke(t, nil, "", append(tt.args, pipe)...)
			if err := <-fed; err != nil || status != tt.status || !strings.Contains(out+errs, tt.want) {
				t.Errorf("status %d, %v\n%s%s", status, err, out, errs)
			}
		})
	}
}

// The first signal ends a process that waits for a file.
func TestSignalsEndTheWaitForAFile(t *testing.T) {
	for name, tt := range map[string]struct {
		signal os.Signal
		args   []string
		want   int
	}{
		"check, SIGTERM": {syscall.SIGTERM, []string{"check"}, exitInterrupted},
		"check, SIGINT":  {syscall.SIGINT, []string{"check"}, exitInterrupted},
		"run, SIGTERM":   {syscall.SIGTERM, []string{"run", "--config"}, exitOK},
	} {
		t.Run(name, func(t *testing.T) {
			pipe := mkfifo(t, "flows.yaml")
			cmd := exec.Command(os.Args[0], append(tt.args, pipe)...)
			cmd.Env = []string{asProgram + "=1", "GORACE=atexit_sleep_ms=0"}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan struct{})
			go func() { _ = cmd.Wait(); close(done) }()
			reading(t, pipe, func() string { return "" })
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			select {
			case <-done:
			case <-time.After(5 * time.Second):
				_ = cmd.Process.Kill()
				<-done
				t.Fatal("still running")
			}
			if got := cmd.ProcessState.ExitCode(); got != tt.want {
				t.Errorf("exit status %d, want %d", got, tt.want)
			}
		})
	}
}
