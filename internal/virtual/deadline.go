package virtual

import (
	"context"
	"errors"
	"time"
)

// WithTimeout returns a context that ends when the clock has advanced by d, with the
// cause context.DeadlineExceeded. Contexts made from it end in the same call, so that
// nothing depends on the order of goroutines.
func (c *Clock) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return c.WithTimeoutFunc(ctx, d, func() {})
}

// WithTimeoutFunc is WithTimeout, and has f called once the time has ended the
// context.
func (c *Clock) WithTimeoutFunc(ctx context.Context, d time.Duration, f func()) (context.Context, context.CancelFunc) {
	bounded, cancel := context.WithCancelCause(ctx)
	timer := c.AfterFunc(d, func() {
		cancel(context.DeadlineExceeded)
		f()
	})
	return bounded, func() {
		timer.Stop()
		cancel(nil)
	}
}

// Err is ctx.Err, but for a context that WithTimeout has ended, or one made from it:
// there it is context.DeadlineExceeded, as with context.WithTimeout.
func Err(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, context.DeadlineExceeded) {
		return context.DeadlineExceeded
	}
	return ctx.Err()
}
