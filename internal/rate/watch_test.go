package rate

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// seen collects what a Watch yields, one short line a state.
type seen struct {
	mu    sync.Mutex
	lines []string
}

func (s *seen) add(st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%s %v %v", st.Provider, st.Level, st.EffectiveRate))
}

// take returns the lines since the last take.
func (s *seen) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	s.lines = nil
	return lines
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := NewCoordinator(Config{Providers: []ProviderConfig{
			{Name: "p", Rate: 60, OnSilence: Silence{After: time.Minute}}, {Name: "q", Rate: 10},
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got seen
		go func() {
			for s := range c.Watch(ctx) {
				got.add(s)
			}
		}()
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if diff := cmp.Diff(want, got.take()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		expect("all at first", "p ok 60", "q ok 10")

		start := time.Now()
		mustApply(t, c, "a", Soft, start)
		expect("a change", "p soft 30")
		mustApply(t, c, "a", Soft, start)
		mustApply(t, c, "b", Soft, start)
		mustApply(t, c, "c", OK, start)
		if _, _, err := c.TryAcquire("p", 1); err != nil {
			t.Fatal(err)
		}
		expect("no change")
		if _, err := c.SetPolicy("q", Policy{OK: 0.5}); err != nil {
			t.Fatal(err)
		}
		expect("a policy", "q ok 5")
		mustApply(t, c, "a", Hard, start.Add(1))
		expect("a worse one", "p hard 0")
		if _, err := c.Forget("p", "a"); err != nil {
			t.Fatal(err)
		}
		expect("a forgotten one", "p soft 30")
		time.Sleep(time.Minute)
		expect("silence", "p ok 60")

		cancel()
		synctest.Wait()
		mustApply(t, c, "a", Hard, time.Now())
		expect("nothing once ctx is done")
		if n := len(c.watchers.all); n != 0 {
			t.Errorf("%d watchers are left", n)
		}
	})
}

// A loop that does not come back holds no applier up, and then sees the latest
// state only; one that is back where it was is no news.
func TestWatchCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCoordinator(t, nil, ProviderConfig{Rate: 60})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got seen
		resume := make(chan struct{})
		go func() {
			for s := range c.Watch(ctx) {
				got.add(s)
				<-resume
			}
		}()
		synctest.Wait()
		start := time.Now()
		for i, l := range []Level{Soft, Hard, Soft, OK, Hard} {
			mustApply(t, c, "a", l, start.Add(time.Duration(i)))
		}
		resume <- struct{}{}
		synctest.Wait()
		mustApply(t, c, "a", OK, start.Add(10))
		mustApply(t, c, "a", Hard, start.Add(11))
		resume <- struct{}{}
		synctest.Wait()
		if diff := cmp.Diff([]string{"p ok 60", "p hard 0"}, got.take()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestWatchEnds(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60})
	yields := 0
	for range c.Watch(t.Context()) {
		yields++
		break
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	for range c.Watch(done) {
		t.Error("a dead context yields")
	}
	if n := len(c.watchers.all); yields != 1 || n != 0 {
		t.Errorf("%d yields, %d watchers left", yields, n)
	}
}
