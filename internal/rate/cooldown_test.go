package rate

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustCool(t testing.TB, c *Coordinator, scope string, d time.Duration) {
	t.Helper()
	if err := c.TriggerCooldown("p", scope, d); err != nil {
		t.Fatal(err)
	}
}

func TestGlobalCooldown(t *testing.T) {
	tests := []struct {
		name   string
		config time.Duration
		begin  []time.Duration
		want   time.Duration
	}{
		{"given", time.Hour, []time.Duration{time.Second}, time.Second},
		{"from the configuration", time.Hour, []time.Duration{0}, time.Hour},
		{"default", 0, []time.Duration{0}, 600 * time.Second},
		{"the later end counts", 0, []time.Duration{time.Second, time.Minute, time.Second}, time.Minute},
		{"as long as can be", 0, []time.Duration{Never}, maxAlarm},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock := newStillClock()
			c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60, Cooldown: tt.config})
			for _, d := range tt.begin {
				mustCool(t, c, GlobalScope, d)
			}
			wantRefused(t, c, ErrCooldown, tt.want)
			clock.move(tt.want - 1)
			wantRefused(t, c, ErrCooldown, 1)
			clock.move(1)
			wantGranted(t, c)
			if s := mustState(t, c); s.Cooldowns != nil || s.Granted != 1 || s.Denied != 4 {
				t.Errorf("state afterwards: %+v", s)
			}
		})
	}
}

func TestScopedCooldowns(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60})
	long := strings.Repeat("x", maxName+1)
	mustCool(t, c, "orders", time.Minute)
	mustCool(t, c, GlobalScope, time.Second)
	mustCool(t, c, "history", 0)
	mustCool(t, c, long, time.Minute)
	clock.move(time.Second / 2)
	want := []Cooldown{
		{GlobalScope, time.Second / 2},
		{"history", DefaultCooldown - time.Second/2},
		{"orders", time.Minute - time.Second/2},
		{nameOf(long), time.Minute - time.Second/2},
	}
	if diff := cmp.Diff(want, mustState(t, c).Cooldowns); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	clock.move(time.Second / 2)
	wantGranted(t, c) // the other scopes refuse nothing
	clock.move(time.Minute)
	if diff := cmp.Diff([]Cooldown{{"history", DefaultCooldown - 61*time.Second}}, mustState(t, c).Cooldowns); diff != "" {
		t.Errorf("a minute later (-want +got):\n%s", diff)
	}
}

func TestCooldownScopesAreBounded(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60})
	for i := range maxScopes {
		mustCool(t, c, fmt.Sprintf("scope-%d", i), time.Duration(1+i)*time.Second)
	}
	err := c.TriggerCooldown("p", "more", 0)
	if !errors.Is(err, ErrInvalidCooldown) || err.Error() != "invalid cooldown: there are 100 scopes already" {
		t.Errorf("one more: %v", err)
	}
	mustCool(t, c, "scope-7", time.Hour)     // known
	mustCool(t, c, GlobalScope, time.Second) // there is always a place for it
	clock.move(time.Second)
	mustCool(t, c, "more", time.Hour) // scope-0 has ended
	if n := len(mustState(t, c).Cooldowns); n != maxScopes {
		t.Errorf("%d cooldowns, want %d", n, maxScopes)
	}
}

func TestInvalidCooldown(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60})
	for _, tt := range []struct {
		scope string
		d     time.Duration
		want  string
	}{
		{"", time.Second, "invalid cooldown: scope must not be empty"},
		{GlobalScope, -time.Second, "invalid cooldown: -1s must not be negative"},
	} {
		if err := c.TriggerCooldown("p", tt.scope, tt.d); !errors.Is(err, ErrInvalidCooldown) || err.Error() != tt.want {
			t.Errorf("%q for %v: %v, want %s", tt.scope, tt.d, err, tt.want)
		}
	}
	if s := mustState(t, c); s.Cooldowns != nil {
		t.Errorf("they left %v", s.Cooldowns)
	}
}

// Of two reasons to refuse a call the longer one is told.
func TestBreakerAndCooldown(t *testing.T) {
	clock := newStillClock()
	c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60, Breaker: Breaker{Threshold: 1}})
	mustCool(t, c, GlobalScope, 10*time.Second)
	mustRecord(t, c, false)
	wantRefused(t, c, ErrBreakerOpen, time.Minute)
	mustCool(t, c, GlobalScope, 2*time.Minute)
	wantRefused(t, c, ErrCooldown, 2*time.Minute)
	clock.move(90 * time.Second) // half open, but still cooling down: nobody is let through
	wantRefused(t, c, ErrCooldown, 30*time.Second)
	clock.move(30 * time.Second)
	wantGranted(t, c)
	wantRefused(t, c, ErrBreakerOpen, time.Minute)
}
