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
func unshared(file *flows.File) bool {
	return file.Bus.Backend == "redis" && !file.Rates.Share && len(file.Providers) > 0
}

// warnRates warns of replicas that would diverge.
func warnRates(file *flows.File, d *flows.Diagnostics) {
	if unshared(file) {
		d.Warnf(file.Rates.Pos, codeRatesNotShared, "rates: share is off on the redis backend: %s", notShared)
	}
}

// ratesKey is the hash of a provider's levels: they belong to the namespace and the
// provider, whatever flows and groups feed it.
func ratesKey(file *flows.File) func(provider string) string {
	return func(provider string) string { return file.Bus.Namespace + ":pulseflow:rates:" + provider }
}

// newRates makes the rate coordinator of a plan, nil when it has no provider.
func newRates(plan *router.Plan, b backend, s *service) (*adjust.Applier, error) {
	file := plan.File
	options := []adjust.Option{adjust.WithPolicies(policies(plan))}
	if r := b.registers(); r != nil && file.Rates.Share {
		options = append(options, adjust.WithRegisters(r, ratesKey(file), file.Rates.RestoreTimeout))
	}
	if path := file.Rates.File; path != "" {
		if !filepath.IsAbs(path) {
			path = filepath.Join(file.Dir, path)
		}
		options = append(options, adjust.WithFile(path))
	}
	a, err := adjust.New(file.Providers, s.log, options...)
	if err != nil || a == nil || !a.Keeps() {
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

// adjusts are the providers that a flow may adjust. A stage or a handler that is not
// built in may ask for any of them.
func (s *service) adjusts(p router.FlowPlan) (providers []string) {
	if !slices.ContainsFunc(p.Stages, func(st stages.Planned) bool { return st.Kind == "rate-apply" }) {
		return nil
	}
	known := stages.Builtin().Kinds()
	for _, st := range p.Stages {
		h, handles := st.Config.(*stages.HandleConfig)
		if !slices.ContainsFunc(known, func(k stages.Kind) bool { return k.Name == st.Kind }) || handles && !h.NeedsProviders() {
			providers = nil
			for _, all := range s.plan.File.Providers {
				providers = append(providers, all.Name)
			}
			return providers
		}
	}
	return adjusted(p)
}

// commitRates returns what has to be done before entries of a stream are acknowledged:
// what they changed is shared first, where the flow changes rates.
func (s *service) commitRates() func(ctx context.Context, stream, group string) error {
	type source struct{ stream, group string }
	providers := make(map[source][]string)
	for _, p := range s.plan.Flows {
		if from, of := (source{p.StreamKey, p.Group}), s.adjusts(p); len(of) > 0 {
			providers[from] = append(providers[from], of...)
		}
	}
	return func(ctx context.Context, stream, group string) error {
		of := providers[source{stream, group}]
		if s.rates == nil || len(of) == 0 {
			return nil
		}
		if err := s.rates.Commit(ctx, of...); err != nil {
			return fmt.Errorf("entries are not acknowledged before their rate levels are shared: %w", err)
		}
		return nil
	}
}
