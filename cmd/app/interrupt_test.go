//go:build unix

package app

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A named pipe that nobody writes is waited for, and a signal ends that.
func TestASignalEndsWaitingForAFile(t *testing.T) {
	for name, tt := range map[string]struct {
		pipe string
		args []string
	}{
		"check":   {"flows.yaml", []string{"check"}},
		"run":     {"flows.yaml", []string{"run", "--listen", "off"}},
		"config":  {"flows.yaml", []string{"config"}},
		"test":    {"a_test.yaml", []string{"test", "a_test.yaml"}},
		"explain": {"event.json", []string{"explain", "feedback", "event.json"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			pipe := filepath.Join(dir, tt.pipe)
			if err := syscall.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(os.Args[0], tt.args...)
			cmd.Dir = dir
			cmd.Env = []string{asProgram + "=1", "GORACE=atexit_sleep_ms=0"}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			select {
			case err := <-ended:
				t.Fatalf("did not wait for the pipe: %v", err)
			case <-time.After(time.Second):
			}
			if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
					t.Errorf("ended with %v, want exit status %d", err, exitInterrupted)
				}
			case <-time.After(patience):
				t.Errorf("SIGTERM did not end it: killed, %v", errors.Join(cmd.Process.Kill(), <-ended))
			}
		})
	}
}

// What comes through a named pipe can be run, and neither watched nor loaded again.
func TestReloadOfANamedPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "flows.yaml")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	write := func() { written <- os.WriteFile(pipe, fmt.Appendf(nil, watched, 1), 0o600) }
	go write()
	p := launch(t, nil, "--config", pipe)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	p.eventually("the flow to run", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	status, page := p.reload("secret")
	if status != http.StatusBadRequest && status != http.StatusUnprocessableEntity || !strings.Contains(page, "is not a regular file") {
		t.Errorf("%d %s", status, page)
	}
	p.stop()

	go write()
	code, _, errs := invoke(t, nil, "", "run", "--watch", "--listen", "off", "--config", pipe)
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if code != exitConfig || !strings.Contains(errs, "is not a regular file") {
		t.Errorf("watched: %d %s", code, errs)
	}
}
