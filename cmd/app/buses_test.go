package app

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// numbered is the n-th event of a test, and none is like another.
func numbered(n int, level string) string {
	return fmt.Sprintf(`{"coordinator_id":"bars_%d","queue_size":9,"capacity":10,"level":%q}`, n, level)
}

// busesOf is what /readyz tells of buses, as name to up, with the status.
func (p *process) busesOf() (status string, up map[string]bool, r admin.Readiness) {
	p.t.Helper()
	_, page := p.get("/readyz")
	r = decode[admin.Readiness](p.t, page)
	up = make(map[string]bool)
	for _, b := range r.Buses {
		up[b.Name] = b.Up
	}
	return r.Status, up, r
}

// status is a flow's line of /flows.
func (p *process) status(flow string) router.FlowStatus {
	p.t.Helper()
	_, page := p.get("/flows")
	list := decode[struct{ Flows []router.FlowStatus }](p.t, page).Flows
	for _, f := range list {
		if f.Name == flow {
			return f
		}
	}
	p.t.Fatalf("no flow %s in %s", flow, page)
	return router.FlowStatus{}
}

// add puts the events from first up to before next on a stream of a server, waiting
// for it to answer.
func add(t *testing.T, client *redis.Client, stream string, first, next int) {
	t.Helper()
	for n := first; n < next; n++ {
		args := &redis.XAddArgs{Stream: stream, Values: map[string]any{
			"data": numbered(n, "soft"), "original_id": fmt.Sprintf("n-%d", n),
		}}
		eventually(t, "an entry to be taken", func() bool {
			return client.XAdd(context.Background(), args).Err() == nil
		}, func() string { return stream })
	}
}

// originals are the ids that the entries of a stream had first, each once.
func originals(t *testing.T, client *redis.Client, stream string) map[string]bool {
	t.Helper()
	entries, err := client.XRange(context.Background(), stream, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]bool)
	for _, e := range entries {
		ids[fmt.Sprint(e.Values["original_id"])] = true
	}
	return ids
}

// The shipped example: Redis is down at the start, comes, is killed with events on
// both sides, and comes back. Feedback is accepted and changes the rate all the time,
// and no alert and no report is lost.
func TestExampleTwoBuses(t *testing.T) {
	example, err := filepath.Abs(filepath.Join("..", "..", "docs", "examples", "two-buses.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	server := redistest.Start(t, redistest.WithAOF())
	server.Kill()
	p := launch(t, map[string]string{"REDIS_URL": server.URL()}, "--config", example)
	const alerts, drift = "mdp:mdp.ops.pressure_alerts", "mdp:mdp.telemetry.schema_drift"

	posted := 0
	// feedback posts events and waits until the rate's flow has handled them.
	feedback := func(level string, n int) {
		t.Helper()
		for range n {
			if code, text := p.post(numbered(posted, level)); code != http.StatusAccepted {
				t.Fatalf("event %d: %d %s", posted, code, text)
			}
			posted++
		}
		p.eventually("the feedback to be handled", func() bool { return p.status("feedback").Success == int64(posted) })
	}
	scale := func() float64 { return p.metric("pipeline_rate_scale_factor", `provider="ibkr"`) }
	down := func() {
		t.Helper()
		p.eventually("readiness to tell of the bus that is down", func() bool {
			status, up, _ := p.busesOf()
			return status == admin.Degraded && cmp.Equal(up, map[string]bool{"default": true, "shared": false})
		})
		if f := p.status("feedback"); f.State != router.StateRunning || f.Bus != "default" {
			t.Errorf("the feedback flow is %+v", f)
		}
		for _, name := range []string{"alerts", "drift"} {
			if f := p.status(name); f.State != router.StateDegraded || !strings.HasPrefix(f.Reason, `bus "shared": `) {
				t.Errorf("flow %s is %q: %q", name, f.State, f.Reason)
			}
		}
		if v := p.metric("pulseflow_redis_up", `bus="shared"`); v != 0 {
			t.Errorf("redis_up is %v", v)
		}
	}
	ready := func() {
		t.Helper()
		p.eventually("readiness", func() bool {
			status, up, _ := p.busesOf()
			return status == admin.Ready && up["shared"] && up["default"]
		})
	}

	// Down at the start.
	down()
	feedback("soft", 5)
	if v := scale(); v != 0.5 {
		t.Errorf("scale %v after soft feedback, want 0.5", v)
	}
	feedback("hard", 20)
	if v := scale(); v != 0 {
		t.Errorf("scale %v after hard feedback, want 0", v)
	}
	if code, text := p.postTo("telemetry.schema_drift", `{"x":1}`); code != http.StatusServiceUnavailable {
		t.Errorf("an event for the bus that is down: %d %s", code, text)
	}
	server.Restart()
	ready()
	client := server.Client(t)
	add(t, client, drift, 0, 100)

	// Killed with events on both sides.
	server.Kill()
	down()
	feedback("hard", 20)
	server.Restart()
	ready()
	add(t, client, drift, 100, 200)
	feedback("hard", 10)

	p.eventually("every alert", func() bool { return p.status("alerts").Success == 50 })
	if n := len(originals(t, client, alerts)); n != 50 {
		t.Errorf("alerts of %d events, want 50", n)
	}
	p.eventually("every report", func() bool {
		f := p.status("drift")
		return f.Success == 200 && pending(client, drift) == 0
	})
	for name, want := range map[string]int64{"feedback": 55, "alerts": 50, "drift": 200} {
		if f := p.status(name); f.Success != want || f.Error != 0 {
			t.Errorf("flow %s: %+v", name, f)
		}
	}
	p.stop()
	if out := p.out.String(); strings.Contains(out, "lost") {
		t.Errorf("summary:\n%s", out)
	}
}

const twoServers = `version: 1
buses:
  a: {backend: redis, redis: {url: "${URL_A}", block: 200ms}}
  b: {backend: redis, namespace: prod, redis: {url: "${URL_B}", block: 200ms}}
flows:
  on-a: {from: {bus: a, stream: one}, stages: [dedupe]}
  on-b: {from: {bus: b, stream: two}, stages: [dedupe]}
  bridge:
    from: {bus: a, stream: one, group: bridge}
    stages: [dedupe]
    to: {bus: b, stream: two}
    retry: {initial: 10ms, max_interval: 100ms}
`

// Two servers: while one is down, or hangs, the flows of the other go on, and a chain
// between them acknowledges nothing that has not arrived.
func TestTwoServers(t *testing.T) {
	for name, out := range map[string]struct{ stop, back func(*redistest.Server) }{
		"killed": {(*redistest.Server).Kill, (*redistest.Server).Restart},
		"hangs":  {(*redistest.Server).Pause, (*redistest.Server).Resume},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := redistest.Start(t, redistest.WithAOF()), redistest.Start(t, redistest.WithAOF())
			p := launch(t, map[string]string{"URL_A": a.URL(), "URL_B": b.URL()}, "--config", writeFile(t, twoServers))
			onA, onB := a.Client(t), b.Client(t)
			const one, two = "mdp:mdp.one", "prod:prod.two"
			waiting := func() int64 {
				s, err := onA.XPending(context.Background(), one, "bridge").Result()
				if err != nil {
					t.Fatal(err)
				}
				return s.Count
			}
			add(t, onA, one, 0, 50)
			p.eventually("the chain", func() bool { return p.status("on-b").Success == 50 && waiting() == 0 })

			out.stop(b)
			add(t, onA, one, 50, 100)
			p.eventually("the flow on the other server", func() bool { return p.status("on-a").Success == 100 })
			p.eventually("the outage to be told", func() bool {
				status, up, _ := p.busesOf()
				return status == admin.Degraded && cmp.Equal(up, map[string]bool{"a": true, "b": false})
			})
			if n := waiting(); n != 50 {
				t.Errorf("%d entries wait for the server that is out, want 50", n)
			}
			if p.metric("pulseflow_redis_up", `bus="a"`) != 1 || p.metric("pulseflow_redis_up", `bus="b"`) != 0 {
				t.Error("pulseflow_redis_up does not tell the servers apart")
			}
			if p.metric("pulseflow_pending_entries", `group="bridge"`) != 50 {
				t.Error("the pending entries of the server that is up are not told")
			}

			out.back(b)
			p.eventually("the chain to catch up", func() bool { return waiting() == 0 && p.status("on-b").Success == 100 })
			if n := len(originals(t, onB, two)); n != 100 {
				t.Errorf("%d events arrived, want 100", n)
			}
			for _, f := range []string{"on-a", "on-b", "bridge"} {
				if s := p.status(f); s.Error != 0 || s.Success != 100 {
					t.Errorf("%+v", s)
				}
			}
			p.stop()
		})
	}
}

// A stop while one bus is out ends in time, and what has not arrived stays pending.
func TestStopWhileABusIsOut(t *testing.T) {
	a, b := redistest.Start(t), redistest.Start(t)
	b.Kill()
	p := launch(t, map[string]string{"URL_A": a.URL(), "URL_B": b.URL()}, "--config", writeFile(t, twoServers))
	onA := a.Client(t)
	add(t, onA, "mdp:mdp.one", 0, 20)
	waiting := func() int64 {
		s, err := onA.XPending(context.Background(), "mdp:mdp.one", "bridge").Result()
		if err != nil {
			return -1
		}
		return s.Count
	}
	p.eventually("the flows of the other server", func() bool { return p.status("on-a").Success == 20 && waiting() == 20 })
	begun := time.Now()
	p.stop()
	if took := time.Since(begun); took > patience {
		t.Errorf("it took %s", took)
	}
	if n := waiting(); n != 20 {
		t.Errorf("%d pending, want 20", n)
	}
}

// What waits in memory for a bus that is out when the process stops is lost, which the
// summary tells.
func TestStopTellsWhatIsLost(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	p := launch(t, map[string]string{"REDIS_URL": server.URL()}, "--config", writeFile(t, `version: 1
buses: {shared: {backend: redis, redis: {url: "${REDIS_URL}"}}}
shutdown_timeout: 1s
flows:
  out: {from: {stream: telemetry.feedback}, stages: [dedupe], to: {bus: shared, stream: copies}}
  beside: {from: {stream: telemetry.feedback, group: beside}, stages: [dedupe]}
`))
	for n := range 7 {
		if code, text := p.post(numbered(n, "soft")); code != http.StatusAccepted {
			t.Fatalf("%d %s", code, text)
		}
	}
	p.eventually("the flow beside", func() bool { return p.status("beside").Success == 7 })
	p.stop()
	out := p.out.String()
	if !strings.Contains(out, "flow out          0 success, 0 duplicate, 0 error, 7 lost with the in-memory bus\n") ||
		!strings.Contains(out, "flow beside       7 success, 0 duplicate, 0 error\n") {
		t.Errorf("summary:\n%s", out)
	}
}

// A feed goes to the bus of its topic, and a drain waits for chains over buses.
func TestDrainOverBuses(t *testing.T) {
	server := redistest.Start(t)
	file := writeFile(t, `version: 1
admin: {listen: "off"}
buses: {shared: {backend: redis, redis: {url: "${REDIS_URL}"}}, other: {backend: inmem}}
flows:
  third: {from: {bus: other, stream: hop.two}, stages: [dedupe]}
  second: {from: {bus: shared, stream: hop.one}, stages: [dedupe], to: {bus: other, stream: hop.two}}
  first: {from: {stream: telemetry.feedback}, stages: [dedupe], to: {bus: shared, stream: hop.one}}
`)
	for name, flags := range map[string][]string{"as it is": nil, "all in memory": {"--backend", "inmem"}} {
		t.Run(name, func(t *testing.T) {
			before := server.Client(t).XLen(context.Background(), "mdp:mdp.hop.one").Val()
			args := append([]string{"run", "--config", file, "--feed", recording(t, "feedback.jsonl"), "--drain"}, flags...)
			status, out, errs := invoke(t, map[string]string{"REDIS_URL": server.URL()}, "", args...)
			if status != exitOK {
				t.Fatalf("status %d\n%s", status, errs)
			}
			for _, flow := range []string{"third ", "second", "first "} {
				if !strings.Contains(out, "flow "+flow) || !strings.Contains(out, "10 success, 0 duplicate, 0 error\n") {
					t.Errorf("summary:\n%s", out)
				}
			}
			if n := strings.Count(out, " 10 success, 0 duplicate, 0 error\n"); n != 3 {
				t.Errorf("%d flows handled ten:\n%s", n, out)
			}
			added := server.Client(t).XLen(context.Background(), "mdp:mdp.hop.one").Val() - before
			if want := map[string]int64{"as it is": 10, "all in memory": 0}[name]; added != want {
				t.Errorf("%d entries in Redis, want %d", added, want)
			}
		})
	}
}

// The commands find a flow's bus.
func TestCommandsKnowBuses(t *testing.T) {
	a, b := redistest.Start(t), redistest.Start(t)
	env := map[string]string{"URL_A": a.URL(), "URL_B": b.URL()}
	file := writeFile(t, strings.Replace(twoServers, "on-b: {from: {bus: b, stream: two}, stages: [dedupe]}",
		"on-b: {from: {bus: b, stream: two}, stages: [validate: {schema: telemetry.FeedbackEvent}], retry: {max: 0}}\n"+
			"  memory: {from: {stream: three}, stages: [dedupe]}", 1))
	run := func(want int, stdin string, args ...string) (string, string) {
		t.Helper()
		status, out, errs := invoke(t, env, stdin, append(args, "--config", file)...)
		if status != want {
			t.Fatalf("%v: status %d, want %d\n%s%s", args, status, want, out, errs)
		}
		return out, errs
	}
	onA, onB := a.Client(t), b.Client(t)
	length := func(c *redis.Client, stream string) int64 { return c.XLen(context.Background(), stream).Val() }

	run(exitOK, `{"x":1}`, "publish", "--stream", "two", "-")
	run(exitOK, `{"x":1}`, "publish", "--stream", "one", "-")
	run(exitOK, `{"x":1}`, "publish", "--stream", "nobody.reads", "--bus", "b", "-")
	if length(onA, "mdp:mdp.one") != 1 || length(onB, "prod:prod.two") != 1 || length(onB, "prod:prod.nobody.reads") != 1 {
		t.Error("published elsewhere")
	}
	if _, errs := run(exitConfig, `{"x":1}`, "publish", "--stream", "one", "--bus", "b", "-"); !strings.Contains(errs, `flow "on-a" reads stream "one" from bus "a"`) {
		t.Errorf("wrong bus: %s", errs)
	}
	if _, errs := run(exitConfig, `{"x":1}`, "publish", "--stream", "x", "--bus", "c", "-"); !strings.Contains(errs, "--bus c: the file has no such bus") {
		t.Errorf("no such bus: %s", errs)
	}

	p := launch(t, env, "--config", file)
	p.eventually("the dead letters", func() bool { return length(onB, "prod:prod.two.dlq") == 2 }) // one came over the bridge
	from := strings.TrimPrefix(p.base, "http://")
	if out, _ := run(exitOK, "", "dlq", "list", "--from", from); strings.Count(out, "on-b ") != 2 {
		t.Errorf("dlq of the service:\n%s", out)
	}
	// Without the service the flow in memory cannot be asked, and the others are.
	p.stop()
	out, errs := run(exitFailure, "", "dlq", "list")
	if strings.Count(out, "on-b ") != 2 || !strings.Contains(errs, `not read: flow "memory": `) {
		t.Errorf("dlq of the file:\n%s%s", out, errs)
	}
	run(exitOK, "", "dlq", "replay", "--flow", "on-b", "--all")
	if length(onB, "prod:prod.two.dlq") != 0 || length(onB, "prod:prod.two") != 4 {
		t.Error("not replayed to its bus")
	}

	if out, _ := run(exitOK, "", "check"); !strings.Contains(out, "4 of 4 flows run, on buses default (inmem), a (redis), b (redis)") {
		t.Errorf("check: %s", out)
	}
	out, _ = run(exitOK, "", "graph")
	for _, want := range []string{`[("two<br/>prod:prod.two<br/>bus b")]`, `[("three<br/>mdp:mdp.three")]`} {
		if strings.Count(out, want) != 1 {
			t.Errorf("graph lacks %s:\n%s", want, out)
		}
	}
	out, _ = run(exitOK, "", "config")
	if !strings.Contains(out, "  b:\n    backend: redis\n    namespace: prod\n") {
		t.Errorf("config:\n%s", out)
	}
}

// Levels are shared over one bus. While that is out, a flow that changes rates on
// another goes on, acknowledges, and what it changed is shared when the bus is back; the
// flows of the sharing bus acknowledge nothing before.
func TestSharedRatesOfTwoBuses(t *testing.T) {
	a, b := redistest.Start(t, redistest.WithAOF()), redistest.Start(t)
	const rates = "stages: [dedupe, {handle: {with: feedback, provider: ibkr, policy: {soft: 0.5}}}, rate-apply]}\n"
	p := launch(t, map[string]string{"URL_A": a.URL(), "URL_B": b.URL()}, "--config", writeFile(t, `version: 1
providers: {ibkr: {rate: 60}}
buses:
  a: {backend: redis, namespace: prod, redis: {url: "${URL_A}", block: 200ms}}
  b: {backend: redis, redis: {url: "${URL_B}", block: 200ms}}
flows:
  on-a: {from: {bus: a, stream: one}, `+rates+`  on-b: {from: {bus: b, stream: two}, `+rates))
	p.eventually("readiness", func() bool { status, _, _ := p.busesOf(); return status == admin.Ready })
	onA, onB := a.Client(t), b.Client(t)
	add(t, onA, "prod:prod.one", 0, 1)
	p.eventually("the first level", func() bool { return pending(onA, "prod:prod.one") == 0 && p.status("on-a").Success == 1 })
	a.Kill()
	add(t, onB, "mdp:mdp.two", 1, 6)
	p.eventually("the other bus to be acknowledged", func() bool {
		return p.status("on-b").Success == 5 && pending(onB, "mdp:mdp.two") == 0
	})
	if v := p.metric("pipeline_rate_scale_factor", `provider="ibkr"`); v != 0.5 {
		t.Errorf("scale %v, want 0.5", v)
	}
	a.Restart()
	held := func() int {
		all, err := a.Client(t).HGetAll(context.Background(), "prod:pulseflow:rates:ibkr").Result()
		if err != nil {
			return -1
		}
		n := 0
		for name := range all {
			if strings.Contains(name, "bars_") {
				n++
			}
		}
		return n
	}
	p.eventually("all levels to be shared", func() bool { return held() == 6 })
	p.stop()
}

func TestSharingBus(t *testing.T) {
	const rates = "stages: [{handle: {with: feedback, provider: ibkr}}, rate-apply]}\n"
	for name, tt := range map[string]struct{ text, want string }{
		"in memory":                {"flows:\n  f: {from: {stream: s}, " + rates, ""},
		"default":                  {"bus: {backend: redis}\nflows:\n  f: {from: {stream: s}, " + rates, "default"},
		"default, adjusts nothing": {"bus: {backend: redis}\nflows:\n  f: {from: {stream: s}, stages: [dedupe]}\n", "default"},
		"the flow's": {
			"flows:\n  g: {from: {stream: t}, " + rates + "  f: {from: {bus: shared, stream: s}, " + rates, "shared",
		},
		"only in memory, with a Redis beside": {
			"bus: {backend: redis}\nflows:\n  f: {from: {bus: memory, stream: s}, " + rates +
				"  g: {from: {stream: t}, stages: [dedupe]}\n", "",
		},
		"off": {
			"flows:\n  f: {enabled: false, from: {bus: shared, stream: s}, " + rates, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			files := fileFlags{config: writeFile(t, "version: 1\nproviders: {ibkr: {rate: 60}}\n"+
				"buses: {shared: {backend: redis}, memory: {backend: inmem}}\n"+tt.text)}
			plan, d := files.plan(system{stages: stages.Builtin(), lookupEnv: func(string) (string, bool) { return "", false }}, make(sources))
			if d.HasErrors() {
				t.Fatal(d)
			}
			got := ""
			if b := sharing(plan); b != nil {
				got = b.Name
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}
