package app

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// codeRatesNotShared is the code of the warning that the processes of a group would
// come to different rates.
const codeRatesNotShared = "rates-not-shared"

const notShared = "each process of a group handles a part of the events, so their rates would differ: set rates.share: true, " +
	"or run one process only"

// unshared reports whether replicas of the file's flows would diverge.
func unshared(plan *router.Plan) bool {
	return sharing(plan) != nil && !plan.File.Rates.Share && len(plan.File.Providers) > 0
}

// sharing is the bus over which processes share rate levels: that which the first flow
// with a rate-apply on Redis reads from; without any rate-apply the default bus, when
// that is on Redis and in use. It is nil where levels come from nowhere that other
// processes read: a Redis that others use is then no reason to wait for it.
func sharing(plan *router.Plan) *flows.Bus {
	applied := false
	for _, p := range plan.Flows {
		if p.Disabled != "" || !adjustsRates(p) {
			continue
		}
		applied = true
		if b := plan.File.BusNamed(p.Bus); b.Backend == backendRedis {
			return b
		}
	}
	for _, b := range plan.File.UsedBuses() {
		if !applied && b.Name == flows.DefaultBus && b.Backend == backendRedis {
			return b
		}
	}
	return nil
}

// adjustsRates reports whether a flow has a rate-apply.
func adjustsRates(p router.FlowPlan) bool {
	return slices.ContainsFunc(p.Stages, func(s stages.Planned) bool { return s.Kind == "rate-apply" })
}

// warnRates warns of replicas that would diverge.
func warnRates(plan *router.Plan, d *flows.Diagnostics) {
	if unshared(plan) {
		d.Warnf(plan.File.Rates.Pos, codeRatesNotShared, "rates: share is off on the redis backend: %s", notShared)
	}
}

// ratesKey is the hash of a provider's levels: they belong to the namespace and the
// provider, whatever flows and groups feed it.
func ratesKey(b *flows.Bus) func(provider string) string {
	return func(provider string) string { return b.Namespace + ":pulseflow:rates:" + provider }
}

// newRates makes the rate coordinator of a plan.
func newRates(plan *router.Plan, all buses, s *service) (*adjust.Applier, error) {
	file := plan.File
	options := []adjust.Option{adjust.WithPolicies(policies(plan))}
	if b := sharing(plan); b != nil && file.Rates.Share {
		options = append(options, adjust.WithRegisters(all.of(b.Name).registers(), ratesKey(b), file.Rates.RestoreTimeout))
	}
	if path := file.Rates.File; path != "" {
		if !filepath.IsAbs(path) {
			path = filepath.Join(file.Dir, path)
		}
		options = append(options, adjust.WithFile(path))
	}
	a, err := adjust.New(file.Providers, s.log, options...)
	if err != nil || !a.Keeps() {
		return a, err
	}
	err = telemetry.RegisterLevelsKept(s.metrics, func() bool { reason, _ := a.Fault(); return reason == "" })
	return a, err
}

// policies are those of the flows that feed each provider, of several the first's.
func policies(plan *router.Plan) map[string]stages.Policy {
	of := make(map[string]stages.Policy)
	for _, p := range plan.Flows {
		for _, st := range p.Stages {
			h, ok := st.Config.(*stages.HandleConfig)
			if !ok || !h.NeedsProviders() || p.Disabled != "" {
				continue
			}
			if _, given := of[h.Provider]; !given {
				of[h.Provider] = h.Policy
			}
		}
	}
	return of
}

// adjusting are the providers that flows adjust, by the stream and group that they read.
type adjusting map[struct{ bus, stream, group string }][]string

func adjustingOf(plans ...*router.Plan) *adjusting {
	all := make(adjusting)
	for _, plan := range plans {
		for _, p := range plan.Flows {
			if of := adjustable(plan, p); len(of) > 0 {
				from := struct{ bus, stream, group string }{p.Bus, p.StreamKey, p.Group}
				all[from] = append(all[from], of...)
			}
		}
	}
	return &all
}

// adjustable are the providers that a flow may adjust. A stage or a handler that is not
// built in may ask for any of them.
func adjustable(plan *router.Plan, p router.FlowPlan) (providers []string) {
	if !adjustsRates(p) {
		return nil
	}
	known := stages.Builtin().Kinds()
	for _, st := range p.Stages {
		h, handles := st.Config.(*stages.HandleConfig)
		if !slices.ContainsFunc(known, func(k stages.Kind) bool { return k.Name == st.Kind }) || handles && !h.NeedsProviders() {
			providers = nil
			for _, all := range plan.File.Providers {
				providers = append(providers, all.Name)
			}
			return providers
		}
	}
	return adjusted(p)
}

// commitRates returns what has to be done before entries of a stream of a bus are
// acknowledged: what they changed is shared first, where the flow changes rates. What
// flows on other buses than the sharing one change is shared soon after instead, so that
// no bus waits for another.
func (s *service) commitRates(b *flows.Bus) func(ctx context.Context, stream, group string) error {
	if shared := sharing(s.plan()); shared == nil || shared.Name != b.Name {
		return nil
	}
	return func(ctx context.Context, stream, group string) error {
		of := (*s.adjusts.Load())[struct{ bus, stream, group string }{b.Name, stream, group}]
		if len(of) == 0 {
			return nil
		}
		if err := s.rates.Commit(ctx, of...); err != nil {
			return fmt.Errorf("entries are not acknowledged before their rate levels are shared: %w", err)
		}
		return nil
	}
}
