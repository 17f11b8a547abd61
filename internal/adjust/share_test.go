package adjust

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
	"github.com/mjdevaccount/pulseflow/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait for something that must happen.
const patience = 30 * time.Second

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited for ", what)
		}
	}
}

const testKey = "mdp:pulseflow:rates:ibkr"

// lines is a log that several goroutines write.
type lines struct{ n atomic.Int64 }

func (l *lines) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("level=WARN")) {
		l.n.Add(1)
	}
	return len(p), nil
}

// sharing returns an Applier that shares the levels of ibkr, not started yet.
func sharing(t *testing.T, url string, wait time.Duration, provider flows.Provider) (*Applier, *lines) {
	t.Helper()
	r, err := bus.NewRedis(bus.RedisConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	log := new(lines)
	provider.Name = "ibkr"
	a, err := New([]flows.Provider{provider}, slog.New(slog.NewTextHandler(log, nil)),
		WithRegisters(r.Registers(), func(p string) string { return "mdp:pulseflow:rates:" + p }, wait))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = a.Close(ctx) // the server may be down
		_ = r.Close(ctx)
	})
	return a, log
}

// started returns one that has been restored.
func started(t *testing.T, url string, provider flows.Provider) *Applier {
	t.Helper()
	a, _ := sharing(t, url, patience, provider)
	a.Start()
	eventually(t, "the levels to be restored", func() bool { reason, _ := a.Fault(); return reason == "" })
	return a
}

func mustApply(t *testing.T, a *Applier, coordinator string, level event.Level, at time.Time) {
	t.Helper()
	if _, err := a.Apply(context.Background(), adjustment(coordinator, level, at)); err != nil {
		t.Fatal(err)
	}
}

func mustCommit(t *testing.T, a *Applier) {
	t.Helper()
	if err := a.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func levelOf(t *testing.T, a *Applier) event.Level {
	t.Helper()
	s, err := a.RateState("ibkr")
	if err != nil {
		t.Fatal(err)
	}
	return s.Level
}

// known is what an Applier knows, apart from times that pass.
func known(t *testing.T, a *Applier) (list []string) {
	t.Helper()
	all, err := a.coordinator.Coordinators("ibkr")
	if err != nil {
		t.Fatal(err)
	}
	a.coordinator.Settle()
	s := a.coordinator.States()[0]
	list = append(list, fmt.Sprint(s.Level, s.Scale, s.EffectiveRate))
	for _, c := range all {
		list = append(list, fmt.Sprint(c.Coordinator, c.Signalled, c.Time.Format(time.RFC3339Nano)))
	}
	return list
}

var provider = flows.Provider{Rate: 60, Burst: 60, MinRate: 1, MaxFutureSkew: 100 * 365 * 24 * time.Hour}

// recorded are the adjustments of the recorded feedback.
func recorded(t *testing.T) (list []stages.Adjustment) {
	t.Helper()
	f, err := os.Open("../../event/testdata/feedback.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var line struct {
			ID     string            `json:"id"`
			Fields map[string]string `json:"fields"`
		}
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		fb, err := event.Decoder{}.Decode(line.ID, []byte(line.Fields["data"])).LenientFeedback()
		if err != nil {
			t.Fatal(err)
		}
		a := adjustment(fb.CoordinatorID, fb.Level, time.Time{})
		a.Time = fb.Time
		list = append(list, a)
	}
	if len(list) != 10 {
		t.Fatalf("%d recorded events", len(list))
	}
	return list
}

// Any order of the recorded events with any of them repeated, applied in memory, in
// one process on Redis, or shared out to two, ends in the same rates.
func TestRecordedEventsInAnyOrder(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	events := recorded(t)
	inMemory := func(events []stages.Adjustment) []string {
		a, err := New([]flows.Provider{{
			Name: "ibkr", Rate: provider.Rate, Burst: provider.Burst, MinRate: provider.MinRate, MaxFutureSkew: provider.MaxFutureSkew,
		}}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if _, err := a.Apply(context.Background(), e); err != nil {
				t.Fatal(err)
			}
		}
		return known(t, a)
	}
	want := inMemory(events)
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		mixed := append([]stages.Adjustment(nil), events...)
		for range 10 {
			mixed = append(mixed, events[rnd.IntN(len(events))])
		}
		rnd.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		if diff := cmp.Diff(want, inMemory(mixed)); diff != "" {
			t.Errorf("seed %d, in memory (-want +got):\n%s", seed, diff)
		}
		for processes := 1; processes <= 2; processes++ {
			if err := client.FlushAll(context.Background()).Err(); err != nil {
				t.Fatal(err)
			}
			var all []*Applier
			for range processes {
				all = append(all, started(t, server.URL(), provider))
			}
			for _, e := range mixed {
				a := all[rnd.IntN(processes)]
				if _, err := a.Apply(context.Background(), e); err != nil {
					t.Fatal(err)
				}
				if rnd.IntN(4) == 0 {
					mustCommit(t, a)
				}
			}
			for _, a := range all {
				mustCommit(t, a)
			}
			for i, a := range all {
				eventually(t, fmt.Sprintf("process %d of %d to know all", i+1, processes), func() bool {
					return cmp.Equal(want, known(t, a))
				})
			}
			if diff := cmp.Diff(want, known(t, started(t, server.URL(), provider))); diff != "" {
				t.Errorf("seed %d, restored (-want +got):\n%s", seed, diff)
			}
			for _, a := range all {
				a.share.cancel() // or they would write back what the next round flushes
				a.share.done.Wait()
			}
		}
	}
}

// Nothing is granted before the levels of the life before have been restored.
func TestRestoredBeforeTheFirstToken(t *testing.T) {
	server := redistest.Start(t)
	paused := flows.Provider{Rate: 60, Burst: 60} // hard stops it
	before := started(t, server.URL(), paused)
	mustApply(t, before, "a", event.LevelHard, time.Now())
	mustApply(t, before, "b", event.LevelSoft, time.Now())
	mustCommit(t, before) // and then it is killed

	a, _ := sharing(t, server.URL(), patience, paused)
	if reason, restoring := a.Fault(); !restoring || reason == "" {
		t.Errorf("fault %q, restoring %v", reason, restoring)
	}
	if ok, _, err := a.coordinator.TryAcquire("ibkr", 1); ok || err != nil {
		t.Errorf("granted before a look at the levels: %v", err)
	}
	granted := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { granted <- a.coordinator.Acquire(ctx, "ibkr", 1) }()
	applied := make(chan error, 1)
	go func() {
		_, err := a.Apply(context.Background(), adjustment("c", event.LevelOK, time.Now()))
		applied <- err
	}()
	a.Start()
	eventually(t, "the levels to be restored", func() bool { reason, _ := a.Fault(); return reason == "" })
	if err := <-applied; err != nil {
		t.Error(err)
	}
	if s := a.coordinator.States()[0]; s.Level != rate.Hard || s.EffectiveRate != 0 || s.Coordinators != 3 || s.OnHold {
		t.Errorf("restored %+v", s)
	}
	if ok, _, err := a.coordinator.TryAcquire("ibkr", 1); ok || err != nil {
		t.Errorf("granted at hard: %v", err)
	}
	cancel()
	if err := <-granted; !errors.Is(err, context.Canceled) {
		t.Errorf("the call that waited for the levels got %v at hard", err)
	}
}

// Levels that cannot be restored in time stop nobody for ever, and are restored once
// they can be.
func TestRestoreGivesUp(t *testing.T) {
	server := redistest.Start(t, redistest.WithAOF())
	before := started(t, server.URL(), provider)
	mustApply(t, before, "a", event.LevelSoft, time.Now())
	mustCommit(t, before)
	server.Stop()
	a, log := sharing(t, server.URL(), time.Millisecond, provider)
	a.Start()
	if err := a.coordinator.Acquire(context.Background(), "ibkr", 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a reason", func() bool {
		reason, restoring := a.Fault()
		return strings.Contains(reason, "not restored") && strings.Contains(reason, "connection refused") && !restoring
	})
	mustApply(t, a, "b", event.LevelOK, time.Now()) // does not wait for ever
	if log.n.Load() == 0 {
		t.Error("no warning")
	}
	server.Restart()
	eventually(t, "the level of the life before", func() bool { return levelOf(t, a) == event.LevelSoft })
	eventually(t, "no reason", func() bool { reason, _ := a.Fault(); return reason == "" })
}

// What is applied during an outage is not lost: it is not committed before, and known
// to others afterwards.
func TestOutage(t *testing.T) {
	server := redistest.Start(t, redistest.WithAOF())
	a, b := started(t, server.URL(), provider), started(t, server.URL(), provider)
	mustApply(t, a, "a", event.LevelSoft, time.Now())
	mustCommit(t, a)
	server.Kill()
	mustApply(t, a, "a", event.LevelHard, time.Now())
	mustApply(t, b, "b", event.LevelSoft, time.Now())
	for _, x := range []*Applier{a, b} {
		if err := x.Commit(context.Background()); err == nil {
			t.Error("committed while Redis is away")
		}
		eventually(t, "a fault", func() bool { reason, _ := x.Fault(); return strings.Contains(reason, "not shared") })
	}
	server.Restart()
	for _, x := range []*Applier{a, b} {
		eventually(t, "both to know all", func() bool {
			s := x.coordinator.States()[0]
			reason, _ := x.Fault()
			return s.Level == rate.Hard && s.Coordinators == 2 && reason == ""
		})
		mustCommit(t, x)
	}
}

// When Redis has lost the levels, those who know them tell it again; nobody's level
// changes.
func TestFlushed(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	ctx := context.Background()
	a, b := started(t, server.URL(), provider), started(t, server.URL(), provider)
	mustApply(t, a, "a", event.LevelHard, time.Now())
	mustCommit(t, a)
	mustApply(t, b, "b", event.LevelSoft, time.Now())
	mustCommit(t, b)
	eventually(t, "both to know both", func() bool { return len(known(t, a)) == 3 && len(known(t, b)) == 3 })
	want := known(t, a)
	for range 3 {
		if err := client.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all levels in Redis", func() bool {
			all := client.HGetAll(ctx, testKey).Val()
			return all[":a"] != "" && all[":b"] != ""
		})
		for _, x := range []*Applier{a, b} {
			if diff := cmp.Diff(want, known(t, x)); diff != "" {
				t.Errorf("after a flush (-want +got):\n%s", diff)
			}
		}
	}
}

// A coordinator forgotten in one process is forgotten in all, and stays so.
func TestForgetIsShared(t *testing.T) {
	server := redistest.Start(t)
	a, b := started(t, server.URL(), provider), started(t, server.URL(), provider)
	at := time.Now()
	mustApply(t, a, "x", event.LevelHard, at)
	mustCommit(t, a)
	// b may not have looked yet.
	if held, err := b.Forget("ibkr", "x"); !held || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
	eventually(t, "the other to forget too", func() bool { return levelOf(t, a) == event.LevelOK })
	mustApply(t, a, "x", event.LevelHard, at)
	mustCommit(t, a)
	c := started(t, server.URL(), provider)
	mustApply(t, c, "x", event.LevelHard, at)
	for _, x := range []*Applier{a, b, c} {
		if l := levelOf(t, x); l != event.LevelOK {
			t.Errorf("a repeated event brought %v back", l)
		}
	}
	if held, err := b.Forget("ibkr", "x"); held || err != nil {
		t.Errorf("held again: %v, %v", held, err)
	}
	if _, err := b.Forget("nobody", "x"); err == nil {
		t.Error("a provider that is not there")
	}
}

// However many events a coordinator has sent, a commit tells its last level, in one
// call; one who has nothing to tell makes no call.
func TestCommitFolds(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	a := started(t, server.URL(), provider)
	calls := func() int {
		var n int
		for line := range strings.Lines(client.Info(context.Background(), "commandstats").Val()) {
			for _, prefix := range []string{"cmdstat_eval:calls=", "cmdstat_evalsha:calls="} {
				if rest, ok := strings.CutPrefix(line, prefix); ok {
					var calls int
					if _, err := fmt.Sscanf(rest, "%d", &calls); err != nil {
						t.Fatal(err)
					}
					n += calls
				}
			}
		}
		return n
	}
	mustApply(t, a, "warm", event.LevelOK, time.Now())
	mustCommit(t, a) // the script is loaded
	before := calls()
	begin := time.Now().Add(-time.Hour)
	for i := range 3000 {
		mustApply(t, a, fmt.Sprint("c", i%3), event.Level(i%2), begin.Add(time.Duration(i)*time.Second))
	}
	mustCommit(t, a)
	mustCommit(t, a)
	if n := calls() - before; n != 1 {
		t.Errorf("%d calls for one batch", n)
	}
	if n := client.HLen(context.Background(), testKey).Val(); n != 4+2 {
		t.Errorf("%d fields", n)
	}
}

// The shared levels are as bounded as those of a process, and so are those that are
// remembered as gone.
func TestSharedLevelsAreBounded(t *testing.T) {
	server := redistest.Start(t)
	client := server.Client(t)
	few := provider
	few.MaxCoordinators = 20
	a, b := started(t, server.URL(), few), started(t, server.URL(), few)
	now := time.Now().Add(-time.Minute)
	mustApply(t, a, "worst", event.LevelHard, now)
	for i := range 400 {
		x := []*Applier{a, b}[i%2]
		mustApply(t, x, fmt.Sprint("c", i), event.Level(i%2), now.Add(time.Duration(i)*time.Millisecond))
		if i%20 > 17 {
			mustCommit(t, x)
		}
	}
	eventually(t, "the shared levels to come down to their bound", func() bool {
		mustCommit(t, a)
		mustCommit(t, b)
		return client.HLen(context.Background(), testKey).Val() <= 2*20+2+2*20
	})
	for _, x := range []*Applier{a, b} {
		eventually(t, "the worst to be known", func() bool { return levelOf(t, x) == event.LevelHard })
		if n := x.coordinator.States()[0].Coordinators; n > 20 {
			t.Errorf("%d coordinators", n)
		}
	}
}

// Those who announce a provider's state hear of what other processes change, until
// they have announced it.
func TestFollowersAreTold(t *testing.T) {
	server := redistest.Start(t)
	a, b := started(t, server.URL(), provider), started(t, server.URL(), provider)
	var failed, heard atomic.Int64
	b.Follow(func(provider string) error {
		if provider != "ibkr" {
			t.Error("told of ", provider)
		}
		if levelOf(t, b) != event.LevelHard {
			return nil
		}
		if failed.Add(1) == 1 {
			return errors.New("publisher is down")
		}
		heard.Add(1)
		return nil
	})
	mustApply(t, a, "x", event.LevelHard, time.Now())
	mustCommit(t, a)
	eventually(t, "the follower to be told again", func() bool { return heard.Load() == 1 })
}

// Policies that are configured hold for restored levels too.
func TestRestoredLevelsHaveTheConfiguredPolicy(t *testing.T) {
	server := redistest.Start(t)
	before := started(t, server.URL(), provider)
	mustApply(t, before, "a", event.LevelSoft, time.Now())
	mustCommit(t, before)
	r, err := bus.NewRedis(bus.RedisConfig{URL: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	named := provider
	named.Name = "ibkr"
	a, err := New([]flows.Provider{named}, slog.New(slog.DiscardHandler),
		WithRegisters(r.Registers(), func(p string) string { return "mdp:pulseflow:rates:" + p }, patience),
		WithPolicies(map[string]stages.Policy{"ibkr": {OK: 1, Soft: 0.25, Hard: 0}}))
	if err != nil {
		t.Fatal(err)
	}
	a.Start()
	eventually(t, "a quarter of the rate", func() bool { return a.coordinator.States()[0].EffectiveRate == 15 })
	if err := errors.Join(a.Close(context.Background()), r.Close(context.Background())); err != nil {
		t.Error(err)
	}
}
