//go:build faults

package faults

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// The environment that makes this test binary a consumer.
const (
	envConsumer = "PULSEFLOW_FAULTS_CONSUMER" // the consumer's name, which the oracle knows it by
	envServer   = "PULSEFLOW_FAULTS_SERVER"
	envOracle   = "PULSEFLOW_FAULTS_ORACLE"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(envConsumer); name != "" {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		s := settings{name: name, server: os.Getenv(envServer), oracle: os.Getenv(envOracle)}
		err := consume(ctx, s)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, "consumer:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const (
	stream     = "mdp:mdp.telemetry.feedback"
	deadLetter = stream + ".dlq"
	group      = "pipeline"
	lanes      = 32
)

// settings are what one consumer runs with.
type settings struct {
	name           string
	server, oracle string        // URLs
	slow           time.Duration // how long the handler takes
	maxIdle        time.Duration
	maxInFlight    int                        // 0 = 2048
	up             *atomic.Pointer[bus.Redis] // gets the transport; nil = nobody asks
}

// flow is the shipped chain up to the handler, which records instead of adjusting.
const flow = `
version: 1
flows:
  feedback:
    from: {stream: telemetry.feedback, group: pipeline}
    lanes: 32
    stages:
      - validate: {schema: telemetry.FeedbackEvent}
      - dedupe: {capacity: 200000}
      - handle: {with: record}
    retry: {max: 3, initial: 10ms}
`

// consume runs the flow until ctx ends.
func consume(ctx context.Context, s settings) error {
	opts, err := redis.ParseURL(s.oracle)
	if err != nil {
		return err
	}
	opts.PoolSize, opts.ClientName = 2*lanes, s.name
	oracle := redis.NewClient(opts)
	defer oracle.Close()
	reg := stages.Builtin()
	if err := reg.AddHandler("record", recorder(oracle, s)); err != nil {
		return err
	}
	file, d := flows.Parse("flows.yaml", []byte(flow), func(string) (string, bool) { return "", false })
	if d.HasErrors() {
		return d.Err()
	}
	plan, d := router.NewPlan(file, reg)
	if d.HasErrors() {
		return d.Err()
	}
	transport, err := bus.NewRedis(bus.RedisConfig{
		URL: s.server, Lease: 2 * time.Second, MaxIdle: s.maxIdle, DrainTimeout: 8 * time.Second, MaxInFlight: cmp.Or(s.maxInFlight, 2048),
	})
	if err != nil {
		return err
	}
	if s.up != nil {
		s.up.Store(transport)
	}
	watch, err := telemetry.New(prometheus.NewRegistry())
	if err != nil {
		return err
	}
	r, err := router.Build(plan, router.Deps{
		Transport: transport, Observer: watch, Logger: slog.New(slog.DiscardHandler),
		Observe: func(flow, topic string) router.FlowObserver { return watch.Flow(flow, topic) },
	})
	if err != nil {
		return err
	}
	err = r.Run(ctx, nil)
	closing, cancel := context.WithTimeout(context.Background(), 12*time.Second)
	defer cancel()
	if closeErr := transport.Close(closing); err == nil {
		err = closeErr
	}
	return err
}

// recorder applies an event by telling the oracle its number. An entry that another
// consumer is running at this moment is a conflict.
func recorder(oracle *redis.Client, s settings) stages.Handler {
	return func(_ context.Context, d *stages.Delivery, _ stages.HandleConfig, _ stages.Deps) error {
		ctx := context.Background() // the oracle is told whatever happens to the flow
		fb, err := d.Event.Feedback()
		if err != nil {
			return stages.Permanent(err)
		}
		n := fmt.Sprint(fb.QueueSize)
		begun, err := oracle.HSetNX(ctx, "running", n, s.name).Result()
		if err != nil {
			return err
		}
		if !begun {
			other := oracle.HGet(ctx, "running", n).Val()
			if err := oracle.RPush(ctx, "conflicts", n+" "+other+" "+s.name).Err(); err != nil {
				return err
			}
			oracle.HSet(ctx, "running", n, s.name)
		}
		if s.slow > 0 {
			time.Sleep(s.slow)
		}
		pipe := oracle.Pipeline()
		pipe.RPush(ctx, "applied:"+fb.CoordinatorID, n)
		pipe.SAdd(ctx, "applied", n)
		pipe.Incr(ctx, "by:"+s.name)
		pipe.HDel(ctx, "running", n)
		_, err = pipe.Exec(ctx)
		return err
	}
}

// child is a consumer in a process of its own.
type child struct {
	name string
	cmd  *exec.Cmd
}

func (f *fixture) spawn(name string) *child {
	f.t.Helper()
	c := &child{name: name, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), envConsumer+"="+name, envServer+"="+f.server.URL(), envOracle+"="+f.oracleURL)
	var out strings.Builder
	c.cmd.Stderr = &out
	if err := c.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
		if out.Len() > 0 {
			f.t.Logf("%s: %s", name, out.String())
		}
	})
	return c
}

// kill ends the process without warning. What it was running at that moment it is
// running no more: any other who runs it later does so alone.
func (f *fixture) kill(c *child) {
	f.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		f.t.Fatal(err)
	}
	_ = c.cmd.Wait()
	ctx := context.Background()
	f.eventually("the last words of "+c.name, func() bool {
		list, err := f.oracle.ClientList(ctx).Result()
		return err == nil && !strings.Contains(list, " name="+c.name+" ")
	})
	for n, who := range f.oracle.HGetAll(ctx, "running").Val() {
		if who == c.name {
			f.oracle.HDel(ctx, "running", n)
		}
	}
}

// stop ends the process in an orderly way.
func (f *fixture) stop(c *child) {
	f.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		f.t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		f.t.Errorf("%s: %v", c.name, err)
	}
}
