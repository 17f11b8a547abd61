package app

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

func flowsYAML(t *testing.T) []byte {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("..", "..", "flows.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "flows.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// minimal is a file that runs, to break in one place.
const minimal = `version: 1
providers:
  ibkr: {rate: 60}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages:
      - validate: {schema: telemetry.FeedbackEvent}
      - dedupe: {ttl: 10m}
`

func TestBadConfigurationStopsCheckAndRun(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for _, pair := range []string{"ba", "cb", "dc", "ed", "fe", "gf", "hg", "ih"} {
		bomb += string(pair[0]) + ": &" + string(pair[0]) + " [" + strings.Repeat("*"+string(pair[1])+",", 9) + "]\n"
	}
	for name, tt := range map[string]struct {
		env  map[string]string
		text string
		want []string
	}{
		"unknown stage":   {nil, strings.Replace(minimal, "dedupe", "dedup", 1), []string{`:9:9: flow "feedback": stage 2: unknown stage "dedup" (did you mean "dedupe"?)`}},
		"unknown field":   {nil, strings.Replace(minimal, "ttl", "tll", 1), []string{`:9:18: flow "feedback": stage 2 (dedupe): unknown field "tll" (did you mean "ttl"?)`}},
		"duplicate key":   {nil, minimal + "version: 1\n", []string{":10:1: ", "version"}},
		"wrong type":      {nil, strings.Replace(minimal, "10m", "often", 1), []string{":9:23: ", "ttl"}},
		"unset variable":  {nil, strings.Replace(minimal, "rate: 60", "rate: \"${RATE}\"", 1), []string{":3:17: ", "RATE"}},
		"invalid env":     {map[string]string{"EVENT_BUS_BACKEND": "kafka"}, string(flowsYAML(t)), []string{`EVENT_BUS_BACKEND="kafka"`, "inmem", "redis"}},
		"YAML bomb":       {nil, bomb + minimal, []string{"alias"}},
		"several at once": {nil, strings.NewReplacer("ttl", "tll", "rate: 60", "rte: 60", "from:", "form:").Replace(minimal), []string{"tll", "rte", "form"}},
		"public ingest": {
			map[string]string{"PULSEFLOW_LISTEN": "0.0.0.0:8088"},
			string(flowsYAML(t)),
			[]string{"refusing to accept events from other machines without a token", "PUBLISHER_TOKEN"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeFile(t, tt.text)
			for _, args := range [][]string{{"check", path}, {"run", "--config", path}, {"config", "--config", path}} {
				status, out, errs := invoke(t, tt.env, "", args...)
				if status != exitConfig || out != "" {
					t.Errorf("%s: status %d, output %q; want 2 and nothing", args[0], status, out)
				}
				for _, want := range tt.want {
					if !strings.Contains(errs, want) {
						t.Errorf("%s: diagnostics lack %q:\n%s", args[0], want, errs)
					}
				}
				if !strings.Contains(errs, "flows.yaml:") {
					t.Errorf("%s: diagnostics name no position:\n%s", args[0], errs)
				}
			}
		})
	}
}

func TestEnvironmentOfTheBuiltInFlow(t *testing.T) {
	t.Chdir(t.TempDir())
	for variable, tt := range map[string]struct{ bad, allowed string }{
		"PULSE_ENABLED":          {"maybe", "true"},
		"EVENT_BUS_BACKEND":      {"kafka", "inmem"},
		"REDIS_URL":              {"http://x", "redis"},
		"MD_NAMESPACE":           {"a b", ""},
		"SCHEMA_TRACK":           {"v3", "v1"},
		"MDP_FB_ENABLE_FEEDBACK": {"si", "true"},
		"MDP_FB_SCALE_OK":        {"1.5", "1"},
		"MDP_FB_SCALE_SOFT":      {"-1", "0"},
		"MDP_FB_SCALE_HARD":      {"x", ""},
		"MDP_FB_PROVIDER_NAME":   {"a b", ""},
	} {
		status, _, errs := invoke(t, map[string]string{variable: tt.bad}, "", "check")
		if status != exitConfig || !strings.Contains(errs, variable) || !strings.Contains(errs, tt.allowed) {
			t.Errorf("%s=%s: status %d\n%s", variable, tt.bad, status, errs)
		}
		if status, _, errs := invoke(t, map[string]string{variable: ""}, "", "check"); status != exitOK {
			t.Errorf("%s set but empty: status %d\n%s", variable, status, errs)
		}
	}
	status, out, errs := invoke(t, map[string]string{"MDP_FB_PROVIDER_NAME": "polygon", "SCHEMA_TRACK": "v2"}, "", "config")
	if status != exitOK || !strings.Contains(out, "polygon") || strings.Contains(out, "ibkr") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
}

func TestCheck(t *testing.T) {
	status, out, errs := invoke(t, nil, "", "check", writeFile(t, minimal))
	if status != exitOK || !strings.Contains(out, "ok: 1 of 1 flows run, on the inmem bus") || errs != "" {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	if status, _, _ := invoke(t, nil, "", "check", "nowhere.yaml"); status != exitConfig {
		t.Errorf("a file that is not there: status %d", status)
	}
}

func TestConfigRedactsSecrets(t *testing.T) {
	t.Chdir(t.TempDir())
	env := map[string]string{"PUBLISHER_TOKEN": "hush", "REDIS_URL": "redis://u:hush@localhost:6379/0"}
	status, out, errs := invoke(t, env, "", "config")
	if status != exitOK || strings.Contains(out+errs, "hush") || !strings.Contains(out, "***") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	// What config prints is itself a file that runs.
	if status, _, errs := invoke(t, nil, "", "check", writeFile(t, out)); status != exitOK {
		t.Errorf("check of the printed file: status %d\n%s", status, errs)
	}
}

func TestUsageErrors(t *testing.T) {
	feed := recording(t, "feedback.jsonl")
	t.Chdir(t.TempDir())
	for _, args := range [][]string{
		{"run", "--nonsense"},
		{"run", "--backend", "kafka"},
		{"run", "--log-level", "loud"},
		{"run", "--feed", "nowhere.jsonl"},
		{"publish", "x"},
		{"dlq", "replay"},
		{"dlq", "list", "--filter", "colour=red"},
		{"dlq", "list", "--limit", "0"},
		{"dlq", "list", "--flow", "nobody"},
		{"nonsense"},
		{"run", "extra"},
		{"run", "--listen", "127.0.0.1:99999"},
		{"run", "--feed", feed, "--stream", "nosuch"},
		{"stages", "nonsense"},
	} {
		if status, _, errs := invoke(t, nil, "", args...); status != exitConfig || errs == "" {
			t.Errorf("%v: status %d, %q; want 2 and a message", args, status, errs)
		}
	}
}

// A slip in a flag is answered with the one that was meant.
func TestFlagErrors(t *testing.T) {
	for want, args := range map[string][]string{
		"unknown flag: --fed (did you mean --feed?); see pulseflow run --help": {"run", "--fed", "x"},
		"unknown flag: --cnofig (did you mean --config?)":                      {"check", "--cnofig", "x"},
		"unknown flag: --colour; see pulseflow check --help":                   {"check", "--colour"},
		"flag needs an argument: --format; see pulseflow graph --help":         {"graph", "--format"},
	} {
		status, _, errs := invoke(t, nil, "", args...)
		if status != exitConfig || !strings.Contains(errs, want) {
			t.Errorf("%v: status %d, %s", args, status, errs)
		}
	}
}

// An address that is taken is answered with how to name another.
func TestAddressTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	status, _, errs := invoke(t, nil, "", "run", "--listen", ln.Addr().String())
	if status != exitFailure || !strings.Contains(errs, "in use: name another address with admin.listen, or with run --listen") {
		t.Errorf("status %d, %s", status, errs)
	}
}

// A command line that does not fit is answered with one that does.
func TestArgumentErrors(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for want, args := range map[string][]string{
		"found 1 argument: write pulseflow explain FLOW EVENT [flags]; see pulseflow explain --help": {"explain", "feedback"},
		"found 2 arguments: write pulseflow graph [FILE] [flags]; see pulseflow graph --help":        {"graph", "a", "b"},
		"found no argument: write pulseflow dlq show ID... [flags]; see pulseflow dlq show --help":   {"dlq", "show"},
		`"flows.yaml" is one argument too many: give a flows file with --config; see pulseflow run --help`: {
			"run", "flows.yaml",
		},
		`"x" is one argument too many; see pulseflow version --help`:              {"version", "x"},
		`unknown command "chek" (did you mean "check"?); see pulseflow --help`:    {"chek"},
		`unknown command "lst" (did you mean "list"?); known: list, replay, show`: {"dlq", "lst"},
		"which stream? the flows read telemetry.feedback: name one with --stream": {"publish", "x.jsonl"},
		`no flow "nobody"; flows: feedback`:                                       {"dlq", "list", "--flow", "nobody"},
		`no flow "fedback" (did you mean "feedback"?); flows: feedback`:           {"dlq", "list", "--flow", "fedback"},
	} {
		status, out, errs := invoke(t, nil, "", args...)
		if status != exitConfig || out != "" || !strings.Contains(errs, want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: status %d, %s%s; want %s", args, status, out, errs, want)
		}
	}
}

func TestHelpTeaches(t *testing.T) {
	for _, args := range [][]string{
		{"--help"},
		{"run", "--help"},
		{"check", "--help"},
		{"config", "--help"},
		{"publish", "--help"},
		{"dlq", "--help"},
		{"dlq", "list", "--help"},
		{"dlq", "show", "--help"},
		{"dlq", "replay", "--help"},
		{"stages"},
		{"init", "--help"},
		{"stages", "route"},
		{"schema", "--help"},
		{"completion", "zsh"},
		{"completion", "fish"},
		{"test", "--help"},
		{"explain", "--help"},
		{"graph", "--help"},
		{"version"},
		{"completion", "bash"},
		{"help", "exit-codes"},
	} {
		if status, out, errs := invoke(t, nil, "", args...); status != exitOK || out == "" {
			t.Errorf("%v: status %d, output %q, %s", args, status, out, errs)
		}
	}
}

// What only the Redis client can tell is told by check too, which connects to nothing.
func TestCheckLooksAtTheRedisURL(t *testing.T) {
	t.Chdir(t.TempDir())
	env := map[string]string{"EVENT_BUS_BACKEND": "redis", "REDIS_URL": "redis://localhost/0?read_timeout=zz"}
	for _, command := range []string{"check", "run"} {
		if status, _, errs := invoke(t, env, "", command); status != exitConfig || !strings.Contains(errs, "bus: redis: url") {
			t.Errorf("%s: status %d\n%s", command, status, errs)
		}
	}
}

// Dead letters are listed, shown and replayed, from a running service and in Redis.
func TestDeadLetterCommands(t *testing.T) {
	bad := `{"ts": 1.5, "key": "a", "meta": {"schema_id": "telemetry.Nope"}, "payload": {}}`
	check := func(t *testing.T, p *process, env map[string]string, from ...string) {
		dlq := func(args ...string) (int, string, string) {
			return invoke(t, env, "", append(append([]string{"dlq"}, args...), from...)...)
		}
		for _, body := range []string{bad, strings.Replace(bad, `"a"`, `"b"`, 1)} {
			if status, text := p.post(body); status != 202 {
				t.Fatalf("%d %s", status, text)
			}
		}
		p.eventually("two errors", func() bool { _, e, _ := p.outcomes(); return e == 2 })
		status, out, errs := dlq("list")
		if status != exitOK || strings.Count(out, "validate") != 2 || !strings.Contains(out, "schema") {
			t.Fatalf("list: status %d\n%s%s", status, out, errs)
		}
		id := strings.Fields(strings.Split(out, "\n")[1])[1]
		if _, out, _ := dlq("list", "--filter", "kind=decode"); strings.Contains(out, id) {
			t.Errorf("the filter let through:\n%s", out)
		}
		status, out, errs = dlq("show", id)
		letter := decode[foundLetter](t, out)
		if status != exitOK || letter.ID != id || letter.Attempts != 1 ||
			strings.Replace(letter.Data, `"b"`, `"a"`, 1) != bad {
			t.Errorf("show: status %d\n%s%s", status, out, errs)
		}
		if status, out, errs = dlq("replay", id, "--dry-run"); status != exitOK || !strings.Contains(out, "would replay "+id) {
			t.Errorf("dry run: status %d\n%s%s", status, out, errs)
		}
		if status, out, errs = dlq("replay", "--filter", "reason=schema"); status != exitOK || strings.Count(out, "replayed") != 2 {
			t.Errorf("replay: status %d\n%s%s", status, out, errs)
		}
		p.eventually("two more errors", func() bool { _, e, _ := p.outcomes(); return e == 4 })
		// The replayed ones failed again: they keep their identity and count.
		status, out, errs = dlq("list", "--json")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if status != exitOK || len(lines) != 2 {
			t.Fatalf("list: status %d\n%s%s", status, out, errs)
		}
		kept := false
		for _, line := range lines {
			again := decode[foundLetter](t, line)
			kept = kept || again.OriginalID == letter.OriginalID && again.Data == letter.Data
			if again.Replays != 1 {
				t.Errorf("after the replay %+v, want 1 replay", again)
			}
		}
		if !kept {
			t.Errorf("no dead letter kept original id %s:\n%s", letter.OriginalID, out)
		}
		if status, _, _ := dlq("show", "1-1"); status != exitFailure {
			t.Errorf("an unknown id: status %d", status)
		}
	}
	t.Run("inmem", func(t *testing.T) {
		p := launch(t, nil)
		check(t, p, nil, "--from", p.base)
		p.stop()
	})
	t.Run("redis", func(t *testing.T) {
		env := redisEnv(redistest.Start(t))
		p := launch(t, env)
		check(t, p, env)
		p.stop()
	})
}

// A replay puts back what came, also where the entry had fields named as ours.
func TestReplayKeepsTheBytes(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	env := redisEnv(server)
	p := launch(t, env)
	const stream, data = "mdp:mdp.telemetry.feedback", `{"precious":1}`
	ctx := context.Background()
	for _, values := range [][]string{
		{"data", data, "fields", `{"a":"b"}`, "replays", "9223372036854775807"},
		{"payload", "zz", "original_id", "1-1"},
	} {
		if err := client.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: values}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for round := 1; round <= 3; round++ {
		p.eventually("both to be dead-lettered", func() bool { return client.XLen(ctx, stream+".dlq").Val() == 2 })
		if status, out, errs := invoke(t, env, "", "dlq", "replay", "--all"); status != exitOK {
			t.Fatalf("replay: status %d\n%s%s", status, out, errs)
		}
		entries := client.XRevRangeN(ctx, stream, "+", "-", 2).Val()
		for _, e := range entries {
			if e.Values["replays"] != fmt.Sprint(round) {
				t.Errorf("round %d: replays %v in %v", round, e.Values["replays"], e.Values)
			}
			if e.Values["payload"] == "zz" {
				if e.Values["original_id"] != "1-1" || e.Values["data"] != nil {
					t.Errorf("round %d: %v, want the entry as it came", round, e.Values)
				}
			} else if e.Values["data"] != data {
				t.Errorf("round %d: %v, want the data that came", round, e.Values)
			}
		}
	}
	p.stop()
}

func TestPublish(t *testing.T) {
	file := recording(t, "feedback.jsonl")
	event := `{"coordinator_id":"bars_9","queue_size":9,"capacity":10,"level":"hard"}` + "\n"
	check := func(t *testing.T, p *process, env map[string]string, to ...string) {
		for _, c := range []struct{ stdin, path string }{{"", file}, {event, "-"}} {
			args := append([]string{"publish", "--stream", "telemetry.feedback", c.path}, to...)
			if status, out, errs := invoke(t, env, c.stdin, args...); status != exitOK || out == "" {
				t.Errorf("publish %s: status %d\n%s%s", c.path, status, out, errs)
			}
		}
		p.eventually("eleven successes", func() bool { s, _, _ := p.outcomes(); return s == 11 })
		p.stop()
		args := append([]string{"publish", "--stream", "telemetry.feedback", file}, "--to", p.base)
		if status, _, _ := invoke(t, env, "", args...); status != exitFailure {
			t.Errorf("publish to a service that is gone: status %d", status)
		}
	}
	t.Run("inmem", func(t *testing.T) {
		p := launch(t, nil)
		status, _, errs := invoke(t, nil, event, "publish", "--stream", "telemetry.fedback", "--to", p.base, "-")
		const want = `404: no flow reads this stream (did you mean "telemetry.feedback"?); streams: telemetry.feedback`
		if status != exitFailure || !strings.Contains(errs, want) {
			t.Errorf("publish to no stream: status %d, %s, want %s", status, errs, want)
		}
		check(t, p, nil, "--to", p.base)
	})
	t.Run("redis", func(t *testing.T) {
		env := redisEnv(redistest.Start(t))
		check(t, launch(t, env), env)
	})
}

func TestRecordingErrorsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"{\"a\": 1}\nnot json\n":            ":2: not a JSON object",
		"[1]\n":                             ":1: not a JSON object",
		"\n\n{\"fields\": {\"data\": 5}}\n": ":3: \"fields\" must be an object of strings",
	} {
		if _, err := readRecording("feed.jsonl", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestShippedFileIsTheBuiltInFlow(t *testing.T) {
	if string(flowsYAML(t)) != string(flows.DefaultSource()) {
		t.Error("flows.yaml and the built-in flow differ; run make generate")
	}
}
