package adjust

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/rate"
)

// What follows is the coordinator for callers outside the flows. Errors are those of
// package rate; that of an unknown provider also names those there are.

// known adds to rate.ErrUnknownProvider which provider was probably meant.
func (a *Applier) known(provider string, err error) error {
	if !errors.Is(err, rate.ErrUnknownProvider) {
		return err
	}
	var names []string
	for _, s := range a.coordinator.States() {
		names = append(names, s.Provider)
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: the file declares no provider", err)
	}
	return fmt.Errorf("%w%s; known: %s", err, flows.DidYouMean(provider, names), strings.Join(names, ", "))
}

// ProviderStatus is the state of one provider.
func (a *Applier) ProviderStatus(provider string) (ProviderStatus, error) {
	s, err := a.State(provider)
	if err != nil {
		return ProviderStatus{}, err
	}
	return a.status(s), nil
}

// State is the state of one provider, without its coordinators.
func (a *Applier) State(provider string) (rate.State, error) {
	s, err := a.coordinator.State(provider)
	return s, a.known(provider, err)
}

// Acquire takes n tokens, waiting for them until ctx ends.
func (a *Applier) Acquire(ctx context.Context, provider string, n int) error {
	return a.known(provider, a.coordinator.Acquire(ctx, provider, n))
}

// TryAcquire takes n tokens if they are there, and else tells when they will be.
func (a *Applier) TryAcquire(provider string, n int) (bool, time.Duration, error) {
	ok, retryAfter, err := a.coordinator.TryAcquire(provider, n)
	return ok, retryAfter, a.known(provider, err)
}

// RetryAfter is how long it takes until n tokens will be there.
func (a *Applier) RetryAfter(provider string, n int) (time.Duration, error) {
	d, err := a.coordinator.RetryAfter(provider, n)
	return d, a.known(provider, err)
}

// RecordSuccess tells the provider's circuit breaker of a call that went well.
func (a *Applier) RecordSuccess(provider string) error {
	return a.known(provider, a.coordinator.RecordSuccess(provider))
}

// RecordFailure tells it of one that failed.
func (a *Applier) RecordFailure(provider string) error {
	return a.known(provider, a.coordinator.RecordFailure(provider))
}

// TriggerCooldown begins a cooldown; 0 is as long as the provider declares.
func (a *Applier) TriggerCooldown(provider, scope string, d time.Duration) error {
	return a.known(provider, a.coordinator.TriggerCooldown(provider, scope, d))
}

// EndCooldown ends a cooldown and reports whether there was one.
func (a *Applier) EndCooldown(provider, scope string) (bool, error) {
	ended, err := a.coordinator.EndCooldown(provider, scope)
	return ended, a.known(provider, err)
}

// Override puts a scale in place of the aggregated one until ttl ends.
func (a *Applier) Override(provider string, scale float64, ttl time.Duration, reason string) error {
	_, err := a.coordinator.Override(provider, scale, ttl, reason)
	return a.known(provider, err)
}

// EndOverride ends the override and reports whether there was one.
func (a *Applier) EndOverride(provider string) (bool, error) {
	ended, err := a.coordinator.EndOverride(provider)
	return ended, a.known(provider, err)
}
