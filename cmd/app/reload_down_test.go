package app

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/stages"
)

// A process that was started while Redis could not be reached loads its file again all the
// same, providers whose levels are shared included. Once Redis is there, the last file runs.
func TestReloadBeforeRedisIsThere(t *testing.T) {
	const flow = `  %s:
    from: {stream: s, group: %s, start: oldest}
    stages: [dedupe: {}, handle: {with: oracle}]
    retry: {max: %d}
`
	server := redistest.Start(t, redistest.WithAOF())
	events := &producer{t: t, client: server.Client(t), stream: "mdp:mdp.s"}
	events.produce(100)
	head := fmt.Sprintf("version: 1\nbus: {backend: redis, redis: {url: %s, lease: 2s}}\nadmin: {listen: \"off\"}\nshutdown_timeout: 2s\n", server.URL())
	file := func(providers string, list ...string) string {
		return head + "providers:\n" + providers + "flows:\n" + strings.Join(list, "")
	}
	adjusts := `  rates:
    from: {stream: r, group: rates}
    stages: [validate: {schema: telemetry.FeedbackEvent}, handle: {with: feedback, provider: a}, rate-apply]
`
	o := &oracle{runs: make(map[string]map[int]int), at: make(map[string]map[int]bool)}
	reg := stages.Builtin()
	if err := reg.AddHandler("oracle", o.handle); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	h := hostDown(t, reg, file("  a: {rate: 60}\n", adjusts, fmt.Sprintf(flow, "kept", "kept", 3), fmt.Sprintf(flow, "gone", "gone", 3)))
	for i, text := range []string{
		file("  a: {rate: 60}\n  b: {rate: 9}\n", adjusts, fmt.Sprintf(flow, "kept", "kept", 4), fmt.Sprintf(flow, "gone", "gone", 3)),
		file("  a: {rate: 61}\n  c: {rate: 9}\n", adjusts, fmt.Sprintf(flow, "kept", "kept", 5), fmt.Sprintf(flow, "added", "added", 3)),
	} {
		began := time.Now()
		h.becomes(text, telemetry.ReloadSuccess)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("reload %d took %s", i, took)
		} else {
			t.Logf("reload %d took %s", i, took)
		}
	}
	server.Restart()
	for _, name := range []string{"kept", "added"} {
		h.eventually(name+" to have handled all", func() bool { handled, _ := o.account(name); return handled == events.n })
	}
	groups, err := events.client.XInfoGroups(context.Background(), events.stream).Result()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range groups {
		names = append(names, g.Name)
	}
	if diff := cmp.Diff([]string{"added", "kept"}, names); diff != "" {
		t.Error(diff)
	}
	var providers []string
	for _, r := range h.rates.Status() {
		providers = append(providers, r.Provider)
	}
	if diff := cmp.Diff([]string{"a", "c"}, providers); diff != "" {
		t.Error(diff)
	}
	h.eventually("to be ready", func() bool { return h.ready().Status == "ready" })
	h.stop()
}

// A signal ends a process that is in the middle of a reload which waits for a server that
// hangs, as it would at any other time.
func TestStopDuringAReloadInAnOutage(t *testing.T) {
	server := redistest.Start(t)
	const file = `version: 1
bus: {backend: redis, redis: {url: %s}}
admin: {listen: 127.0.0.1:0, operator_token: secret}
shutdown_timeout: 1s
flows: {a: {from: {stream: s}, stages: [dedupe], retry: {max: %d}}}
`
	path := writeFile(t, fmt.Sprintf(file, server.URL(), 1))
	p := launch(t, nil, "--config", path)
	p.eventually("the flow to run", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	server.Pause()
	defer server.Resume()
	rewrite(t, path, fmt.Sprintf(file, server.URL(), 2))
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatalf("it does not end\n%s", p.logged())
	}
	took := time.Since(began)
	t.Logf("ended after %s\n%s", took, p.logged())
	if code := p.cmd.ProcessState.ExitCode(); code != exitOK || took > 6*time.Second {
		t.Errorf("exit status %d after %s", code, took)
	}
}
