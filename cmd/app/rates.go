package app

import (
	"context"
	"fmt"
	"path/filepath"

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

// newRates makes the rate coordinator of a plan.
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

// adjusting are the streams and groups whose flows change rates.
type adjusting map[struct{ stream, group string }]bool

func adjustingOf(plans ...*router.Plan) *adjusting {
	a := make(adjusting)
	for _, plan := range plans {
		for _, p := range plan.Flows {
			for _, st := range p.Stages {
				if st.Kind == "rate-apply" {
					a[struct{ stream, group string }{p.StreamKey, p.Group}] = true
				}
			}
		}
	}
	return &a
}

// commitRates is what has to be done before entries of a stream are acknowledged: what
// they changed is shared first, where the flow changes rates.
func (s *service) commitRates(ctx context.Context, stream, group string) error {
	if !(*s.adjusts.Load())[struct{ stream, group string }{stream, group}] {
		return nil
	}
	if err := s.rates.Commit(ctx); err != nil {
		return fmt.Errorf("entries are not acknowledged before their rate levels are shared: %w", err)
	}
	return nil
}
