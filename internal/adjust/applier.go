package adjust

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Applier is the rate coordinator as the stages, the metrics and the admin
// listener see it.
type Applier struct {
	coordinator *rate.Coordinator
	log         *slog.Logger
	lines       *lineBudget
}

var _ stages.RateApplier = (*Applier)(nil)

// New returns an Applier of the declared providers, nil when there is none. Each
// adjustment is logged at info level, as far as a reader could follow. The error
// names every provider that is declared wrongly.
func New(providers []flows.Provider, log *slog.Logger) (*Applier, error) {
	return NewOn(nil, providers, log)
}

// NewOn is New on a clock of the caller's; nil is the system's.
func NewOn(clock rate.Clock, providers []flows.Provider, log *slog.Logger) (*Applier, error) {
	if len(providers) == 0 {
		return nil, nil
	}
	cfg, now := rate.Config{Clock: clock}, time.Now
	if clock != nil {
		now = clock.Now
	}
	for _, p := range providers {
		cfg.Providers = append(cfg.Providers, providerConfig(p))
	}
	c, err := rate.NewCoordinator(cfg)
	if err != nil {
		return nil, err
	}
	return &Applier{coordinator: c, log: log, lines: newLineBudget(now)}, nil
}

// Coordinator returns the coordinator behind it, for those who are paced by it.
func (a *Applier) Coordinator() *rate.Coordinator { return a.coordinator }

// providerConfig is a declared provider as the coordinator knows it.
func providerConfig(p flows.Provider) rate.ProviderConfig {
	config := rate.ProviderConfig{
		Name: p.Name, Rate: p.Rate, Burst: p.Burst, MinRate: p.MinRate, RampUp: p.RampUp,
		Breaker: rate.Breaker(p.Breaker), Cooldown: p.Cooldown, OnSilence: rate.Silence(p.OnSilence),
		MaxCoordinators: p.MaxCoordinators, MaxFutureSkew: p.MaxFutureSkew,
	}
	if p.AggregateLast {
		config.Aggregate = rate.AggregateLast
	}
	return config
}

// Apply implements stages.RateApplier.
func (a *Applier) Apply(ctx context.Context, adj stages.Adjustment) (stages.RateState, error) {
	result, err := a.coordinator.Apply(rate.Adjustment{
		Provider: adj.Provider, Coordinator: adj.Coordinator, Level: rate.Level(adj.Level),
		Policy: rate.Policy(adj.Policy), Time: event.At(adj.Time),
	})
	switch {
	case errors.Is(err, rate.ErrFuture):
		return stages.RateState{}, stages.PermanentKind(stages.KindSkew, err)
	case err != nil:
		return stages.RateState{}, stages.Permanent(err)
	}
	s := result.State
	if skipped, ok := a.lines.take(); ok {
		a.logApplied(ctx, adj, result, skipped)
	}
	return stages.RateState{Scale: s.Scale, Level: event.Level(s.Level), Stale: result.Stale}, nil
}

// logApplied tells of one adjustment: what was asked, and what stands now.
func (a *Applier) logApplied(ctx context.Context, adj stages.Adjustment, result rate.Result, skipped int) {
	attrs := []any{
		"provider", adj.Provider, "asked", adj.Level.String(), "level", result.State.Level.String(),
		"scale", result.State.Scale, "tokens_per_second", result.State.EffectiveRate,
	}
	if d := stages.From(ctx); d != nil {
		attrs = append(attrs, "event_id", d.Event.ID)
	}
	if result.Stale {
		attrs = append(attrs, "stale", true)
	}
	if skipped > 0 {
		attrs = append(attrs, "lines_skipped", skipped)
	}
	a.log.Info("rate adjustment applied", attrs...)
}

// RateState implements stages.RateApplier.
func (a *Applier) RateState(provider string) (stages.RateState, error) {
	s, err := a.coordinator.State(provider)
	if err != nil {
		return stages.RateState{}, stages.Permanent(err)
	}
	return stages.RateState{Scale: s.Scale, Level: event.Level(s.Level)}, nil
}
