package app

import (
	"context"
	"errors"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/rate"
)

// pacer is the rate coordinator as the admin listener offers it to other processes.
type pacer struct{ rates *adjust.Applier }

var _ admin.Pacer = pacer{}

// Provider implements admin.Pacer.
func (p pacer) Provider(provider string) (any, error) {
	s, err := p.rates.ProviderStatus(provider)
	return s, pacerError(err)
}

// Acquire implements admin.Pacer. A wait is not cut short when the tokens cannot be
// there in time as things are: the rate may rise.
func (p pacer) Acquire(ctx context.Context, provider string, n int, wait time.Duration) (admin.Pace, error) {
	start := time.Now()
	retryAfter, err := p.take(ctx, provider, n, wait)
	refused := ""
	switch refusal, ok := errors.AsType[*rate.RefusedError](err); {
	case ok && errors.Is(err, rate.ErrBreakerOpen):
		refused, retryAfter = admin.RefusedBreaker, refusal.RetryAfter
	case ok:
		refused, retryAfter = admin.RefusedCooldown, refusal.RetryAfter
	case errors.Is(err, errNotGranted) && retryAfter == rate.Never:
		refused = admin.RefusedPaused
	case errors.Is(err, errNotGranted):
		refused = admin.RefusedRate
	case err != nil:
		return admin.Pace{}, pacerError(err)
	}
	s, err := p.rates.State(provider)
	return admin.Pace{
		Provider: provider, N: n, WaitedSeconds: time.Since(start).Round(time.Microsecond).Seconds(),
		Tokens: s.Tokens, EffectiveRate: s.EffectiveRate, Scale: s.Scale, Level: s.Level.String(),
		Refused: refused, RetryAfter: retryAfter,
	}, pacerError(err)
}

// errNotGranted says that the tokens are not there.
var errNotGranted = errors.New("not granted")

// take takes tokens. With errNotGranted it tells when they will be there.
func (p pacer) take(ctx context.Context, provider string, n int, wait time.Duration) (time.Duration, error) {
	if wait == 0 {
		ok, retryAfter, err := p.rates.TryAcquire(provider, n)
		if err == nil && !ok {
			err = errNotGranted
		}
		return retryAfter, err
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := p.rates.Acquire(limited, provider, n)
	if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return 0, err
	}
	retryAfter, err := p.rates.RetryAfter(provider, n)
	if err == nil {
		err = errNotGranted
	}
	return retryAfter, err
}

// Report implements admin.Pacer.
func (p pacer) Report(provider string, success bool) error {
	if success {
		return pacerError(p.rates.RecordSuccess(provider))
	}
	return pacerError(p.rates.RecordFailure(provider))
}

// Cooldown implements admin.Pacer.
func (p pacer) Cooldown(provider, scope string, d time.Duration) error {
	return pacerError(p.rates.TriggerCooldown(provider, scope, d))
}

// EndCooldown implements admin.Pacer.
func (p pacer) EndCooldown(provider, scope string) (bool, error) {
	ended, err := p.rates.EndCooldown(provider, scope)
	return ended, pacerError(err)
}

// Override implements admin.Pacer.
func (p pacer) Override(provider string, scale float64, ttl time.Duration, reason string) error {
	return pacerError(p.rates.Override(provider, scale, ttl, reason))
}

// EndOverride implements admin.Pacer.
func (p pacer) EndOverride(provider string) (bool, error) {
	ended, err := p.rates.EndOverride(provider)
	return ended, pacerError(err)
}

// pacerError gives an error of the coordinator the kind that the listener knows. The
// text stays as it is.
func pacerError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rate.ErrUnknownProvider):
		return kindOfError{err, admin.ErrNotFound}
	case errors.Is(err, rate.ErrTokens), errors.Is(err, rate.ErrInvalidCooldown), errors.Is(err, rate.ErrInvalidOverride):
		return kindOfError{err, admin.ErrInvalid}
	}
	return err
}

// kindOfError is an error that is also of a kind.
type kindOfError struct {
	error
	kind error
}

// Unwrap returns both.
func (e kindOfError) Unwrap() []error { return []error{e.error, e.kind} }
