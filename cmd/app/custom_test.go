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

// A module of its own adds a stage and builds its own program, whose main is short;
// its tests pass, and the program runs the stage on both buses.
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
	broken := filepath.Join(t.TempDir(), "flows.yaml")
	if err := os.WriteFile(broken, []byte("version: 1\nflows: {f: {from: {stream: s}, stages: [on-tik]}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(program, "check", broken).CombinedOutput()
	if err == nil || !strings.Contains(string(out), `did you mean "on-tick"?`) {
		t.Errorf("check of a slip: %v\n%s", err, out)
	}
}
