package adjust

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/stages"
)

func newApplier(t *testing.T) (*Applier, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	a, err := New([]flows.Provider{{Name: "ibkr", Rate: 60, Burst: 60, MinRate: 1}}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return a, &log
}

func adjustment(coordinator string, level event.Level, at time.Time) stages.Adjustment {
	return stages.Adjustment{
		Provider: "ibkr", Coordinator: coordinator, Level: level,
		Policy: stages.Policy{OK: 1, Soft: 0.5, Hard: 0}, Time: event.Seconds(at),
	}
}

func TestApplyReturnsTheAggregate(t *testing.T) {
	a, log := newApplier(t)
	ctx, now := context.Background(), time.Now()
	for _, step := range []struct {
		adjustment stages.Adjustment
		level      event.Level
		scale      float64
		stale      bool
	}{
		{adjustment("a", event.LevelSoft, now), event.LevelSoft, 0.5, false},
		{adjustment("b", event.LevelHard, now), event.LevelHard, 0, false},
		{adjustment("a", event.LevelOK, now.Add(time.Second)), event.LevelHard, 0, false},
		{adjustment("b", event.LevelOK, now.Add(-time.Second)), event.LevelHard, 0, true},
		{adjustment("b", event.LevelOK, now.Add(time.Second)), event.LevelOK, 1, false},
	} {
		s, err := a.Apply(ctx, step.adjustment)
		if err != nil || s.Level != step.level || s.Scale != step.scale || s.Stale != step.stale {
			t.Errorf("%+v: %+v, %v", step, s, err)
		}
		if again, err := a.RateState("ibkr"); err != nil || again.Level != step.level || again.Scale != step.scale {
			t.Errorf("state %+v, %v", again, err)
		}
	}
	if n := strings.Count(log.String(), "rate adjustment applied"); n != 5 {
		t.Errorf("%d lines for 5 adjustments:\n%s", n, log)
	}
	if g := a.Gauges(); len(g) != 1 || g[0].Provider != "ibkr" || g[0].Scale != 1 || g[0].EffectiveRate != 60 {
		t.Errorf("gauges %+v", g)
	}
}

func TestApplyErrorsArePermanent(t *testing.T) {
	a, _ := newApplier(t)
	unknown := adjustment("a", event.LevelSoft, time.Now())
	unknown.Provider = "nobody"
	for _, tt := range []struct {
		adjustment stages.Adjustment
		kind       string
	}{
		{adjustment("a", event.LevelHard, time.Now().Add(time.Minute)), stages.KindSkew},
		{unknown, stages.KindError},
	} {
		_, err := a.Apply(context.Background(), tt.adjustment)
		if !stages.IsPermanent(err) || stages.ErrorKind(err) != tt.kind {
			t.Errorf("%+v: %v of kind %q, want a permanent %q", tt.adjustment, err, stages.ErrorKind(err), tt.kind)
		}
	}
	if _, err := a.RateState("nobody"); !stages.IsPermanent(err) {
		t.Errorf("state of an unknown provider: %v", err)
	}
}

func TestForget(t *testing.T) {
	a, _ := newApplier(t)
	if _, err := a.Apply(context.Background(), adjustment("a", event.LevelHard, time.Now())); err != nil {
		t.Fatal(err)
	}
	if held, err := a.Forget("ibkr", "a"); !held || err != nil {
		t.Errorf("forget: %v, %v", held, err)
	}
	if s, _ := a.RateState("ibkr"); s.Level != event.LevelOK {
		t.Errorf("level %v after its only coordinator was forgotten", s.Level)
	}
	if held, err := a.Forget("ibkr", "a"); held || err != nil {
		t.Errorf("forget again: %v, %v", held, err)
	}
	if _, err := a.Forget("nobody", "a"); err == nil {
		t.Error("a coordinator of an unknown provider was forgotten")
	}
}

func TestStatusPage(t *testing.T) {
	a, _ := newApplier(t)
	if _, err := a.Apply(context.Background(), adjustment("a", event.LevelSoft, time.Now())); err != nil {
		t.Fatal(err)
	}
	page, err := json.Marshal(a.Status())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"breaker":{"state":"closed","failures":0,"retry_after_seconds":0}`, `"cooldowns":[]`,
		`"provider":"ibkr"`, `"level":"soft"`, `"scale":0.5`, `"effective_rate":30`, `"coordinator":"a"`, `"since":"`,
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("page %s lacks %s", page, want)
		}
	}
}

// TestProviderKeys takes each key of a provider from a file to what it does.
func TestProviderKeys(t *testing.T) {
	const src = `version: 1
providers:
  ibkr:
    rate: 60
    ramp_up: 30s
    breaker: {threshold: 1, open_for: 20s, half_open: 2}
    cooldown: 40s
    aggregate: last
    on_silence: {after: 60s, step: true}
    max_coordinators: 2
    max_future_skew: 10s
flows:
  f: {from: {stream: s}, stages: [x]}
`
	file, diags := flows.Parse("flows.yaml", []byte(src), nil)
	if diags != nil {
		t.Fatal(diags)
	}
	want := rate.ProviderConfig{
		Name: "ibkr", Rate: 60, Burst: 60, MinRate: 1, RampUp: 30 * time.Second,
		Breaker:  rate.Breaker{Threshold: 1, OpenFor: 20 * time.Second, HalfOpen: 2},
		Cooldown: 40 * time.Second, Aggregate: rate.AggregateLast,
		OnSilence:       rate.Silence{After: time.Minute, Step: true},
		MaxCoordinators: 2, MaxFutureSkew: 10 * time.Second,
	}
	if diff := cmp.Diff(want, providerConfig(file.Providers[0])); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	synctest.Test(t, func(t *testing.T) {
		a, err := New(file.Providers, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Apply(t.Context(), adjustment("a", event.LevelHard, time.Now())); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Apply(t.Context(), adjustment("b", event.LevelOK, time.Now().Add(time.Millisecond))); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{
			a.coordinator.RecordFailure("ibkr"),
			a.coordinator.TriggerCooldown("ibkr", rate.GlobalScope, 0),
			a.coordinator.TriggerCooldown("ibkr", "history", time.Minute),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(15 * time.Second)
		page, err := json.Marshal(a.Status())
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{
			`"effective_rate":30.5,"ramp_target":60,`,
			`"breaker":{"state":"open","failures":0,"retry_after_seconds":5}`,
			`"cooldowns":[{"scope":"global","remaining_seconds":25},{"scope":"history","remaining_seconds":45}]`,
		} {
			if !strings.Contains(string(page), want) {
				t.Errorf("page %s lacks %s", page, want)
			}
		}
	})
}

func TestNewRefusesABadProvider(t *testing.T) {
	if _, err := New([]flows.Provider{{Name: "ibkr", Rate: -1}}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a negative rate was accepted")
	}
	a, err := New(nil, slog.New(slog.DiscardHandler))
	if err != nil || len(a.Status()) != 0 {
		t.Errorf("no providers: %v", err)
	}
}

func TestLineBudget(t *testing.T) {
	now := time.Unix(0, 0)
	b := newLineBudget(func() time.Time { return now })
	written := 0
	for range linesBurst + 7 {
		if _, ok := b.take(); ok {
			written++
		}
	}
	if written != linesBurst {
		t.Errorf("%d lines at once, want %d", written, linesBurst)
	}
	now = now.Add(time.Second)
	if skipped, ok := b.take(); !ok || skipped != 7 {
		t.Errorf("a second later: %v with %d skipped, want 7", ok, skipped)
	}
}

// stopped is a clock that stands still.
type stopped struct{ at time.Time }

func (c stopped) Now() time.Time                             { return c.at }
func (c stopped) AfterFunc(time.Duration, func()) rate.Timer { return c }
func (c stopped) Reset(time.Duration) bool                   { return false }
func (c stopped) Stop() bool                                 { return false }

func TestApplierOnAClockOfTheCallers(t *testing.T) {
	clock := stopped{time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)}
	a, err := New([]flows.Provider{{Name: "ibkr", Rate: 60, Burst: 60}}, slog.New(slog.DiscardHandler), WithClock(clock))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Apply(t.Context(), adjustment("a", event.LevelHard, clock.at)); err != nil {
		t.Errorf("an event of the clock's present: %v", err)
	}
	if _, err := a.Apply(t.Context(), adjustment("a", event.LevelOK, clock.at.Add(time.Minute))); stages.ErrorKind(err) != stages.KindSkew {
		t.Errorf("an event of the clock's future: %v", err)
	}
	if s, err := a.Coordinator().State("ibkr"); err != nil || s.Level != rate.Hard {
		t.Errorf("state %+v, %v", s, err)
	}
}
