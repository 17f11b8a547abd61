package rate

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRampUp(t *testing.T) {
	type step struct {
		pass  time.Duration
		level Level
		apply bool
		rate  float64 // effective
		to    float64 // ramp target
	}
	tests := []struct {
		name   string
		config ProviderConfig
		steps  []step
	}{
		{"at once by default", ProviderConfig{Rate: 100}, []step{
			{level: Hard, apply: true, rate: 0}, {level: OK, apply: true, rate: 100},
		}},
		{"up over time, down at once", ProviderConfig{Rate: 100, RampUp: 10 * time.Second}, []step{
			{rate: 100},
			{level: Hard, apply: true, rate: 0},
			{level: OK, apply: true, rate: 0, to: 100},
			{pass: 99 * time.Millisecond, rate: 0, to: 100},
			{pass: time.Millisecond, rate: 1, to: 100},
			{pass: 4900 * time.Millisecond, rate: 50, to: 100},
			{pass: 4900 * time.Millisecond, rate: 99, to: 100},
			{pass: 100 * time.Millisecond, rate: 100},
			{pass: time.Hour, level: Soft, apply: true, rate: 50},
		}},
		{"from where it is", ProviderConfig{Rate: 100, RampUp: 10 * time.Second}, []step{
			{level: Hard, apply: true, rate: 0},
			{level: OK, apply: true, to: 100},
			{pass: 2 * time.Second, rate: 20, to: 100},
			{level: Soft, apply: true, rate: 20, to: 50}, // in the full time again
			{pass: 5 * time.Second, rate: 35, to: 50},
			{level: Soft, apply: true, rate: 35, to: 50}, // no news, so no new start
			{pass: 5 * time.Second, rate: 50},
		}},
		{"lowered on the way", ProviderConfig{Rate: 100, MinRate: 10, RampUp: 10 * time.Second}, []step{
			{level: Hard, apply: true, rate: 10},
			{level: OK, apply: true, rate: 10, to: 100},
			{pass: 8 * time.Second, rate: 82, to: 100},
			{level: Soft, apply: true, rate: 50},
			{pass: time.Hour, rate: 50},
		}},
		{"a step is rounded up", ProviderConfig{Rate: 100, RampUp: time.Second + 1}, []step{
			{level: Hard, apply: true, rate: 0},
			{level: OK, apply: true, to: 100},
			{pass: time.Second + 99, rate: 99, to: 100},
			{pass: 1, rate: 100},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock := newStillClock()
			c := newTestCoordinator(t, clock, tt.config)
			for i, s := range tt.steps {
				clock.move(s.pass)
				if s.apply {
					mustApply(t, c, "a", s.level, at(i))
				}
				if got := mustState(t, c); got.EffectiveRate != s.rate || got.RampTarget != s.to {
					t.Errorf("step %d: rate %v to %v, want %v to %v", i, got.EffectiveRate, got.RampTarget, s.rate, s.to)
				}
			}
		})
	}
}

// What a ramp yields is what lies under its steps, whether the coordinator looks
// at each or at none of them.
func TestRampYield(t *testing.T) {
	// Steps of 100 ms at 0, 1, … 99 tokens/s yield 495 tokens, then 100 tokens/s.
	const want, end = 495 + 100, 11 * time.Second
	for _, look := range []time.Duration{end, time.Second, 7 * time.Millisecond} {
		clock := newStillClock()
		c := newTestCoordinator(t, clock, ProviderConfig{Rate: 100, Burst: 1000, RampUp: 10 * time.Second})
		mustApply(t, c, "a", Hard, at(0))
		mustApply(t, c, "a", OK, at(1))
		for passed := time.Duration(0); passed < end; {
			d := min(look, end-passed)
			clock.move(d)
			passed += d
			mustState(t, c)
		}
		if got := mustState(t, c).Tokens; got != want {
			t.Errorf("looking every %v: %v tokens, want %v", look, got, want)
		}
	}
}

func TestRetryAfterCountsTheRamp(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{Rate: 100, RampUp: 10 * time.Second})
	mustApply(t, c, "a", Hard, at(0))
	mustApply(t, c, "a", OK, at(1))
	for _, tt := range []struct {
		n    int
		want time.Duration
	}{
		// After k steps of 100 ms there are k(k-1)/20 tokens.
		{1, 500 * time.Millisecond},
		{3, 825 * time.Millisecond}, // 2.8 after 8, then 8 tokens/s
		{100, 4522222223},           // 99 after 45, then 45 tokens/s
	} {
		if ok, after, err := c.TryAcquire("p", tt.n); ok || after != tt.want || err != nil {
			t.Errorf("%d: %v, %v, %v, want %v", tt.n, ok, after, err, tt.want)
		}
	}
}

// A waiter is served during the ramp and the ramp's steps reach Watch, with
// nobody else calling.
func TestRampWakesWaitersAndWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCoordinator(t, nil, ProviderConfig{Rate: 100, RampUp: 10 * time.Second, Breaker: Breaker{Threshold: 1}})
		mustApply(t, c, "a", Hard, time.Now())
		mustApply(t, c, "a", OK, time.Now().Add(1))
		start := time.Now()
		if err := c.Acquire(t.Context(), "p", 1); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(start); got != 500*time.Millisecond {
			t.Errorf("one token came after %v", got)
		}
		var got []float64
		for s := range c.Watch(t.Context()) {
			if got = append(got, s.EffectiveRate); s.RampTarget == 0 {
				break
			}
		}
		var want []float64
		for r := 5.0; r <= 100; r++ {
			want = append(want, r)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("rates (-want +got):\n%s", diff)
		}
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("the ramp took %v", got)
		}

		// Breaker and cooldown reach it too.
		var states []string
		mustRecord(t, c, false)
		for s := range c.Watch(t.Context()) {
			states = append(states, s.Breaker.State.String())
			switch len(states) {
			case 2:
				mustCool(t, c, GlobalScope, time.Second)
				mustRecord(t, c, true)
			case 3:
				if len(s.Cooldowns) != 1 {
					t.Errorf("cooldowns %v", s.Cooldowns)
				}
			case 4:
				if len(s.Cooldowns) != 0 {
					t.Errorf("cooldowns %v", s.Cooldowns)
				}
			}
			if len(states) == 4 {
				break
			}
		}
		if diff := cmp.Diff([]string{"open", "half_open", "closed", "closed"}, states); diff != "" {
			t.Errorf("breaker (-want +got):\n%s", diff)
		}
	})
}
