package app

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// ticksTest tests the example's flow, with a failure in its own stage.
const ticksTest = `tests:
  - name: a price between two ticks is a dead letter at once
    events:
      - {name: on, schema: market.Trade, payload: {price: 10.15}, outcome: success}
      - {name: off, schema: market.Trade, payload: {price: 10.17}, outcome: error}
    fail:
      - {stage: on-tick, event: on} # is tried again
    expect:
      dead_letters:
        - {event: off, stage: on-tick, kind: schema, attempts: 1, reason: "/price: must be a multiple of 0.05"}
      elapsed: 100ms
`

// A module of its own adds a stage and builds its own program, whose main is short;
// its tests pass, and the program runs the stage on both buses, in flow tests and in explain.
func TestCustomStage(t *testing.T) {
	dir := filepath.Join("..", "..", "docs", "examples", "custom-stage")
	program := filepath.Join(t.TempDir(), "ticks")
	command := func(env map[string]string, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
		for _, k := range slices.Sorted(maps.Keys(env)) {
			cmd.Env = append(cmd.Env, k+"="+env[k])
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	command(nil, "go", "vet", "./...")
	command(nil, "go", "test", "./...")
	command(nil, "go", "build", "-o", program, ".")

	src, err := os.ReadFile(filepath.Join(dir, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	if _, body, _ := strings.Cut(string(src), "func main() {"); strings.Count(body, "\n") >= 30 {
		t.Errorf("main takes %d lines", strings.Count(body, "\n"))
	}
	if out := command(nil, program, "stages"); !strings.Contains(out, "on-tick") || !strings.Contains(out, "dedupe") {
		t.Errorf("its stages:\n%s", out)
	}
	if out := command(nil, program, "schema"); !strings.Contains(out, "the tick size") {
		t.Error("its schema lacks the stage")
	}
	for name, env := range map[string]map[string]string{
		"inmem": {"EVENT_BUS_BACKEND": "inmem"},
		"redis": redisEnv(redistest.Start(t)),
	} {
		out := command(env, program, "run", "--feed", "trades.jsonl", "--drain")
		if !strings.Contains(out, "2 success, 0 duplicate, 1 error") || !strings.Contains(out, "/price: must be a multiple of 0.05") {
			t.Errorf("on %s:\n%s", name, out)
		}
	}
	tested := t.TempDir()
	for name, text := range map[string]string{"flows.yaml": "", "flows_test.yaml": ticksTest} {
		if text == "" {
			src, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			text = string(src)
		}
		if err := os.WriteFile(filepath.Join(tested, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if out := command(nil, program, "test", tested); !strings.Contains(out, "total 1 test passed in ") {
		t.Errorf("its test:\n%s", out)
	}
	if out := command(nil, program, "check", tested); !strings.Contains(out, "flows_test.yaml: ok: 1 test\n") {
		t.Errorf("check of its test:\n%s", out)
	}
	event := filepath.Join(tested, "event.json")
	if err := os.WriteFile(event, []byte(`{"ts": 1, "meta": {"schema_id": "market.Trade"}, "payload": {"price": 10.17}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := command(nil, program, "explain", "trades", event); !strings.Contains(out, "2 on-tick     failed ") ||
		!strings.Contains(out, "stage    on-tick\n  kind     schema\n  pointer  /price\n") {
		t.Errorf("an event explained:\n%s", out)
	}
	t.Run("as its README says", func(t *testing.T) {
		root, err := filepath.Abs(filepath.Join("..", ".."))
		if err != nil {
			t.Fatal(err)
		}
		where := []string{"GOPATH", "GOCACHE", "GOMODCACHE", "GOPROXY", "GOSUMDB"}
		env := append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
		for i, value := range strings.Split(command(nil, "go", append([]string{"env"}, where...)...), "\n")[:len(where)] {
			env = append(env, where[i]+"="+value)
		}
		home := t.TempDir()
		list := blocks(t, filepath.Join(dir, "README.md"))
		if len(list) != 2 {
			t.Fatalf("%d blocks", len(list))
		}
		// The second makes the copy that the first is run in.
		for _, b := range []struct{ script, dir string }{{list[1].text, root}, {list[0].text, filepath.Join(home, "ticks")}} {
			cmd := exec.Command("sh", "-ec", b.script)
			cmd.Dir = b.dir
			cmd.Env = append(slices.Clone(env), "HOME="+home, "PWD="+b.dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s\n%s", err, b.script, out)
			}
		}
	})
	broken := filepath.Join(t.TempDir(), "flows.yaml")
	if err := os.WriteFile(broken, []byte("version: 1\nflows: {f: {from: {stream: s}, stages: [on-tik]}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "check", broken).CombinedOutput()
	if err == nil || !strings.Contains(string(out), `did you mean "on-tick"?`) {
		t.Errorf("check of a slip: %v\n%s", err, out)
	}
}
