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
