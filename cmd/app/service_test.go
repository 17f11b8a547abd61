package app

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/capture"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// captured returns the recorded entries, moved so that the newest event happens now:
// the clock of this machine may be behind their time.
func captured(t *testing.T, name string) []recorded {
	t.Helper()
	list, err := openRecording(recording(t, name), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := shiftTimes(list, time.Now()); err != nil {
		t.Fatal(err)
	}
	return list
}

// addAll writes entries to a stream as a foreign producer does.
func addAll(t *testing.T, client *redis.Client, stream string, list []recorded) {
	t.Helper()
	for _, e := range list {
		values := map[string]any{}
		for k, v := range e.Fields {
			values[k] = v
		}
		if e.Data != nil {
			values["data"] = e.Data
		}
		if err := client.XAdd(context.Background(), &redis.XAddArgs{Stream: stream, Values: values}).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func redisEnv(s *redistest.Server, more ...string) map[string]string {
	return with(map[string]string{"EVENT_BUS_BACKEND": "redis", "REDIS_URL": s.URL()}, more...)
}

// pending is the number of entries of the group not acknowledged, -1 without group.
func pending(client *redis.Client, stream string) int64 {
	p, err := client.XPending(context.Background(), stream, "pipeline").Result()
	if err != nil {
		return -1
	}
	return p.Count
}

// The reference job on real entries: every track, bus and namespace.
func TestMatrix(t *testing.T) {
	for _, track := range []string{"v1", "v2"} {
		t.Run(track, func(t *testing.T) {
			t.Run("inmem", func(t *testing.T) {
				for _, ns := range []string{"mdp", "prod"} {
					t.Run(ns, func(t *testing.T) {
						p := launch(t, map[string]string{"SCHEMA_TRACK": track, "MD_NAMESPACE": ns},
							"--feed", recording(t, "feedback.jsonl"))
						p.expectReferenceJob()
						p.stop()
						if !strings.Contains(p.out.String(), "10 success, 0 duplicate, 0 error") {
							t.Errorf("summary:\n%s", p.out.String())
						}
					})
				}
			})
			t.Run("redis", func(t *testing.T) {
				server := redistest.Start(t)
				client := server.Client(t)
				for _, ns := range []string{"mdp", "prod"} {
					t.Run(ns, func(t *testing.T) {
						stream := ns + ":" + ns + ".telemetry.feedback"
						addAll(t, client, stream, captured(t, "feedback.jsonl"))
						p := launch(t, redisEnv(server, "SCHEMA_TRACK", track, "MD_NAMESPACE", ns))
						p.expectReferenceJob()
						p.eventually("all to be acknowledged", func() bool { return pending(client, stream) == 0 })
						p.stop()
						if n := client.Exists(context.Background(), stream+".dlq").Val(); n != 0 {
							t.Error("there are dead letters")
						}
						expectAdjustments(t, client, ns+":"+ns+".telemetry.rate_adjustment")
					})
				}
			})
		})
	}
}

// expectReferenceJob waits for the ten recorded entries and checks what they lead
// to: options-coord, bars_1, bars_2 and bars_4 hold hard.
func (p *process) expectReferenceJob() {
	p.t.Helper()
	p.eventually("ten successes", func() bool { s, _, _ := p.outcomes(); return s >= 10 })
	if s, e, d := p.outcomes(); s != 10 || e != 0 || d != 0 {
		p.t.Errorf("%v success, %v error, %v duplicate; want 10, 0, 0", s, e, d)
	}
	if v := p.metric("pulse_consume_total", `track="v2"`, `outcome="success"`); v != 1 {
		p.t.Errorf("%v events of track v2, want 1", v)
	}
	if v := p.metric("pipeline_rate_scale_factor", `provider="ibkr"`); v != 0 {
		p.t.Errorf("scale %v, want 0", v)
	}
	if v := p.metric("pipeline_backpressure_state", `provider="ibkr"`); v != 2 {
		p.t.Errorf("state %v, want 2", v)
	}
	_, page := p.get("/rates")
	rates := decode[struct{ Rates []adjust.ProviderStatus }](p.t, page).Rates
	if len(rates) != 1 {
		p.t.Fatalf("rates %s", page)
	}
	levels := make(map[string]string)
	for _, c := range rates[0].Coordinators {
		levels[c.Coordinator] = c.Level
	}
	if diff := cmp.Diff(map[string]string{
		"bars_1": "hard", "bars_2": "hard", "bars_3": "soft", "bars_4": "hard", "börse_ü": "soft", "options-coord": "hard",
	}, levels); diff != "" {
		p.t.Errorf("levels (-want +got):\n%s", diff)
	}
	if r := rates[0]; r.Provider != "ibkr" || r.Level != "hard" || r.Scale != 0 || r.EffectiveRate != 1 {
		p.t.Errorf("rate %+v, want ibkr at hard, scale 0, floor 1/s", r)
	}
	if status, body := p.get("/readyz"); status != 200 || !strings.Contains(body, admin.Ready) {
		p.t.Errorf("readyz %d %s", status, body)
	}
	_, page = p.get("/dlq")
	letters := decode[struct{ Flows []admin.FlowDeadLetters }](p.t, page).Flows
	if len(letters) != 1 || len(letters[0].DeadLetters) != 0 {
		p.t.Errorf("dead letters %s", page)
	}
}

// expectAdjustments checks what was published against the recorded shape.
func expectAdjustments(t *testing.T, client *redis.Client, stream string) {
	t.Helper()
	entries, err := client.XRange(context.Background(), stream, "-", "+").Result()
	if err != nil || len(entries) == 0 {
		t.Fatalf("%s: %d entries, %v", stream, len(entries), err)
	}
	model := captured(t, "rate_adjustment.jsonl")[0]
	for _, entry := range entries {
		data, ok := entry.Values["data"].(string)
		if !ok || len(entry.Values) != 1 {
			t.Fatalf("entry %v, want the one field data", entry.Values)
		}
		e := event.Decoder{}.Decode(entry.ID, []byte(data))
		if e.Err != nil || e.Schema != event.SchemaRateAdjustment || e.Dialect != event.DialectCanonical || e.Key != "ibkr" {
			t.Errorf("entry decodes to %+v", e)
		}
		if _, err := e.RateAdjustment(); err != nil {
			t.Errorf("payload: %v", err)
		}
		if err := e.CheckHash(); err != nil {
			t.Errorf("hash: %v", err)
		}
		if diff := cmp.Diff(shape(decode[any](t, string(model.Data))), shape(decode[any](t, data))); diff != "" {
			t.Errorf("shape (-recorded +published):\n%s", diff)
		}
	}
	last := event.Decoder{}.Decode("1-0", []byte(entries[len(entries)-1].Values["data"].(string)))
	if a, _ := last.RateAdjustment(); a.Reason != event.LevelHard || a.Scale != 0 {
		t.Errorf("last announced %+v, want hard", a)
	}
}

// shape replaces the values of a JSON document by their types.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any)
		for k, e := range v {
			m[k] = shape(e)
		}
		return m
	default:
		return fmt.Sprintf("%T", v)
	}
}

func TestFeedTwiceMakesDuplicates(t *testing.T) {
	file := recording(t, "feedback.jsonl")
	check := func(t *testing.T, env map[string]string) {
		status, out, errs := invoke(t, env, "", "run", "--listen", "off", "--feed", file, "--feed", file, "--drain")
		if status != exitOK || !strings.Contains(out, "10 success, 10 duplicate, 0 error") {
			t.Errorf("status %d\n%s\n%s", status, out, errs)
		}
	}
	t.Run("inmem", func(t *testing.T) { check(t, nil) })
	t.Run("redis", func(t *testing.T) { check(t, redisEnv(redistest.Start(t))) })
}

// A process killed in the middle of 10,000 entries, and its successor, handle each
// of them: every one is announced, none stays pending.
func TestKillLosesNothing(t *testing.T) {
	const n = 10_000
	server := redistest.Start(t)
	client := server.Client(t)
	ctx := context.Background()
	const stream, out = "mdp:mdp.telemetry.feedback", "mdp:mdp.telemetry.rate_adjustment"
	begin := float64(time.Now().Unix() - 3600)
	want := make(map[float64]bool)
	pipe := client.Pipeline()
	for i := range n {
		ts := begin + float64(i)/8
		want[ts] = true
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: []string{"data", fmt.Sprintf(
			`{"ts": %f, "key": "c%d", "meta": {"schema_id": "telemetry.FeedbackEvent"}, "payload": {"coordinator_id": "c%d", `+
				`"queue_size": %d, "capacity": %d, "level": %q, "ts": %f}}`,
			ts, i%50, i%50, i, n, []string{"ok", "soft", "hard"}[i%3], ts)}})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	env := redisEnv(server)
	config := writeFile(t, strings.Replace(string(flowsYAML(t)), "when: change", "when: always", 1))
	first := launch(t, env, "--config", config)
	first.eventually("some to be handled", func() bool { return client.XLen(ctx, out).Val() > n/20 })
	first.end(syscall.SIGKILL)
	left := pending(client, stream)
	if handled := client.XLen(ctx, out).Val(); handled >= n {
		t.Fatalf("killed too late: %d handled", handled)
	}
	second := launch(t, env, "--config", config)
	second.eventually("all to be acknowledged", func() bool {
		groups, err := client.XInfoGroups(ctx, stream).Result()
		if err != nil || len(groups) != 1 || groups[0].Pending != 0 {
			return false
		}
		info, err := client.XInfoStream(ctx, stream).Result() // Redis 6.2 counts no lag
		return err == nil && groups[0].LastDeliveredID == info.LastGeneratedID
	})
	second.stop()
	entries, err := client.XRange(ctx, out, "-", "+").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		a, err := event.Decoder{}.Decode(e.ID, []byte(e.Values["data"].(string))).RateAdjustment()
		if err != nil {
			t.Fatal(err)
		}
		delete(want, a.Time)
	}
	if len(want) != 0 || client.XLen(ctx, stream+".dlq").Val() != 0 {
		t.Errorf("%d of %d entries were never applied (%d were pending at the kill), %d dead letters",
			len(want), n, left, client.XLen(ctx, stream+".dlq").Val())
	}
}

// SIGTERM under load ends the process in time and dead-letters nothing.
func TestTerminateUnderLoad(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	const stream = "mdp:mdp.telemetry.feedback"
	list := captured(t, "feedback.jsonl")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; i < 2000; i++ {
			select {
			case <-stop:
				return
			default:
				addAll(t, client, stream, list)
			}
		}
	}()
	p := launch(t, redisEnv(server))
	p.eventually("a thousand successes", func() bool { s, _, _ := p.outcomes(); return s > 1000 })
	begun := time.Now()
	p.stop()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %s to end, want at most 10s", took)
	}
	close(stop)
	<-done
	if n := client.XLen(context.Background(), stream+".dlq").Val(); n != 0 {
		t.Errorf("%d dead letters because of the signal", n)
	}
}

// A Redis that hangs does not keep the process, and is no failure of it: what was
// not acknowledged is delivered again.
func TestTerminateWhileRedisHangs(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	for range 200 {
		addAll(t, client, "mdp:mdp.telemetry.feedback", captured(t, "feedback.jsonl"))
	}
	config := writeFile(t, strings.Replace(string(flowsYAML(t)), "when: change", "when: always", 1))
	p := launch(t, redisEnv(server), "--config", config)
	p.eventually("some successes", func() bool { s, _, _ := p.outcomes(); return s > 50 })
	server.Pause()
	t.Cleanup(server.Resume)
	begun := time.Now()
	p.stop()
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %s to end, want at most 10s\n%s", took, p.logged())
	}
}

// SIGTERM ends a process that still waits for its feed on standard input.
func TestTerminateWhileFeedIsAwaited(t *testing.T) {
	cmd := exec.Command(os.Args[0], "run", "--listen", "off", "--feed", "-")
	cmd.Dir = t.TempDir()
	cmd.Env = []string{asProgram + "=1"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	// More than a pipe holds: somebody reads it. Before that the process may have no handler for signals.
	if _, err := stdin.Write(bytes.Repeat([]byte("\n"), 1<<17)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("exit: %v", err)
		}
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		t.Error("still running")
	}
}

// --drain waits for the flows to attach, and then for the backlog.
func TestDrainOfABacklog(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	if status, out, errs := invoke(t, redisEnv(server), "", "run", "--listen", "off", "--drain"); status != exitOK {
		t.Errorf("an empty Redis: status %d\n%s%s", status, out, errs)
	}
	client.FlushAll(context.Background())
	addAll(t, client, "mdp:mdp.telemetry.feedback", captured(t, "feedback.jsonl"))
	status, out, errs := invoke(t, redisEnv(server), "", "run", "--listen", "off", "--drain")
	if status != exitOK || !strings.Contains(out, "10 success, 0 duplicate, 0 error") {
		t.Errorf("a backlog: status %d\n%s%s", status, out, errs)
	}
}

// Out of memory, Redis answers and takes no writes: the event waits, and what it set
// is announced afterwards.
func TestRedisOutOfMemory(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	const stream, out = "mdp:mdp.telemetry.feedback", "mdp:mdp.telemetry.rate_adjustment"
	ctx := context.Background()
	p := launch(t, redisEnv(server))
	hard := capture.Entry{Data: []byte(fmt.Sprintf(`{"ts": 1.5, "meta": {"schema_id": "telemetry.FeedbackEvent"}, "payload": `+
		`{"coordinator_id": "a", "queue_size": 1, "capacity": 1, "level": "hard", "ts": %d}}`, time.Now().Unix()))}
	p.eventually("the flow to attach", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	_, err := client.TxPipelined(ctx, func(tx redis.Pipeliner) error {
		tx.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: []any{"data", hard.Data}})
		tx.ConfigSet(ctx, "maxmemory", "1")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	p.eventually("more runs than the event has retries", func() bool { return p.metric("pulseflow_retries_total") > 4 })
	if err := client.ConfigSet(ctx, "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	p.eventually("the event to succeed", func() bool { s, _, _ := p.outcomes(); return s == 1 })
	entries := client.XRevRangeN(ctx, out, "+", "-", 1).Val()
	if len(entries) != 1 || !strings.Contains(fmt.Sprint(entries[0].Values["data"]), `"reason": "hard"`) {
		t.Errorf("announced %v, want hard", entries)
	}
	if n := client.XLen(ctx, stream+".dlq").Val(); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	p.stop()
}

// The envelope made for a bare event counts towards the limit.
func TestIngestOfABareEventAtTheLimit(t *testing.T) {
	p := launch(t, nil)
	body := `{"a":"` + strings.Repeat("x", 1<<20-8) + `"}`
	if status, text := p.post(body); status != 413 {
		t.Errorf("%d %s, want 413", status, text)
	}
	p.stop()
}

// A level whose ok never comes can be released.
func TestForgetCoordinator(t *testing.T) {
	p := launch(t, map[string]string{"OPERATOR_TOKEN": "sesame"}, "--feed", recording(t, "feedback.jsonl"))
	p.eventually("ten successes", func() bool { s, _, _ := p.outcomes(); return s == 10 })
	for _, c := range []string{"bars_1", "bars_2", "bars_4", "options-coord"} {
		req, err := http.NewRequest(http.MethodDelete, p.base+"/rates/ibkr/coordinators/"+c, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("", "sesame")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", c, resp.StatusCode)
		}
	}
	if v := p.metric("pipeline_rate_scale_factor"); v != 0.5 {
		t.Errorf("scale %v after every hard was released, want 0.5", v)
	}
	p.stop()
}

func TestDisabled(t *testing.T) {
	noProviders := strings.Split(string(flowsYAML(t)), "\n")
	noProviders = slices.DeleteFunc(noProviders, func(l string) bool {
		return strings.HasPrefix(l, "providers:") || strings.Contains(l, "MDP_FB_PROVIDER_NAME:-ibkr}\":")
	})
	for name, tt := range map[string]struct {
		env    map[string]string
		config string
		reason string
	}{
		"PULSE_ENABLED":          {map[string]string{"PULSE_ENABLED": "False"}, "", "switched off"},
		"MDP_FB_ENABLE_FEEDBACK": {map[string]string{"MDP_FB_ENABLE_FEEDBACK": "0"}, "", "switched off"},
		"no providers":           {nil, strings.Join(noProviders, "\n"), "declares no provider"},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			var args []string
			if tt.config != "" {
				args = []string{"--config", writeFile(t, tt.config)}
			}
			client := server.Client(t)
			addAll(t, client, "mdp:mdp.telemetry.feedback", captured(t, "feedback.jsonl"))
			p := launch(t, with(redisEnv(server), slices.Concat(pairs(tt.env))...), args...)
			status, body := p.get("/readyz")
			if status != 200 || !strings.Contains(body, `"disabled"`) || !strings.Contains(body, tt.reason) {
				t.Errorf("readyz %d %s, want disabled because %q", status, body, tt.reason)
			}
			p.stop()
			groups, err := client.XInfoGroups(context.Background(), "mdp:mdp.telemetry.feedback").Result()
			if err != nil || len(groups) != 0 {
				t.Errorf("groups %v, %v; want none", groups, err)
			}
		})
	}
}

func pairs(m map[string]string) []string {
	var list []string
	for k, v := range m {
		list = append(list, k, v)
	}
	return list
}

func TestDegradedUntilRedisComes(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	p := launch(t, redisEnv(server))
	p.eventually("the reason", func() bool {
		status, body := p.get("/readyz")
		return status == 503 && strings.Contains(body, `"degraded"`) && strings.Contains(body, "connection refused")
	})
	if status, _ := p.post(`{"coordinator_id":"a","queue_size":1,"capacity":2,"level":"ok"}`); status != 503 {
		t.Errorf("ingest without Redis: %d, want 503", status)
	}
	server.Restart()
	p.eventually("the flow to attach", func() bool { status, _ := p.get("/readyz"); return status == 200 })
	if status, body := p.post(`{"coordinator_id":"a","queue_size":1,"capacity":2,"level":"ok"}`); status != 202 {
		t.Errorf("ingest with Redis: %d %s, want 202", status, body)
	}
	p.eventually("a success", func() bool { s, _, _ := p.outcomes(); return s == 1 })
	p.stop()
}

func TestIngestOfEveryDialect(t *testing.T) {
	check := func(t *testing.T, env map[string]string) {
		p := launch(t, with(env, "PUBLISHER_TOKEN", "sesame"))
		list := captured(t, "feedback.jsonl")
		for _, e := range list {
			if status, body := p.post(string(e.Data), "Authorization", "Bearer sesame"); status != 202 {
				t.Errorf("%d %s", status, body)
			}
		}
		bare := `{"coordinator_id":"bars_9","queue_size":850,"capacity":1000,"level":"soft","reason":"queue_high","utilization":0.85}`
		if status, body := p.post(bare, "Authorization", "Basic c3RvcmU6c2VzYW1l", "Content-Type", "text/plain"); status != 202 {
			t.Errorf("bare: %d %s", status, body)
		}
		if status, _ := p.post(bare); status != 401 {
			t.Errorf("without token: %d, want 401", status)
		}
		p.eventually("eleven successes", func() bool { s, _, _ := p.outcomes(); return s == 11 })
		_, page := p.get("/rates")
		if !strings.Contains(page, "bars_9") {
			t.Errorf("rates %s, want bars_9", page)
		}
		if strings.Contains(p.logged(), "sesame") {
			t.Error("the token is in the log")
		}
		p.stop()
	}
	t.Run("inmem", func(t *testing.T) { check(t, nil) })
	t.Run("redis", func(t *testing.T) { check(t, redisEnv(redistest.Start(t))) })
}

// The names, types and labels of docs/contract.md §7.
func TestMetricsContract(t *testing.T) {
	p := launch(t, nil, "--feed", recording(t, "feedback.jsonl"), "--feed", recording(t, "malformed.jsonl"), "--keep-times")
	p.eventually("all to be settled", func() bool { s, e, d := p.outcomes(); return s+e+d == 35 })
	_, page := p.get("/metrics")
	for _, want := range []string{
		"# TYPE pulse_consume_total counter",
		`pulse_consume_total{outcome="success",stream="telemetry.feedback",track="v1"}`,
		`pulse_consume_total{outcome="success",stream="telemetry.feedback",track="v2"} 1`,
		`pulse_consume_total{outcome="duplicate",stream="telemetry.feedback",track="v1"} 0`,
		"# TYPE pulse_lag_ms gauge",
		`pulse_lag_ms{stream="telemetry.feedback"}`,
		"# TYPE pulse_publish_total counter",
		`pulse_publish_total{outcome="success",stream="telemetry.rate_adjustment",track="v1"}`,
		"# TYPE pipeline_rate_scale_factor gauge",
		`pipeline_rate_scale_factor{provider="ibkr"} 0`,
		"# TYPE pipeline_backpressure_state gauge",
		`pipeline_backpressure_state{provider="ibkr"} 2`,
		"# TYPE pipeline_feedback_queue_depth gauge",
		`pipeline_feedback_queue_depth{source="store_coordinator"}`,
		"# TYPE feedback_events_processed_total counter",
		`feedback_events_processed_total{level="hard",provider="ibkr"} 4`,
		"# TYPE schema_validation_failures_total counter",
		`schema_validation_failures_total{mode="strict",schema="telemetry.FeedbackEvent"}`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	for _, content := range []string{"bars_1", "telemetry.Nope", `level="panic"`} {
		if strings.Contains(page, content) {
			t.Errorf("metrics show %q, which comes from an event", content)
		}
	}
	if lag := p.metric("pulse_lag_ms"); lag < 0 {
		t.Errorf("lag %v is negative", lag)
	}
	p.stop()
}
