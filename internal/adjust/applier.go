package adjust

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
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

	share *share // nil: the levels are not shared
	keep  *keep  // nil: nor kept in a file

	policies  map[string]stages.Policy // as the file gave them last
	followers followers
}

var (
	_ stages.RateApplier   = (*Applier)(nil)
	_ stages.RateFollowing = (*Applier)(nil)
)

// New returns an Applier of the declared providers, of which there may be none. Each
// adjustment is logged at info level, as far as a reader could follow. The error
// names every provider that is declared wrongly.
//
// With WithRegisters or WithFile it has to be started, and closed.
func New(providers []flows.Provider, log *slog.Logger, options ...Option) (*Applier, error) {
	var opts settings
	for _, o := range options {
		o(&opts)
	}
	cfg, now := rate.Config{Clock: opts.clock}, time.Now
	if opts.clock != nil {
		now = opts.clock.Now
	}
	cfg.Providers = providerConfigs(providers, opts.policies, nil)
	if opts.registers != nil {
		cfg.Folding = rate.Folding{Older: backlogAge, Within: foldWithin}
	}
	c, err := rate.NewCoordinator(cfg)
	if err != nil {
		return nil, err
	}
	a := &Applier{coordinator: c, log: log, lines: newLineBudget(now), policies: maps.Clone(opts.policies)}
	switch {
	case opts.registers != nil:
		a.share = newShare(c, names(providers), opts.key, opts.registers, opts.patience, log, &a.followers)
	case opts.file != "":
		a.keep = newKeep(c, names(providers), opts.file, log)
	}
	return a, nil
}

func names(providers []flows.Provider) []string {
	list := make([]string, len(providers))
	for i, p := range providers {
		list[i] = p.Name
	}
	return list
}

// providerConfigs are the declared providers as the coordinator knows them, each with
// its policy, unless that is the one it had before.
func providerConfigs(providers []flows.Provider, policies, before map[string]stages.Policy) []rate.ProviderConfig {
	list := make([]rate.ProviderConfig, len(providers))
	for i, p := range providers {
		list[i] = providerConfig(p)
		policy, ok := policies[p.Name]
		if old, had := before[p.Name]; ok && (!had || old != policy) {
			list[i].Policy = (*rate.Policy)(&policy)
		}
	}
	return list
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
	if a.share != nil {
		if err := a.share.wait(ctx); err != nil {
			return stages.RateState{}, fmt.Errorf("wait for the levels to be restored: %w", err)
		}
	}
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
	if a.log.Enabled(ctx, slog.LevelInfo) {
		if skipped, ok := a.lines.take(); ok {
			a.logApplied(ctx, adj, result, skipped)
		}
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
