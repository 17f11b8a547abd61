package rate

import (
	"errors"
	"fmt"
	"time"
)

// Breaker is a provider's circuit breaker. The zero value is none. It opens on
// failures that follow one another, refuses every call while it is open, and
// is then half open: it lets a few calls through, of which the first result
// closes it or opens it again.
type Breaker struct {
	// Threshold is how many failures without a success between them open it;
	// the reference's is 5. 0 is no breaker.
	Threshold int
	// OpenFor is how long it stays open. 0 means DefaultOpenFor.
	OpenFor time.Duration
	// HalfOpen is how many calls it lets through while half open. When they
	// have brought no result for another OpenFor, as many more may try. 0
	// means DefaultHalfOpen.
	HalfOpen int
}

func (b Breaker) withDefaults() Breaker {
	if b.OpenFor == 0 {
		b.OpenFor = DefaultOpenFor
	}
	if b.HalfOpen == 0 {
		b.HalfOpen = DefaultHalfOpen
	}
	return b
}

// Validate reports everything that is out of range.
func (b Breaker) Validate() error {
	var errs []error
	if b.Threshold < 0 {
		errs = append(errs, fmt.Errorf("breaker: threshold %d must not be negative", b.Threshold))
	}
	if b.OpenFor < 0 {
		errs = append(errs, fmt.Errorf("breaker: open_for %v must not be negative", b.OpenFor))
	}
	if b.HalfOpen < 0 {
		errs = append(errs, fmt.Errorf("breaker: half_open %d must not be negative", b.HalfOpen))
	}
	return errors.Join(errs...)
}

// BreakerState is what a circuit breaker does with calls.
type BreakerState uint8

// The states of a circuit breaker.
const (
	// BreakerClosed lets every call through. A provider without a breaker is
	// always in it.
	BreakerClosed BreakerState = iota
	// BreakerOpen refuses every call.
	BreakerOpen
	// BreakerHalfOpen lets a few calls through.
	BreakerHalfOpen
)

// String returns "closed", "open" or "half_open".
func (s BreakerState) String() string {
	switch s {
	case BreakerClosed:
		return "closed"
	case BreakerOpen:
		return "open"
	case BreakerHalfOpen:
		return "half_open"
	}
	return fmt.Sprintf("breaker(%d)", uint8(s))
}

// BreakerStatus is a circuit breaker at one instant.
type BreakerStatus struct {
	State BreakerState
	// Failures are those since the last success while closed, at most the
	// threshold less one; otherwise 0.
	Failures int
	// RetryAfter is how long calls will be refused unless a result comes
	// first: the time until it half-opens, or, once half open, until calls may
	// try again. 0 when the next call is let through.
	RetryAfter time.Duration
}

// breaker is a circuit breaker's state. Times are those of a bucket; it is not
// safe for concurrent use.
type breaker struct {
	config   Breaker
	state    BreakerState
	failures int           // in a row, while closed
	probes   int           // let through, while half open
	until    time.Duration // end of the refusal: while open, and while half open with no probe left
}

// advance half-opens a breaker that has been open for long enough.
func (b *breaker) advance(now time.Duration) (changed bool) {
	if b.state != BreakerOpen || now < b.until {
		return false
	}
	b.state, b.probes = BreakerHalfOpen, 0
	return true
}

// refuses returns how long calls are refused from now on; 0 lets one through.
func (b *breaker) refuses(now time.Duration) time.Duration {
	if b.state == BreakerOpen || b.state == BreakerHalfOpen && b.probes >= b.config.HalfOpen {
		return max(0, b.until-now)
	}
	return 0
}

// admit counts a call that refuses has let through.
func (b *breaker) admit(now time.Duration) {
	if b.state != BreakerHalfOpen {
		return
	}
	if b.probes >= b.config.HalfOpen {
		b.probes = 0 // the last ones never said how it went
	}
	if b.probes++; b.probes == b.config.HalfOpen {
		b.until = later(now, b.config.OpenFor)
	}
}

// giveBack undoes the admit of calls that got no tokens.
func (b *breaker) giveBack(calls int) {
	if b.state == BreakerHalfOpen {
		b.probes = max(0, b.probes-calls)
	}
}

// succeed takes in a success. While open it is that of a call from before.
func (b *breaker) succeed() {
	b.failures = 0
	if b.state == BreakerHalfOpen {
		b.state = BreakerClosed
	}
}

// fail takes in a failure and reports whether it opens the breaker.
func (b *breaker) fail(now time.Duration) (opened bool) {
	if b.config.Threshold == 0 || b.state == BreakerOpen {
		return false
	}
	if b.state == BreakerClosed {
		if b.failures++; b.failures < b.config.Threshold {
			return false
		}
	}
	b.state, b.failures, b.until = BreakerOpen, 0, later(now, b.config.OpenFor)
	return true
}

func (b *breaker) status(now time.Duration) BreakerStatus {
	return BreakerStatus{State: b.state, Failures: b.failures, RetryAfter: b.refuses(now)}
}

// later returns t+d, or something very late when that does not fit.
func later(t, d time.Duration) time.Duration { return t + min(d, maxAlarm) }
