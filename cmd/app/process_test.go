package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mjdevaccount/pulseflow/stages"
)

// asProgram makes this test binary the program itself, so that a test can start,
// signal and kill a real process.
const asProgram = "PULSEFLOW_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		Main(stages.Builtin())
		return
	}
	os.Exit(m.Run())
}

// patience bounds every wait for something that must happen.
const patience = 30 * time.Second

// invoke runs a command line in this process.
func invoke(t testing.TB, env map[string]string, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	status = execute(ctx, args, system{
		stages:    stages.Builtin(),
		lookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		stdin:     strings.NewReader(stdin), stdout: &out, stderr: &errs,
	})
	return status, out.String(), errs.String()
}

// process is a running pulseflow.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	base string        // of the admin listener
	done chan struct{} // closed when it has ended

	mu  sync.Mutex
	log strings.Builder
	out bytes.Buffer
}

var addressLine = regexp.MustCompile(`address=(\S+)`)

// launch starts the program in an empty folder and waits for its admin listener.
func launch(t *testing.T, env map[string]string, args ...string) *process {
	t.Helper()
	p := &process{t: t, done: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], append([]string{"run", "--listen", "127.0.0.1:0"}, args...)...)
	p.cmd.Dir = t.TempDir()
	// The race detector would sleep for a second at the exit.
	p.cmd.Env = []string{asProgram + "=1", "GORACE=atexit_sleep_ms=0", "PATH=" + os.Getenv("PATH"), "HOME=" + p.cmd.Dir}
	for k, v := range env {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	p.cmd.Stdout = &p.out
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	go func() {
		var line []byte
		buf := make([]byte, 4096)
		for {
			n, err := stderr.Read(buf)
			p.mu.Lock()
			p.log.Write(buf[:n])
			p.mu.Unlock()
			if line != nil || n > 0 {
				line = append(line, buf[:n]...)
				if m := addressLine.FindSubmatch(line); m != nil && bytes.Contains(line, []byte("\n")) {
					select {
					case address <- string(m[1]):
					default:
					}
				}
			}
			if err != nil {
				_ = p.cmd.Wait() // its exit status is looked at where it matters
				close(p.done)
				return
			}
		}
	}()
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	})
	select {
	case p.base = <-address:
	case <-p.done:
		t.Fatalf("the program ended: %v\n%s", p.cmd.ProcessState, p.logged())
	case <-time.After(patience):
		t.Fatalf("no admin listener\n%s", p.logged())
	}
	return p
}

func (p *process) logged() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// end signals the process and returns its exit status.
func (p *process) end(signal os.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("still running\n%s", p.logged())
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the process as an operator does, and expects that to go well.
func (p *process) stop() {
	p.t.Helper()
	if status := p.end(syscall.SIGTERM); status != exitOK {
		p.t.Errorf("exit status %d\n%s", status, p.logged())
	}
}

// get reads a page of the admin listener.
func (p *process) get(path string) (int, string) {
	p.t.Helper()
	resp, err := http.Get(p.base + path)
	if err != nil {
		p.t.Fatalf("%v\n%s", err, p.logged())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// metric sums the samples whose line begins with name and contains all labels.
func (p *process) metric(name string, labels ...string) float64 {
	p.t.Helper()
	_, page := p.get("/metrics")
	sum := 0.0
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		matches := true
		for _, l := range labels {
			matches = matches && strings.Contains(rest, l)
		}
		if matches {
			var v float64
			if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &v); err != nil {
				p.t.Fatalf("%q: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}

// outcomes sums pulse_consume_total by outcome.
func (p *process) outcomes() (success, errors, duplicate float64) {
	of := func(outcome string) float64 {
		return p.metric("pulse_consume_total", `stream="telemetry.feedback"`, `outcome="`+outcome+`"`)
	}
	return of("success"), of("error"), of("duplicate")
}

func (p *process) eventually(what string, holds func() bool) {
	p.t.Helper()
	eventually(p.t, what, holds, p.logged)
}

func eventually(t *testing.T, what string, holds func() bool, detail func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s\n%s", what, detail())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// post sends a body to the ingest of the feedback stream.
func (p *process) post(body string, header ...string) (int, string) {
	p.t.Helper()
	return p.postTo("telemetry.feedback", body, header...)
}

// postTo sends a body to the ingest of a stream.
func (p *process) postTo(topic, body string, header ...string) (int, string) {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodPost, p.base+"/ingest/"+topic, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// recording is the path of a capture file.
func recording(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "event", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// decode reads JSON into a new T.
func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// with returns env and more.
func with(env map[string]string, more ...string) map[string]string {
	all := maps.Clone(env)
	if all == nil {
		all = make(map[string]string)
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}
