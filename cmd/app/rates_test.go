package app

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

const (
	feedbackStream = "mdp:mdp.telemetry.feedback"
	ibkrRates      = "mdp:pulseflow:rates:ibkr"
)

// rateLines are the levels of a process, apart from what passes with time.
func (p *process) rateLines() (lines []string) {
	p.t.Helper()
	_, body := p.get("/rates")
	page := decode[struct {
		Rates []adjust.ProviderStatus `json:"rates"`
	}](p.t, body)
	for _, r := range page.Rates {
		lines = append(lines, fmt.Sprint(r.Provider, r.Level, r.Scale, r.EffectiveRate))
		for _, c := range r.Coordinators {
			lines = append(lines, fmt.Sprint(c.Coordinator, c.Level, c.Time))
		}
	}
	return lines
}

func (p *process) ready() bool { status, _ := p.get("/readyz"); return status == 200 }

// Two processes that share out the recorded events, in any order and with repetition,
// agree with each other and with one in memory that gets them all. The processes that
// follow them after a kill have the same rates before anything else happens.
func TestReplicasAgreeAndSurvive(t *testing.T) {
	events := captured(t, "feedback.jsonl")
	alone := launch(t, nil)
	for _, e := range events {
		if status, body := alone.post(string(e.data)); status != 202 {
			t.Fatal(status, body)
		}
	}
	alone.eventually("ten successes", func() bool { s, _, _ := alone.outcomes(); return s == 10 })
	want := alone.rateLines()
	alone.stop()

	server := redistest.Start(t)
	client := server.Client(t)
	replicas := []*process{launch(t, redisEnv(server)), launch(t, redisEnv(server))}
	for _, p := range replicas {
		p.eventually("ready", p.ready)
	}
	mixed := append(append([]recorded(nil), events...), events...)
	rand.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
	for _, e := range mixed {
		addAll(t, client, feedbackStream, []recorded{e})
		time.Sleep(time.Millisecond) // so that both get some
	}
	replicas[0].eventually("all to be handled", func() bool {
		sum := 0.0
		for _, p := range replicas {
			s, _, d := p.outcomes()
			sum += s + d
		}
		return sum == float64(len(mixed))
	})
	for i, p := range replicas {
		p.eventually(fmt.Sprintf("replica %d to know all", i+1), func() bool { return cmp.Equal(want, p.rateLines()) })
	}
	replicas[0].eventually("all to be acknowledged", func() bool { return pending(client, feedbackStream) == 0 })
	for _, p := range replicas {
		p.end(syscall.SIGKILL)
	}
	next := launch(t, redisEnv(server))
	next.eventually("ready", next.ready)
	if diff := cmp.Diff(want, next.rateLines()); diff != "" {
		t.Errorf("after a kill (-want +got):\n%s", diff)
	}
	next.stop()
}

// An outage of Redis in the middle loses nothing and dead-letters nothing.
func TestRatesOverAnOutage(t *testing.T) {
	server := redistest.Start(t, redistest.WithAOF())
	client := server.Client(t)
	ctx := context.Background()
	const n = 2000
	begin := float64(time.Now().Unix() - 3600)
	_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range n {
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: feedbackStream, Values: []string{"data", fmt.Sprintf(
				`{"ts": %f, "key": "c%d", "meta": {"schema_id": "telemetry.FeedbackEvent"}, "payload": {"coordinator_id": "c%d", `+
					`"queue_size": %d, "capacity": %d, "level": %q, "ts": %f}}`,
				begin+float64(i), i%7, i%7, i, n, []string{"ok", "soft", "hard"}[i%3], begin+float64(i))}})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, strings.Replace(string(flowsYAML(t)), "when: change", "when: always", 1))
	p := launch(t, redisEnv(server), "--config", config)
	p.eventually("some to be handled", func() bool { s, _, _ := p.outcomes(); return s > 50 })
	server.Kill()
	time.Sleep(50 * time.Millisecond)
	server.Restart()
	p.eventually("all to be handled", func() bool { s, _, d := p.outcomes(); return s+d >= n && pending(client, feedbackStream) == 0 })
	if _, errs, _ := p.outcomes(); errs != 0 || client.XLen(ctx, feedbackStream+".dlq").Val() != 0 {
		t.Errorf("%v errors, %d dead letters", errs, client.XLen(ctx, feedbackStream+".dlq").Val())
	}
	p.eventually("ready", p.ready)
	want := p.rateLines()
	p.end(syscall.SIGKILL)
	next := launch(t, redisEnv(server))
	next.eventually("ready", next.ready)
	if diff := cmp.Diff(want, next.rateLines()); diff != "" {
		t.Errorf("after a kill (-want +got):\n%s", diff)
	}
	next.stop()
}

// A user who may not access the shared levels is told so; nothing is acknowledged or
// dead-lettered for want of the permission, and all is well once it is given.
func TestRatesWithoutPermission(t *testing.T) {
	server := redistest.Start(t, redistest.WithUser("limited on >pw resetkeys ~mdp:mdp.* ~{mdp:mdp.* +@all"))
	client := server.Client(t)
	ctx := context.Background()
	addAll(t, client, feedbackStream, captured(t, "feedback.jsonl"))
	config := writeFile(t, string(flowsYAML(t))+"\nrates: {restore_timeout: 100ms}\n")
	p := launch(t, with(redisEnv(server), "REDIS_URL", server.UserURL("limited", "pw")), "--config", config)
	p.eventually("the key to be named", func() bool {
		status, body := p.get("/readyz")
		return status == 503 && strings.Contains(body, `the user may not access the key \"`+ibkrRates) && strings.Contains(body, `"degraded"`)
	})
	p.eventually("the events to take effect", func() bool { return p.metric("pipeline_backpressure_state") == 2 })
	if v := p.metric("pulseflow_rate_levels_kept"); v != 0 {
		t.Errorf("the metric says they are shared: %v", v)
	}
	if n := pending(client, feedbackStream); n != 10 {
		t.Errorf("%d pending, want all 10", n)
	}
	if err := client.Do(ctx, "ACL", "SETUSER", "limited", "~mdp:pulseflow:*").Err(); err != nil {
		t.Fatal(err)
	}
	p.eventually("ready", p.ready)
	p.eventually("all to be acknowledged", func() bool { return pending(client, feedbackStream) == 0 })
	if n := client.XLen(ctx, feedbackStream+".dlq").Val(); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	if v := p.metric("pulseflow_rate_levels_kept"); v != 1 {
		t.Errorf("the metric says they are not shared: %v", v)
	}
	if n := client.HLen(ctx, ibkrRates).Val(); n < 4 {
		t.Errorf("%d fields shared", n)
	}
	p.stop()
}

// Without sharing, readiness says what that means, and nothing is put into Redis.
func TestRatesNotShared(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	addAll(t, client, feedbackStream, captured(t, "feedback.jsonl"))
	p := launch(t, redisEnv(server), "--config", writeFile(t, string(flowsYAML(t))+"\nrates: {share: false}\n"))
	p.eventually("ten successes", func() bool { s, _, _ := p.outcomes(); return s == 10 })
	p.eventually("ready", p.ready)
	status, body := p.get("/readyz")
	if status != 200 || !strings.Contains(body, "rates are not shared") {
		t.Errorf("readyz %d %s", status, body)
	}
	if n := client.Exists(context.Background(), ibkrRates).Val(); n != 0 {
		t.Error("levels were shared")
	}
	p.stop()
}

// On the in-memory bus a file keeps the levels over a kill.
func TestRatesFile(t *testing.T) {
	config := writeFile(t, string(flowsYAML(t))+"\nrates: {file: levels.json}\n")
	p := launch(t, nil, "--config", config)
	for _, e := range captured(t, "feedback.jsonl") {
		p.post(string(e.data))
	}
	p.eventually("ten successes", func() bool { s, _, _ := p.outcomes(); return s == 10 })
	want := p.rateLines()
	file := filepath.Join(filepath.Dir(config), "levels.json")
	p.eventually("the file to have all", func() bool {
		text, _ := os.ReadFile(file)
		return strings.Count(string(text), `": "20`) == len(want)-1 // a line each
	})
	p.end(syscall.SIGKILL)
	next := launch(t, nil, "--config", config)
	if diff := cmp.Diff(want, next.rateLines()); diff != "" {
		t.Errorf("after a kill (-want +got):\n%s", diff)
	}
	next.stop()
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	last := launch(t, nil, "--config", config)
	if lines := last.rateLines(); len(lines) != 1 || !strings.Contains(last.logged(), "rate levels not restored") {
		t.Errorf("with a broken file: %q\n%s", lines, last.logged())
	}
	last.stop()
}
