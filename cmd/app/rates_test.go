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

// settledLines are rateLines once the rates have followed the levels, which those of
// old events do a little later.
func (p *process) settledLines() (lines []string) {
	p.t.Helper()
	p.eventually("the rates to settle", func() bool {
		before := p.rateLines()
		time.Sleep(50 * time.Millisecond)
		lines = p.rateLines()
		return cmp.Equal(before, lines)
	})
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
		if status, body := alone.post(string(e.Data)); status != 202 {
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
	want := p.settledLines()
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
		p.post(string(e.Data))
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

// restartable is a file whose provider one level stops and another slows down.
const restartable = `version: 1
admin: {listen: "127.0.0.1:8088"}
bus: {backend: "${EVENT_BUS_BACKEND:-inmem}", redis: {url: "${REDIS_URL:-redis://localhost:6379/0}"}}
rates: {file: levels.json}
providers:
  stopped: {rate: 60, burst: 60, min_rate: 0}
  slowed: {rate: 60, burst: 60, min_rate: 0}
flows:
  stop:
    from: {stream: telemetry.feedback}
    stages: [handle: {with: feedback, provider: stopped}, rate-apply]
  slow:
    from: {stream: telemetry.feedback, group: slow}
    stages: [handle: {with: feedback, provider: slowed, policy: {ok: 1, soft: 0.5, hard: 0.25}}, rate-apply]
`

// After a kill the very first request is an acquire: it finds the rates of before, on
// Redis and with a file, whichever way the provider is slowed down.
func TestFirstAcquireAfterAKill(t *testing.T) {
	hard := fmt.Sprintf(`{"ts": %[1]d, "key": "c", "meta": {"schema_id": "telemetry.FeedbackEvent"}, "payload": {"coordinator_id": "c", `+
		`"queue_size": 9, "capacity": 10, "level": "hard", "ts": %[1]d}}`, time.Now().Unix())
	for _, backend := range []string{"redis", "inmem"} {
		t.Run(backend, func(t *testing.T) {
			config := writeFile(t, restartable)
			env, kept := map[string]string(nil), func() bool {
				text, _ := os.ReadFile(filepath.Join(filepath.Dir(config), "levels.json"))
				return strings.Count(string(text), `"c": "20`) == 2
			}
			if backend == "redis" {
				server := redistest.Start(t)
				client := server.Client(t)
				env = redisEnv(server)
				kept = func() bool {
					handled, err := client.XInfoGroups(context.Background(), feedbackStream).Result()
					return err == nil && len(handled) == 2 && handled[0].Lag+handled[0].Pending+handled[1].Lag+handled[1].Pending == 0
				}
			}
			p := launch(t, env, "--config", config)
			p.eventually("ready", p.ready)
			if status, body := p.post(hard); status != 202 {
				t.Fatal(status, body)
			}
			p.eventually("the event to be kept", kept)
			want := p.settledLines()
			p.end(syscall.SIGKILL)

			next := launch(t, env, "--config", config)
			for provider, first := range map[string]struct {
				status int
				rate   float64
			}{"stopped": {429, 0}, "slowed": {200, 15}} {
				status, _, text, err := next.pace(t.Context(), "POST", "/rates/"+provider+"/acquire", `{"wait": "1s"}`)
				if err != nil {
					t.Fatal(err)
				}
				if got := decode[pacing](t, text); status != first.status || got.EffectiveRate != first.rate || got.Level != "hard" {
					t.Errorf("%s: %d %+v, want %d at %v tokens/s", provider, status, got, first.status, first.rate)
				}
			}
			if diff := cmp.Diff(want, next.rateLines()); diff != "" {
				t.Errorf("after a kill (-want +got):\n%s", diff)
			}
			next.stop()
		})
	}
}

// A provider whose levels cannot be shared holds up its own flow only, and until they can.
func TestRatesFaultOfOneProvider(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	ctx := context.Background()
	const badKey, goodStream, badStream = "mdp:pulseflow:rates:bad", "mdp:mdp.telemetry.good", "mdp:mdp.telemetry.bad"
	if err := client.Set(ctx, badKey, "not a hash", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, stream := range []string{goodStream, badStream} {
		addAll(t, client, stream, captured(t, "feedback.jsonl"))
	}
	p := launch(t, redisEnv(server), "--config", writeFile(t, `version: 1
bus: {backend: redis, redis: {url: "${REDIS_URL:-redis://localhost:6379/0}"}}
admin: {listen: "127.0.0.1:8088"}
rates: {restore_timeout: 100ms}
providers:
  bad: {rate: 60}
  good: {rate: 60}
flows:
  bad:
    from: {stream: telemetry.bad}
    stages: [handle: {with: feedback, provider: bad}, rate-apply]
  good:
    from: {stream: telemetry.good}
    stages: [handle: {with: feedback, provider: good}, rate-apply]
`))
	p.eventually("the good provider's events to be acknowledged", func() bool {
		return pending(client, goodStream) == 0 && client.HLen(ctx, "mdp:pulseflow:rates:good").Val() > 2
	})
	p.eventually("the key to be named", func() bool {
		status, body := p.get("/readyz")
		return status == 503 && strings.Contains(body, badKey)
	})
	p.eventually("the bad provider's events to be handled", func() bool { return pending(client, badStream) == 10 })
	if err := client.Del(ctx, badKey).Err(); err != nil {
		t.Fatal(err)
	}
	p.eventually("all to be acknowledged", func() bool { return pending(client, badStream) == 0 })
	p.eventually("ready", p.ready)
	for _, stream := range []string{goodStream, badStream} {
		if n := client.XLen(ctx, stream+".dlq").Val(); n != 0 {
			t.Errorf("%d dead letters of %s", n, stream)
		}
	}
	p.stop()
}

// A process that starts while Redis is away grants nothing within restore_timeout, not
// under an override either, and begins with the rates of before once Redis is back.
func TestRedisAwayAtTheStart(t *testing.T) {
	server := redistest.Start(t, redistest.WithAOF())
	client := server.Client(t)
	config := writeFile(t, strings.Replace(restartable, "rates: {file: levels.json}", "rates: {restore_timeout: 1m}", 1))
	p := launch(t, redisEnv(server), "--config", config)
	p.eventually("ready", p.ready)
	addAll(t, client, feedbackStream, captured(t, "feedback.jsonl"))
	p.eventually("the events to be acknowledged", func() bool {
		groups, err := client.XInfoGroups(context.Background(), feedbackStream).Result()
		return err == nil && len(groups) == 2 && groups[0].Lag+groups[0].Pending+groups[1].Lag+groups[1].Pending == 0
	})
	want := p.settledLines()
	p.end(syscall.SIGKILL)
	server.Kill()

	next := launch(t, redisEnv(server), "--config", config)
	acquire := func(provider, body string) (int, pacing) {
		t.Helper()
		status, _, text, err := next.pace(t.Context(), "POST", "/rates/"+provider+"/acquire", body)
		if err != nil {
			t.Fatal(err)
		}
		return status, decode[pacing](t, text)
	}
	if status, _, text, err := next.pace(t.Context(), "POST", "/rates/slowed/override", `{"scale": 1, "ttl": "10m", "reason": "x"}`); status != 200 || err != nil {
		t.Fatal(status, text, err)
	}
	for _, body := range []string{``, `{"wait": "100ms"}`} {
		for _, provider := range []string{"stopped", "slowed"} {
			if status, got := acquire(provider, body); status != 429 {
				t.Errorf("granted %q by %s: %d %+v", body, provider, status, got)
			}
		}
	}
	next.eventually("readiness to say so", func() bool {
		status, body := next.get("/readyz")
		return status == 503 && strings.Contains(body, "rate levels are being restored")
	})
	if status, _, text, err := next.pace(t.Context(), "DELETE", "/rates/slowed/override", ""); status != 200 || err != nil {
		t.Fatal(status, text, err)
	}
	server.Restart()
	if status, got := acquire("slowed", `{"wait": "30s"}`); status != 200 || got.Level != "hard" || got.EffectiveRate != 15 {
		t.Errorf("first acquire once Redis is back: %d %+v", status, got)
	}
	if status, got := acquire("stopped", ``); status != 429 || got.Reason != "paused" {
		t.Errorf("the stopped provider: %d %+v", status, got)
	}
	if diff := cmp.Diff(want, next.rateLines()); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
	next.eventually("ready", next.ready)
	next.stop()
}
