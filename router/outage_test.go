package router_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

const adjustments = "mdp:mdp.telemetry.rate_adjustment"

// adjusting is the mission's flow with a retry budget far shorter than an outage.
var adjusting = strings.Replace(standard, "      - handle: {with: test}\n",
	"      - handle: {with: feedback}\n      - rate-apply: {publish: telemetry.rate_adjustment}\n", 1)

// cutRates takes the server away right after the first adjustment was applied.
type cutRates struct {
	fixedRates
	once sync.Once
	cut  func()
}

func (r *cutRates) Apply(ctx context.Context, a stages.Adjustment) (stages.RateState, error) {
	s, err := r.fixedRates.Apply(ctx, a)
	r.once.Do(r.cut)
	return s, err
}

// Redis goes away between the change of the level and its announcement, for longer
// than all retries take. The announcement is made when it is back; the event is
// neither lost nor dead-lettered.
func TestOutageBetweenApplyAndPublish(t *testing.T) {
	server := redistest.Start(t, redistest.WithAOF())
	client := server.Client(t)
	transport, err := bus.NewRedis(bus.RedisConfig{URL: server.URL(), DrainTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transport.Close(context.Background()) })
	back := make(chan struct{})
	rates := &cutRates{cut: func() {
		server.Kill()
		go func() {
			defer close(back)
			time.Sleep(500 * time.Millisecond)
			server.Restart()
		}()
	}}
	count := &tally{counts: make(map[string]int)}
	r, err := router.Build(plan(t, adjusting, nil), router.Deps{
		Transport: transport, Rates: rates, Observer: count,
		Observe: func(string, string) router.FlowObserver { return count },
	})
	if err != nil {
		t.Fatal(err)
	}
	run := &running{t: t, count: count, router: r, done: make(chan error, 1), line: &line{
		transport: transport,
		pending: func() int64 {
			p, err := client.XPending(context.Background(), source, group).Result()
			if err != nil {
				return -1
			}
			return p.Count
		},
	}}
	ctx, cancel := context.WithCancel(context.Background())
	run.cancel = cancel
	t.Cleanup(run.stop)
	go func() { run.done <- r.Run(ctx, nil) }()

	// The cut may take this call's answer with it; that the entry arrived is what the
	// cut itself shows.
	_, _ = transport.Put(ctx, source, []byte(feedback("bars_1", "hard", 0)), nil)
	run.settled(1)
	<-back
	if count.of("success") != 1 || len(run.letters()) != 0 {
		t.Errorf("counts %v, dead letters %v; want one success", count.counts, run.letters())
	}
	entries := run.newest(adjustments)
	if len(entries) == 0 {
		t.Fatal("nothing was announced")
	}
	a, err := event.Decoder{}.Decode("1-0", []byte(entries[0].Fields["data"])).RateAdjustment()
	if err != nil || a.Reason != event.LevelHard || a.Scale != 0 {
		t.Errorf("announced %+v (%v), want hard", a, err)
	}
}

// Without Redis the router is up and says why it is degraded; the flow attaches
// when Redis comes.
func TestStartWithoutRedis(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	transport, err := bus.NewRedis(bus.RedisConfig{URL: server.URL(), DrainTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transport.Close(context.Background()) })
	l := &line{transport: transport, pending: func() int64 { return 0 }}
	r := start(t, l, adjusting, nil, nil)
	// From the first moment: what has not attached is not running.
	if s := r.router.Status()[0]; s.State == router.StateRunning {
		t.Errorf("status %+v before the flow has attached", s)
	}
	r.eventually("the reason", func() bool {
		s := r.router.Status()[0]
		return s.State == router.StateDegraded && strings.Contains(s.Reason, "connection refused")
	})
	server.Restart()
	r.eventually("the flow to attach", func() bool { return r.router.Status()[0].State == router.StateRunning })
	if _, err := transport.Put(context.Background(), source, []byte(feedback("bars_1", "hard", 0)), nil); err != nil {
		t.Fatal(err)
	}
	r.settled(1)
	if r.count.of("success") != 1 {
		t.Errorf("counts %v, want a success", r.count.counts)
	}
}

func TestBuildClosesWhatItOpened(t *testing.T) {
	m, err := bus.NewInMemory(bus.InMemoryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close(context.Background()) })
	two := standard + `  second:
    from: {stream: telemetry.other}
    stages: [{handle: {with: feedback}}, rate-apply]
`
	count := &tally{counts: make(map[string]int)}
	// Without a coordinator the second flow's stage cannot be built.
	_, err = router.Build(plan(t, two, accept), router.Deps{
		Transport: m, Observer: count,
		Observe: func(string, string) router.FlowObserver { return count },
	})
	if err == nil || !strings.Contains(err.Error(), `flow "second": stage 2 (rate-apply)`) {
		t.Fatalf("build: %v, want the stage's error", err)
	}
	if _, capacity := m.Depth(source, group); capacity != 0 {
		t.Error("the first flow's subscription is still open")
	}
}

func TestRunOnlyOnce(t *testing.T) {
	l := openMemory(t)
	r := start(t, l, standard, accept, nil)
	if err := r.router.Run(context.Background(), nil); err == nil {
		t.Error("a router ran twice")
	}
}

func TestPlanSaysWhyAFlowIsDisabled(t *testing.T) {
	for name, tt := range map[string]struct{ src, reason string }{
		"file":         {strings.Replace(adjusting, "version: 1", "version: 1\nenabled: false", 1), "switched off"},
		"flow":         {strings.Replace(adjusting, "    from:", "    enabled: false\n    from:", 1), `flow "feedback" is switched off`},
		"no providers": {strings.Replace(adjusting, "providers: {ibkr: {rate: 60}}", "", 1), "declares no provider"},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan(t, tt.src, nil)
			if got := p.Flows[0].Disabled; !strings.Contains(got, tt.reason) {
				t.Errorf("disabled %q, want %q", got, tt.reason)
			}
			l := openMemory(t)
			r := start(t, l, tt.src, nil, nil)
			if s := r.router.Status()[0]; s.State != router.StateDisabled || s.Reason == "" {
				t.Errorf("status %+v, want disabled with the reason", s)
			}
			if _, capacity := l.transport.(*bus.InMemory).Depth(source, group); capacity != 0 {
				t.Error("a disabled flow subscribed")
			}
		})
	}
}
