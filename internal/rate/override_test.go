package rate

import (
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustOverride(t testing.TB, c *Coordinator, scale float64, ttl time.Duration) Result {
	t.Helper()
	r, err := c.Override("p", scale, ttl, "maintenance")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOverride(t *testing.T) {
	const set, end = 1, 2
	type step struct {
		pass  time.Duration
		do    int
		scale float64
		ttl   time.Duration
		level Level // applied when do is 0 and pass is
		want  *Override
		rate  float64
	}
	over := func(scale float64, remaining time.Duration) *Override {
		return &Override{Scale: scale, Remaining: remaining, Reason: "maintenance"}
	}
	tests := []struct {
		name   string
		config ProviderConfig
		steps  []step
	}{
		{"ends by itself", ProviderConfig{Rate: 100}, []step{
			{do: set, scale: 0.25, ttl: time.Minute, want: over(0.25, time.Minute), rate: 25},
			{pass: time.Minute - 1, want: over(0.25, 1), rate: 25},
			{pass: 1, rate: 100},
		}},
		{"ended by hand", ProviderConfig{Rate: 100}, []step{
			{do: set, scale: 0, ttl: time.Minute, want: over(0, time.Minute), rate: 0},
			{do: end, rate: 100},
			{pass: time.Hour, rate: 100},
		}},
		{"in place of levels, which go on", ProviderConfig{Rate: 100}, []step{
			{level: Hard, rate: 0},
			{do: set, scale: 1, ttl: time.Minute, want: over(1, time.Minute), rate: 100},
			{level: Soft, want: over(1, time.Minute), rate: 100},
			{pass: time.Minute, rate: 50},
		}},
		{"the newest counts", ProviderConfig{Rate: 100}, []step{
			{do: set, scale: 0.5, ttl: time.Hour, want: over(0.5, time.Hour), rate: 50},
			{do: set, scale: 0.75, ttl: time.Second, want: over(0.75, time.Second), rate: 75},
			{pass: time.Second, rate: 100},
		}},
		{"not below the floor", ProviderConfig{Rate: 100, MinRate: 10}, []step{
			{do: set, scale: 0, ttl: time.Minute, want: over(0, time.Minute), rate: 10},
		}},
		{"up by the ramp, down at once", ProviderConfig{Rate: 100, RampUp: 10 * time.Second}, []step{
			{do: set, scale: 0.5, ttl: time.Minute, want: over(0.5, time.Minute), rate: 50},
			{pass: time.Minute, rate: 50},
			{pass: 5 * time.Second, rate: 75},
			{pass: 5 * time.Second, rate: 100},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock := newStillClock()
			c := newTestCoordinator(t, clock, tt.config)
			for i, s := range tt.steps {
				clock.move(s.pass)
				switch {
				case s.do == set:
					mustOverride(t, c, s.scale, s.ttl)
				case s.do == end:
					if ended, err := c.EndOverride("p"); !ended || err != nil {
						t.Errorf("step %d: end: %v, %v", i, ended, err)
					}
				case s.pass == 0:
					mustApply(t, c, "a", s.level, at(i))
				}
				got := mustState(t, c)
				if diff := cmp.Diff(s.want, got.Override); diff != "" || got.EffectiveRate != s.rate {
					t.Errorf("step %d: rate %v, want %v; override (-want +got):\n%s", i, got.EffectiveRate, s.rate, diff)
				}
			}
		})
	}
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 1})
	if ended, err := c.EndOverride("p"); ended || err != nil {
		t.Errorf("end of none: %v, %v", ended, err)
	}
}

// What an override yields ends with it, even when nobody looks until later.
func TestOverrideYieldsNothingAfterItsEnd(t *testing.T) {
	for _, look := range []time.Duration{10 * time.Second, time.Second, 13 * time.Millisecond} {
		clock := newStillClock()
		c := newTestCoordinator(t, clock, ProviderConfig{Rate: 100, Burst: 1000})
		mustApply(t, c, "a", Hard, at(0))
		mustOverride(t, c, 0.5, 2*time.Second)
		for passed := time.Duration(0); passed < 10*time.Second; {
			d := min(look, 10*time.Second-passed)
			clock.move(d)
			passed += d
			mustState(t, c)
		}
		if got := mustState(t, c); got.Tokens != 0 || got.EffectiveRate != 0 {
			t.Errorf("looking every %v: %v tokens at %v tokens/s left", look, got.Tokens, got.EffectiveRate)
		}
		mustApply(t, c, "a", OK, at(1))
		mustOverride(t, c, 0, 2*time.Second)
		clock.move(5 * time.Second)
		if got := mustState(t, c).Tokens; got != 300 {
			t.Errorf("looking every %v: %v tokens 3 s after a pause, want 300", look, got)
		}
	}
}

// Its end wakes those who wait and reaches Watch, with nobody else calling.
func TestOverrideWakesWaitersAndWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCoordinator(t, nil, ProviderConfig{Rate: 1, Burst: 1})
		mustOverride(t, c, 0, time.Minute)
		start := time.Now()
		if err := c.Acquire(t.Context(), "p", 1); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got != time.Minute+time.Second {
			t.Errorf("one token came after %v", got)
		}
		mustOverride(t, c, 1, time.Minute) // the scale is what it was
		var got []bool
		for s := range c.Watch(t.Context()) {
			if got = append(got, s.Override != nil); len(got) == 2 {
				break
			}
		}
		if diff := cmp.Diff([]bool{true, false}, got); diff != "" {
			t.Errorf("overrides (-want +got):\n%s", diff)
		}
	})
}

func TestInvalidOverride(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60})
	before := mustState(t, c)
	for _, tt := range []struct {
		scale  float64
		ttl    time.Duration
		reason string
		want   string
	}{
		{math.NaN(), time.Minute, "x", "scale NaN must be in [0, 1]"},
		{math.Inf(1), time.Minute, "x", "scale +Inf must be in [0, 1]"},
		{-0.1, time.Minute, "x", "scale -0.1 must be in [0, 1]"},
		{1.1, time.Minute, "x", "scale 1.1 must be in [0, 1]"},
		{1, 0, "x", "ttl 0s must be above 0"},
		{1, -1, "x", "ttl -1ns must be above 0"},
		{1, MaxOverride + 1, "x", "ttl 24h0m0.000000001s must be at most 24h0m0s"},
		{1, time.Minute, " ", "reason must not be empty"},
		{1, time.Minute, strings.Repeat("x", maxReason+1), "reason must have at most 256 bytes"},
		{1, time.Minute, "a\nb", "reason must be plain text of one line"},
		{1, time.Minute, "\xff", "reason must be plain text of one line"},
	} {
		_, err := c.Override("p", tt.scale, tt.ttl, tt.reason)
		if !errors.Is(err, ErrInvalidOverride) || err.Error() != "invalid override: "+tt.want {
			t.Errorf("%v for %v: %v, want %s", tt.scale, tt.ttl, err, tt.want)
		}
	}
	if diff := cmp.Diff(before, mustState(t, c)); diff != "" {
		t.Errorf("they changed the state:\n%s", diff)
	}
}

func TestRetryAfter(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{Rate: 10, Burst: 10, Breaker: Breaker{Threshold: 1}})
	expect := func(want time.Duration, reason error) {
		t.Helper()
		if got, err := c.RetryAfter("p", 5); got != want || !errors.Is(err, reason) {
			t.Errorf("%v, %v, want %v, %v", got, err, want, reason)
		}
	}
	expect(0, nil)
	for range 8 {
		wantGranted(t, c)
	}
	before := mustState(t, c)
	expect(300*time.Millisecond, nil)
	if diff := cmp.Diff(before, mustState(t, c)); diff != "" {
		t.Errorf("asking changed the state:\n%s", diff)
	}
	if _, err := c.RetryAfter("p", 11); !errors.Is(err, ErrTokens) {
		t.Errorf("more than the burst: %v", err)
	}
	mustOverride(t, c, 0, time.Second)
	expect(Never, nil)
	mustRecord(t, c, false)
	expect(time.Minute, ErrBreakerOpen)
}

func TestEndCooldown(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60})
	end := func(scope string, want bool) {
		t.Helper()
		if ended, err := c.EndCooldown("p", scope); ended != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", scope, ended, err, want)
		}
	}
	mustCool(t, c, GlobalScope, time.Hour)
	mustCool(t, c, "history", time.Hour)
	mustCool(t, c, "orders", time.Second)
	wantRefused(t, c, ErrCooldown, time.Hour)
	end(GlobalScope, true)
	wantGranted(t, c)
	clock.move(time.Minute)
	end(GlobalScope, false)
	end("orders", false)
	end("history", true)
	end("history", false)
	if s := mustState(t, c); s.Cooldowns != nil {
		t.Errorf("cooldowns %v are left", s.Cooldowns)
	}
	mustCool(t, c, GlobalScope, time.Second)
	wantRefused(t, c, ErrCooldown, time.Second)
}
