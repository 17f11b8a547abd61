package adjust

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
)

func TestUnknownProviderIsNamed(t *testing.T) {
	a, err := New([]flows.Provider{{Name: "ibkr", Rate: 60}, {Name: "iex", Rate: 1}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(provider string) error{
		"status":       func(p string) error { _, err := a.ProviderStatus(p); return err },
		"state":        func(p string) error { _, err := a.State(p); return err },
		"acquire":      func(p string) error { return a.Acquire(t.Context(), p, 1) },
		"try acquire":  func(p string) error { _, _, err := a.TryAcquire(p, 1); return err },
		"retry after":  func(p string) error { _, err := a.RetryAfter(p, 1); return err },
		"success":      a.RecordSuccess,
		"failure":      a.RecordFailure,
		"cooldown":     func(p string) error { return a.TriggerCooldown(p, "history", 0) },
		"end cooldown": func(p string) error { _, err := a.EndCooldown(p, "history"); return err },
		"override":     func(p string) error { return a.Override(p, 1, time.Minute, "x") },
		"end override": func(p string) error { _, err := a.EndOverride(p); return err },
		"forget":       func(p string) error { _, err := a.Forget(p, "a"); return err },
	}
	for name, call := range calls {
		for provider, want := range map[string]string{
			"ibrk":   `unknown provider "ibrk" (did you mean "ibkr"?); known: ibkr, iex`,
			"nobody": `unknown provider "nobody"; known: ibkr, iex`,
		} {
			if err := call(provider); !errors.Is(err, rate.ErrUnknownProvider) || err.Error() != want {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
		if err := call("ibkr"); err != nil {
			t.Errorf("%s of a known provider: %v", name, err)
		}
	}
}

func TestStatusShowsWhatHoldsAProviderBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := New([]flows.Provider{{
			Name: "ibkr", Rate: 60, Burst: 60, MaxCoordinators: 1, Breaker: flows.Breaker{Threshold: 1, OpenFor: time.Minute},
		}}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []string{"a", "b"} {
			if _, err := a.Apply(context.Background(), adjustment(c, event.LevelSoft, time.Now())); err != nil {
				t.Fatal(err)
			}
		}
		for _, err := range []error{
			a.Acquire(t.Context(), "ibkr", 10), a.RecordFailure("ibkr"), a.Override("ibkr", 0.25, time.Minute, "new quota"),
			a.TriggerCooldown("ibkr", "history", time.Hour), a.TriggerCooldown("ibkr", rate.GlobalScope, 2*time.Minute),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		now := time.Now().UTC()
		since := now.Add(-10 * time.Second)
		got, err := a.ProviderStatus("ibkr")
		want := ProviderStatus{
			Provider: "ibkr", Level: "soft", Scale: 0.25, EffectiveRate: 15, Tokens: 60, Granted: 10, Evicted: 1,
			Override: &OverrideStatus{Scale: 0.25, RemainingSeconds: 50, Reason: "new quota"},
			Since:    &since, AgeSeconds: 10, Breaker: BreakerStatus{State: "open", RetryAfterSeconds: 50},
			Cooldowns:    []CooldownStatus{{rate.GlobalScope, 110}, {"history", 3590}},
			Coordinators: []CoordinatorStatus{{Coordinator: "b", Level: "soft", Time: since, AgeSeconds: 10}},
		}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v, status (-want +got):\n%s", err, diff)
		}
		if diff := cmp.Diff([]ProviderStatus{want}, a.Status()); diff != "" {
			t.Errorf("all (-want +got):\n%s", diff)
		}
		gauges := []telemetry.ProviderState{{
			Provider: "ibkr", Scale: 0.25, Level: 1, EffectiveRate: 15, Tokens: 60, Granted: 10, LevelAge: 10, Coordinators: 1,
			Evicted: 1, Breaker: 1, Cooldowns: 2, CooldownLeft: 110, OverrideLeft: 50,
		}}
		if diff := cmp.Diff(gauges, a.Gauges()); diff != "" {
			t.Errorf("gauges (-want +got):\n%s", diff)
		}
		time.Sleep(time.Hour)
		got, err = a.ProviderStatus("ibkr")
		if err != nil || got.Override != nil || len(got.Cooldowns) != 0 || got.Scale != 0.5 || got.Breaker.State != "half_open" {
			t.Errorf("an hour later: %+v, %v", got, err)
		}
	})
}
