package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// The stream, group and providers of the shipped flow.
const (
	stream     = "mdp:mdp.telemetry.feedback"
	group      = "pipeline"
	keys       = 64 // coordinators
	levelCycle = 3
)

// redisServer is a server of bench's own.
type redisServer struct {
	url    string
	admin  string // a free address for pulseflow's listener
	dir    string
	cmd    *exec.Cmd
	client *redis.Client
}

func startRedis() (*redisServer, error) {
	program := os.Getenv("PULSEFLOW_REDIS_SERVER")
	if program == "" {
		program = "redis-server"
	}
	dir, err := os.MkdirTemp("", "pulseflow-bench")
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	admin, err := freePort()
	if err != nil {
		return nil, err
	}
	s := &redisServer{dir: dir, url: fmt.Sprintf("redis://127.0.0.1:%d/0", port), admin: fmt.Sprintf("127.0.0.1:%d", admin)}
	s.cmd = exec.Command(program, "--port", fmt.Sprint(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
		"--dir", dir)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	s.client = redis.NewClient(&redis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", port)})
	for range 200 {
		if s.client.Ping(context.Background()).Err() == nil {
			return s, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.stop()
	return nil, errors.New("redis-server does not answer")
}

func (s *redisServer) stop() {
	_ = s.client.Close()
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	_ = os.RemoveAll(s.dir)
}

// mallocs is the file in which a worker notes its allocations.
func (s *redisServer) mallocs() string { return filepath.Join(s.dir, "mallocs") }

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port, nil
}

// entry is the n-th nested entry, as Store's publisher writes them. Levels change
// once a round of all coordinators, so each event changes its coordinator's.
func entry(n int, ts float64) string {
	level := []string{"ok", "soft", "hard"}[n/keys%levelCycle]
	return fmt.Sprintf(`{"ts": %.6f, "key": "bars_%d", "meta": {"schema_id": "events.envelope.EventEnvelope", "track": "v1", `+
		`"headers": {}, "hash": "981d762ebd25571ccb3c7f9bd33846a1f916016e412228819feed37ea5bed988"}, "payload": {"id": "", `+
		`"key": "bars_%d", "ts": %.6f, "meta": {"schema_id": "telemetry.FeedbackEvent", "track": "v1", "headers": {"reason": `+
		`"queue_recovered", "utilization": "0.010000"}, "hash": null}, "payload": {"coordinator_id": "bars_%d", `+
		`"queue_size": %d, "capacity": 1000, "level": "%s", "source": "store", "ts": %.6f}}}`,
		ts, n%keys, n%keys, ts, n%keys, n%1000, level, ts)
}

// fill empties the server and writes n entries.
func (s *redisServer) fill(ctx context.Context, n int) error {
	if err := s.client.FlushAll(ctx).Err(); err != nil {
		return err
	}
	begin := float64(time.Now().Unix() - 3600)
	for at := 0; at < n; at += 1000 {
		pipe := s.client.Pipeline()
		for i := at; i < min(at+1000, n); i++ {
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: []string{"data", entry(i, begin+float64(i)/1e4)}})
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	return nil
}

// consumed waits until the group has read and acknowledged everything.
func (s *redisServer) consumed(ctx context.Context) error {
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		groups, err := s.client.XInfoGroups(ctx, stream).Result()
		if err == nil && len(groups) == 1 && groups[0].Pending == 0 && groups[0].Lag == 0 && groups[0].EntriesRead > 0 {
			return nil
		}
	}
	return errors.New("not consumed within two minutes")
}

// allocations is how many objects the process behind the admin listener has made.
func allocations(admin string) float64 {
	resp, err := http.Get("http://" + admin + "/metrics")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "go_memstats_mallocs_total "); ok {
			var v float64
			if _, err := fmt.Sscan(text, &v); err == nil {
				return v
			}
		}
	}
	return 0
}

// flowFile writes the shipped flow with the publish mode given; "" publishes not
// at all. Alone keeps the rate levels to the process.
func flowFile(when string, alone bool) (string, error) {
	publish := "- rate-apply"
	if when != "" {
		publish = "- rate-apply: {publish: telemetry.rate_adjustment, when: " + when + "}"
	}
	dir, err := os.MkdirTemp("", "pulseflow-bench")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "flows.yaml")
	return path, os.WriteFile(path, []byte(`version: 1
bus: {backend: redis, redis: {url: "${REDIS_URL:-redis://localhost:6379/0}"}}
rates: {share: `+fmt.Sprint(!alone)+`} # pulseflow: allow rates-not-shared
providers:
  ibkr: {rate: 60, burst: 60, min_rate: 1}
flows:
  feedback:
    from: {stream: telemetry.feedback, group: pipeline}
    stages:
      - validate: {schema: telemetry.FeedbackEvent}
      - dedupe: {key: id, capacity: 10000, ttl: 10m}
      - handle: {with: feedback, provider: ibkr}
      `+publish+`
`), 0o600)
}
