package stages

import (
	"context"
	"time"
)

// Clock is the time that stages and the router live by. Tests and flow tests
// pass one of their own, so that backoff and expiry need no real waiting.
type Clock interface {
	// Now is the current time.
	Now() time.Time
	// Sleep waits for d. It returns ctx.Err() when ctx ends first.
	Sleep(ctx context.Context, d time.Duration) error
}

// Waiter is implemented by a Clock that has to know who waits for something else
// than time, as one does that passes only when everybody waits.
type Waiter interface {
	// Wait returns nil once ready is closed, and ctx.Err() when ctx ends first.
	Wait(ctx context.Context, ready <-chan struct{}) error
}

// Deadliner is implemented by a Clock that ends contexts by its own time.
type Deadliner interface {
	// WithTimeout is context.WithTimeout by this clock: once d has passed, the cause of
	// the context's end is context.DeadlineExceeded, whatever its Err says.
	WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc)
}

// withTimeout bounds ctx by the clock's time, or by the machine's where the clock has
// no deadlines.
func withTimeout(ctx context.Context, clock Clock, d time.Duration) (context.Context, context.CancelFunc) {
	if c, ok := clock.(Deadliner); ok {
		return c.WithTimeout(ctx, d)
	}
	return context.WithTimeout(ctx, d)
}

// SystemClock is the Clock of the machine.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// Sleep implements Clock.
func (SystemClock) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
