package rate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func configured(t *testing.T, configs ...ProviderConfig) *Coordinator {
	t.Helper()
	c, err := NewCoordinator(Config{Providers: configs})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func stateOf(t *testing.T, c *Coordinator, provider string) State {
	t.Helper()
	s, err := c.State(provider)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConfigure(t *testing.T) {
	policy := Policy{OK: 1, Soft: 0.5, Hard: 0}
	now := func(c *Coordinator, coordinator string, level Level, ago time.Duration) {
		if _, err := c.Apply(Adjustment{
			Provider: "a", Coordinator: coordinator, Level: level, Policy: policy, Time: time.Now().Add(-ago),
		}); err != nil {
			t.Fatal(err)
		}
	}
	base := ProviderConfig{Name: "a", Rate: 100, Burst: 10}
	for name, tt := range map[string]struct {
		before func(c *Coordinator)
		config ProviderConfig
		want   func(s State) bool
	}{
		"tokens stay": {
			func(c *Coordinator) { _, _, _ = c.TryAcquire("a", 7) },
			ProviderConfig{Name: "a", Rate: 50, Burst: 20},
			func(s State) bool { return s.Tokens == 3 && s.EffectiveRate == 50 && s.Granted == 7 },
		},
		"tokens that do not fit are gone": {
			func(*Coordinator) {},
			ProviderConfig{Name: "a", Rate: 50, Burst: 4},
			func(s State) bool { return s.Tokens == 4 },
		},
		"levels stay": {
			func(c *Coordinator) { now(c, "x", Soft, 0) },
			ProviderConfig{Name: "a", Rate: 50, Burst: 10},
			func(s State) bool { return s.Level == Soft && s.EffectiveRate == 25 && s.Policy == policy },
		},
		"levels count by the new policy": {
			func(c *Coordinator) { now(c, "x", Soft, 0) },
			ProviderConfig{Name: "a", Rate: 100, Burst: 10, Policy: &Policy{OK: 1, Soft: 0.1, Hard: 0}},
			func(s State) bool { return s.Level == Soft && s.EffectiveRate == 10 },
		},
		"silence begins to count": {
			func(c *Coordinator) { now(c, "x", Hard, time.Minute); now(c, "y", Soft, 0) },
			ProviderConfig{Name: "a", Rate: 100, Burst: 10, OnSilence: Silence{After: 30 * time.Second}},
			func(s State) bool { return s.Level == Soft && s.Coordinators == 2 },
		},
		"the newest counts": {
			func(c *Coordinator) { now(c, "x", Hard, time.Minute); now(c, "y", OK, 0) },
			ProviderConfig{Name: "a", Rate: 100, Burst: 10, Aggregate: AggregateLast},
			func(s State) bool { return s.Level == OK && s.EffectiveRate == 100 },
		},
		"fewer coordinators": {
			func(c *Coordinator) { now(c, "x", Hard, time.Minute); now(c, "y", OK, 0); now(c, "z", Soft, 0) },
			ProviderConfig{Name: "a", Rate: 100, Burst: 10, MaxCoordinators: 1},
			func(s State) bool { return s.Level == Hard && s.Coordinators == 1 && s.Evicted == 2 },
		},
		"a floor": {
			func(c *Coordinator) { now(c, "x", Hard, 0) },
			ProviderConfig{Name: "a", Rate: 100, Burst: 10, MinRate: 2},
			func(s State) bool { return s.EffectiveRate == 2 },
		},
		"an override stays": {
			func(c *Coordinator) { _, _ = c.Override("a", 0.3, time.Hour, "test") },
			ProviderConfig{Name: "a", Rate: 10, Burst: 10},
			func(s State) bool { return s.Override != nil && s.EffectiveRate == 3 },
		},
		"a cooldown stays": {
			func(c *Coordinator) { _ = c.TriggerCooldown("a", GlobalScope, time.Minute) }, base,
			func(s State) bool { return len(s.Cooldowns) == 1 },
		},
		"an open breaker stays open": {
			func(c *Coordinator) { _ = c.RecordFailure("a") },
			ProviderConfig{Name: "a", Rate: 100, Burst: 10, Breaker: Breaker{Threshold: 3}},
			func(s State) bool { return s.Breaker.State == BreakerOpen },
		},
		"without a breaker none is open": {
			func(c *Coordinator) { _ = c.RecordFailure("a") }, base,
			func(s State) bool { return s.Breaker.State == BreakerClosed },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				first := base
				first.Breaker = Breaker{Threshold: 1}
				c := configured(t, first)
				tt.before(c)
				if err := c.Configure([]ProviderConfig{tt.config}); err != nil {
					t.Fatal(err)
				}
				if s := stateOf(t, c, "a"); !tt.want(s) {
					t.Errorf("%+v", s)
				}
				_ = c.Configure(nil) // ends its timer
			})
		})
	}
}

// An event from before a change of the policy does not bring the old one back.
func TestConfigurePolicyOutlivesOldEvents(t *testing.T) {
	c := configured(t, ProviderConfig{Name: "a", Rate: 100})
	old := Policy{OK: 1, Soft: 0.5, Hard: 0}
	late := Adjustment{Provider: "a", Coordinator: "x", Level: Soft, Policy: old, Time: time.Now()}
	if err := c.Configure([]ProviderConfig{{Name: "a", Rate: 100, Policy: &Policy{OK: 1, Soft: 0.2, Hard: 0}}}); err != nil {
		t.Fatal(err)
	}
	r, err := c.Apply(late)
	if err != nil || r.State.Scale != 0.2 {
		t.Errorf("%+v, %v", r.State, err)
	}
}

func TestConfigureWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := configured(t, ProviderConfig{Name: "a", Rate: 1, Burst: 10}, ProviderConfig{Name: "gone", Rate: 1, Burst: 1})
		for _, p := range []string{"a", "gone"} {
			n := 10
			if p == "gone" {
				n = 1
			}
			if err := c.Acquire(t.Context(), p, n); err != nil {
				t.Fatal(err)
			}
		}
		results := map[string]chan error{"large": make(chan error, 1), "small": make(chan error, 1), "gone": make(chan error, 1)}
		go func() { results["large"] <- c.Acquire(context.Background(), "a", 10) }()
		synctest.Wait()
		go func() { results["small"] <- c.Acquire(context.Background(), "a", 2) }()
		go func() { results["gone"] <- c.Acquire(context.Background(), "gone", 1) }()
		synctest.Wait()
		if err := c.Configure([]ProviderConfig{{Name: "new", Rate: 1}, {Name: "a", Rate: 1, Burst: 5}}); err != nil {
			t.Fatal(err)
		}
		if err := <-results["large"]; !errors.Is(err, ErrTokens) {
			t.Errorf("more than the burst: %v", err)
		}
		if err := <-results["gone"]; !errors.Is(err, ErrUnknownProvider) {
			t.Errorf("of a provider that is gone: %v", err)
		}
		start := time.Now()
		if err := <-results["small"]; err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if got := c.States(); len(got) != 2 || got[0].Provider != "new" || got[1].Provider != "a" {
			t.Errorf("%+v", got)
		}
		if s := stateOf(t, c, "a"); s.Waiters != 0 || s.Denied != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestConfigureRefusesWhatIsWrong(t *testing.T) {
	c := configured(t, ProviderConfig{Name: "a", Rate: 100})
	for name, configs := range map[string][]ProviderConfig{
		"a rate":     {{Name: "b", Rate: 1}, {Name: "a", Rate: -1}},
		"two of one": {{Name: "a", Rate: 1}, {Name: "a", Rate: 2}},
	} {
		if err := c.Configure(configs); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if s := stateOf(t, c, "a"); s.EffectiveRate != 100 || len(c.States()) != 1 {
		t.Errorf("%+v", c.States())
	}
}

// A hold and a journal are of all providers, also of those that come later, and a Watch
// sees them.
func TestConfigureOfNewProviders(t *testing.T) {
	c := configured(t)
	c.Hold()
	c.Journal()
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string, 10)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for s := range c.Watch(ctx) {
			seen <- s.Provider
		}
	}()
	if err := c.Configure([]ProviderConfig{{Name: "a", Rate: 1}}); err != nil {
		t.Fatal(err)
	}
	if p := <-seen; p != "a" {
		t.Errorf("watched %s", p)
	}
	if ok, _, err := c.TryAcquire("a", 1); ok || err != nil {
		t.Errorf("granted on hold: %v, %v", ok, err)
	}
	c.Release()
	if ok, _, err := c.TryAcquire("a", 1); !ok || err != nil {
		t.Errorf("not granted: %v", err)
	}
	if _, err := c.Apply(Adjustment{Provider: "a", Level: Soft, Policy: DefaultPolicy(), Time: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if !c.Changed() {
		t.Error("nothing was noted")
	}
	cancel()
	<-watched
}
