package rate

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewCoordinatorReportsEverything(t *testing.T) {
	nan := math.NaN()
	_, err := NewCoordinator(Config{
		MaxFutureSkew: -time.Second,
		Providers: []ProviderConfig{
			{Name: "", Rate: 1},
			{Name: "none"},
			{Name: "nan", Rate: nan, Burst: nan, MinRate: nan},
			{Name: "much", Rate: 1e10, Burst: 1e10, MinRate: 1e11},
			{Name: "small", Rate: 0.5, Burst: 0.5, MinRate: 1},
			{Name: "scale", Rate: 1, Policy: &Policy{OK: 1.5}},
			{Name: "rest", Rate: 1, Aggregate: 9, OnSilence: Silence{After: -1}, MaxCoordinators: -1},
			{
				Name: "new", Rate: 1, MaxFutureSkew: -1, RampUp: minRampUp - 1, Cooldown: -1,
				Breaker: Breaker{Threshold: -1, OpenFor: -1, HalfOpen: -1},
			},
			{Name: "twice", Rate: 1},
			{Name: "twice", Rate: 1},
		},
	})
	if err == nil {
		t.Fatal("no error")
	}
	want := []string{
		`max_future_skew -1s must not be negative`,
		`provider "": name must not be empty`,
		`provider "none": rate 0 must be above 0 and at most 1e+09`,
		`provider "nan": rate NaN must be above 0 and at most 1e+09`,
		`burst NaN must be in [1, 1e+09]`,
		`min_rate NaN must be in [0, rate NaN]`,
		`provider "much": rate 1e+10 must be above 0 and at most 1e+09`,
		`burst 1e+10 must be in [1, 1e+09]`,
		`min_rate 1e+11 must be in [0, rate 1e+10]`,
		`provider "small": burst 0.5 must be in [1, 1e+09]`,
		`min_rate 1 must be in [0, rate 0.5]`,
		`provider "scale": policy: ok: scale 1.5 must be in [0, 1]`,
		`provider "rest": aggregate(9) must be worst or last`,
		`on_silence: after -1ns must not be negative`,
		`max_coordinators -1 must not be negative`,
		`provider "new": max_future_skew -1ns must not be negative`,
		`ramp_up 99.999999ms must be 0 or at least 100ms`,
		`cooldown -1ns must not be negative`,
		`breaker: threshold -1 must not be negative`,
		`breaker: open_for -1ns must not be negative`,
		`breaker: half_open -1 must not be negative`,
		`provider "twice" is declared twice`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestInitialState(t *testing.T) {
	policy := Policy{OK: 0.5}
	tests := []struct {
		name   string
		config ProviderConfig
		want   State
	}{
		{
			name:   "defaults",
			config: ProviderConfig{Rate: 60},
			want:   State{Policy: DefaultPolicy(), Scale: 1, EffectiveRate: 60, Tokens: 60},
		},
		{
			name:   "burst is at least one",
			config: ProviderConfig{Rate: 0.25},
			want:   State{Policy: DefaultPolicy(), Scale: 1, EffectiveRate: 0.25, Tokens: 1},
		},
		{
			name:   "policy",
			config: ProviderConfig{Rate: 60, Burst: 5, Policy: &policy},
			want:   State{Policy: policy, Scale: 0.5, EffectiveRate: 30, Tokens: 5},
		},
		{
			name:   "paused from the start",
			config: ProviderConfig{Rate: 60, Policy: &Policy{}},
			want:   State{},
		},
		{
			name:   "floor",
			config: ProviderConfig{Rate: 60, MinRate: 1, Policy: &Policy{}},
			want:   State{EffectiveRate: 1, Tokens: 60},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Provider = "p"
			c := newTestCoordinator(t, newStillClock(), tt.config)
			if diff := cmp.Diff([]State{tt.want}, c.States()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if c, err := NewCoordinator(Config{}); err != nil || len(c.States()) != 0 {
		t.Errorf("without providers: %v, %v", c.States(), err)
	}
}

func TestUnknownProvider(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60})
	calls := map[string]func(p string) error{
		"acquire":     func(p string) error { return c.Acquire(t.Context(), p, 1) },
		"try acquire": func(p string) error { _, _, err := c.TryAcquire(p, 1); return err },
		"apply": func(p string) error {
			_, err := c.Apply(Adjustment{Provider: p, Policy: DefaultPolicy(), Time: epoch})
			return err
		},
		"set policy":   func(p string) error { _, err := c.SetPolicy(p, DefaultPolicy()); return err },
		"forget":       func(p string) error { _, err := c.Forget(p, "a"); return err },
		"success":      c.RecordSuccess,
		"failure":      c.RecordFailure,
		"cooldown":     func(p string) error { return c.TriggerCooldown(p, "history", 0) },
		"end cooldown": func(p string) error { _, err := c.EndCooldown(p, "history"); return err },
		"override":     func(p string) error { _, err := c.Override(p, 1, time.Minute, "x"); return err },
		"end override": func(p string) error { _, err := c.EndOverride(p); return err },
		"retry after":  func(p string) error { _, err := c.RetryAfter(p, 1); return err },
		"state":        func(p string) error { _, err := c.State(p); return err },
		"coordinators": func(p string) error { _, err := c.Coordinators(p); return err },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			err := call("nobody")
			if !errors.Is(err, ErrUnknownProvider) || err.Error() != `unknown provider "nobody"` {
				t.Errorf("got %v", err)
			}
			if err := call("p"); err != nil {
				t.Errorf("known provider: %v", err)
			}
		})
	}
}

func TestImpossibleTokens(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60, Burst: 5.5})
	tests := []struct {
		n    int
		want string
	}{
		{0, "invalid number of tokens: 0 must be positive"},
		{-1, "invalid number of tokens: -1 must be positive"},
		{math.MinInt, "invalid number of tokens: -9223372036854775808 must be positive"},
		{6, `invalid number of tokens: 6 is more than the burst 5.5 of provider "p": it can never be granted`},
		{math.MaxInt, `invalid number of tokens: 9223372036854775807 is more than the burst 5.5 of provider "p": it can never be granted`},
	}
	for _, tt := range tests {
		err := c.Acquire(t.Context(), "p", tt.n)
		_, _, tryErr := c.TryAcquire("p", tt.n)
		for _, err := range []error{err, tryErr} {
			if !errors.Is(err, ErrTokens) || err.Error() != tt.want {
				t.Errorf("%d tokens: %v, want %s", tt.n, err, tt.want)
			}
		}
	}
	if s := mustState(t, c); s.Tokens != 5.5 || s.Denied != 0 {
		t.Errorf("an impossible request left %+v", s)
	}
}

func TestAcquireWithDeadContext(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Acquire(ctx, "p", 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if s := mustState(t, c); s.Tokens != 60 {
		t.Errorf("it took tokens: %v left", s.Tokens)
	}
}

// Who gives up at the very instant at which the tokens are due has them, and
// who gives up before lets the next one have what is there.
func TestGivingUp(t *testing.T) {
	tests := []struct {
		name    string
		passed  time.Duration
		granted bool // to the one that gives up
	}{
		{"before", time.Second - 1, false},
		{"at the instant", time.Second, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				clock := newStillClock()
				c := newTestCoordinator(t, clock, ProviderConfig{Rate: 10, Burst: 10})
				if err := c.Acquire(t.Context(), "p", 10); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				first, second := make(chan error, 1), make(chan error, 1)
				go func() { first <- c.Acquire(ctx, "p", 10) }()
				synctest.Wait()
				go func() { second <- c.Acquire(t.Context(), "p", 9) }()
				synctest.Wait()
				clock.move(tt.passed)
				cancel()
				err := <-first
				if granted := err == nil; granted != tt.granted || !granted && !errors.Is(err, context.Canceled) {
					t.Errorf("giving up yields %v", err)
				}
				synctest.Wait()
				if served := len(second) == 1; served == tt.granted {
					t.Errorf("the next in line is served: %v", served)
				}
				clock.move(time.Second)
				mustState(t, c) // brings it to the present
				if err := <-second; err != nil {
					t.Errorf("the next in line: %v", err)
				}
			})
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	now := epoch
	tests := []struct {
		name string
		a    Adjustment
		want error
		text string
	}{
		{"no time", Adjustment{}, ErrAdjustment, "invalid adjustment: no event time"},
		{"level", Adjustment{Level: 3, Time: now}, ErrAdjustment, "invalid adjustment: unknown level"},
		{
			"nan",
			Adjustment{Policy: Policy{Soft: math.NaN()}, Time: now},
			ErrAdjustment,
			"invalid adjustment: policy: soft: scale NaN must be in [0, 1]",
		},
		{
			"scale",
			Adjustment{Policy: Policy{OK: 1.25}, Time: now},
			ErrAdjustment,
			"invalid adjustment: policy: ok: scale 1.25 must be in [0, 1]",
		},
		{
			"future",
			Adjustment{Level: Hard, Time: now.Add(30*time.Second + 1)},
			ErrFuture,
			"event time in the future: more than 30s ahead",
		},
		{
			"far future",
			Adjustment{Level: Hard, Time: now.AddDate(50_000, 0, 0)},
			ErrFuture,
			"event time in the future: more than 30s ahead",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60})
			before := mustState(t, c)
			tt.a.Provider = "p"
			_, err := c.Apply(tt.a)
			if !errors.Is(err, tt.want) || err.Error() != tt.text {
				t.Errorf("got %v, want %s", err, tt.text)
			}
			if diff := cmp.Diff(before, mustState(t, c)); diff != "" {
				t.Errorf("it changed the state:\n%s", diff)
			}
		})
	}
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60})
	for _, when := range []time.Time{now.AddDate(-2000, 0, 0), now.Add(30 * time.Second)} {
		if r := mustApply(t, c, "a", Soft, when); r.State.Age < 0 {
			t.Errorf("age of an event at %v is %v", when, r.State.Age)
		}
	}
	if _, err := c.SetPolicy("p", Policy{Hard: -1}); err == nil {
		t.Error("set policy takes a negative scale")
	}
}

func TestProviderHasItsOwnFutureSkew(t *testing.T) {
	c, err := NewCoordinator(Config{
		MaxFutureSkew: time.Minute, Clock: newStillClock(),
		Providers: []ProviderConfig{{Name: "common", Rate: 1}, {Name: "own", Rate: 1, MaxFutureSkew: time.Hour}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for provider, skew := range map[string]time.Duration{"common": time.Minute, "own": time.Hour} {
		a := Adjustment{Provider: provider, Level: Soft, Time: epoch.Add(skew + 1)}
		if _, err := c.Apply(a); !errors.Is(err, ErrFuture) {
			t.Errorf("%s: beyond its skew: %v", provider, err)
		}
		a.Time = epoch.Add(skew)
		if _, err := c.Apply(a); err != nil {
			t.Errorf("%s: at its skew: %v", provider, err)
		}
	}
}

// The reference's mapping: 60 tokens/s at ok, half at soft, and at hard what
// MinRate leaves (docs/contract.md §4).
func TestEffectiveRate(t *testing.T) {
	tests := []struct {
		name    string
		rate    float64
		minRate float64
		want    [levels]float64
	}{
		{"reference", 60, 1, [...]float64{60, 30, 1}},
		{"pause", 60, 0, [...]float64{60, 30, 0}},
		{"not truncated", 7, 0.25, [...]float64{7, 3.5, 0.25}},
		{"floor above soft", 10, 8, [...]float64{10, 8, 8}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: tt.rate, MinRate: tt.minRate})
			for i, l := range []Level{OK, Soft, Hard, Soft, OK} {
				s := mustApply(t, c, "a", l, at(i)).State
				if s.Level != l || s.Scale != DefaultPolicy().Scale(l) || s.EffectiveRate != tt.want[l] {
					t.Errorf("%v: level %v, scale %v, rate %v", l, s.Level, s.Scale, s.EffectiveRate)
				}
			}
		})
	}
}

func TestPauseClearsTheBurst(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60, Burst: 60})
	try := func(n int, want bool, retry time.Duration) {
		t.Helper()
		ok, after, err := c.TryAcquire("p", n)
		if ok != want || after != retry || err != nil {
			t.Fatalf("try %d: %v, %v, %v, want %v, %v", n, ok, after, err, want, retry)
		}
	}
	try(1, true, 0)
	mustApply(t, c, "a", Hard, at(1))
	try(1, false, Never)
	clock.move(time.Hour)
	try(1, false, Never)
	mustApply(t, c, "a", OK, at(2))
	try(60, false, time.Second)
	clock.move(time.Second)
	try(60, true, 0)
}

func TestFloorKeepsTheBurst(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60, Burst: 60, MinRate: 1})
	mustApply(t, c, "a", Hard, at(1))
	if ok, _, err := c.TryAcquire("p", 60); !ok || err != nil {
		t.Errorf("the stored burst is gone: %v, %v", ok, err)
	}
	if ok, after, err := c.TryAcquire("p", 3); ok || after != 3*time.Second || err != nil {
		t.Errorf("then: %v, %v, %v", ok, after, err)
	}
}

func TestSetPolicyEvaluatesHeldLevels(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60})
	mustApply(t, c, "a", Soft, epoch)
	clock.move(10 * time.Second)
	policy := Policy{OK: 1, Soft: 0.25, Hard: 0.125}
	set := func(p Policy, changed bool) {
		t.Helper()
		r, err := c.SetPolicy("p", p)
		if err != nil || r.Changed != changed || r.State.EffectiveRate != 60*p.Soft {
			t.Fatalf("set policy: %+v, %v", r, err)
		}
	}
	set(policy, true)
	set(policy, false)
	// An event from before the change brings its level, not the old policy.
	if s := mustApply(t, c, "b", Hard, at(5)).State; s.Scale != policy.Hard {
		t.Errorf("an older event's policy counts: scale %v", s.Scale)
	}
	if s := mustApply(t, c, "b", OK, at(11)).State; s.Policy != DefaultPolicy() || s.Scale != 0.5 {
		t.Errorf("a newer event's policy does not count: %+v", s.Policy)
	}
}

func TestCoordinatorsListsHeldLevels(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{
		Rate: 60, OnSilence: Silence{After: time.Minute, Step: true},
	})
	for i, l := range []Level{OK, Soft, Hard, Hard} {
		mustApply(t, c, string(rune('a'+i)), l, at(10*i-60))
	}
	clock.move(30 * time.Second)
	got := outcomeOf(t, c)
	want := outcome{
		State: State{
			Provider: "p", Level: Soft, Since: at(-40), Age: 70 * time.Second, Policy: DefaultPolicy(),
			Scale: 0.5, EffectiveRate: 30, Coordinators: 4,
		},
		Coordinators: []CoordinatorState{
			{Coordinator: "c", Level: Soft, Signalled: Hard, Time: at(-40), Age: 70 * time.Second},
			{Coordinator: "d", Level: Soft, Signalled: Hard, Time: at(-30), Age: 60 * time.Second},
			{Coordinator: "a", Level: OK, Signalled: OK, Time: at(-60), Age: 90 * time.Second},
			{Coordinator: "b", Level: OK, Signalled: Soft, Time: at(-50), Age: 80 * time.Second},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Silence wakes those who wait, with nobody else calling.
func TestSilenceWakesWaiters(t *testing.T) {
	tests := []struct {
		name    string
		silence Silence
		want    time.Duration // when one token comes at 1 token/s
	}{
		{"at once", Silence{After: time.Minute}, time.Minute + time.Second},
		{"in steps", Silence{After: time.Minute, Step: true}, time.Minute + 2*time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newTestCoordinator(t, nil, ProviderConfig{Rate: 1, OnSilence: tt.silence})
				start := time.Now()
				mustApply(t, c, "a", Hard, start)
				if err := c.Acquire(t.Context(), "p", 1); err != nil {
					t.Fatal(err)
				}
				if got := time.Since(start); got != tt.want {
					t.Errorf("granted after %v, want %v", got, tt.want)
				}
			})
		})
	}
}

func TestAcquireAllocatesNothing(t *testing.T) {
	c := newTestCoordinator(t, nil, ProviderConfig{Rate: 1e9, Burst: 1e9})
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() {
		if err := c.Acquire(ctx, "p", 1); err != nil {
			t.Fatal(err)
		}
		if ok, _, err := c.TryAcquire("p", 1); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
