package bus

import (
	"context"
	"math/rand/v2"
	"time"
)

// Waits between attempts to reach Redis: the first, the longest while Redis is away or refuses for a while, and the
// longest when only an operator can help.
const (
	retryFirst = 50 * time.Millisecond
	retryCap   = 2 * time.Second
	retrySlow  = 5 * time.Second
)

// backoff spaces attempts: each wait is twice the last, less up to half of it at random, so that the consumers of a
// server that comes back do not all arrive at once. The zero backoff is ready.
type backoff struct{ next time.Duration }

// wait sleeps for the next wait, at most most. It is false when ctx ended first.
func (b *backoff) wait(ctx context.Context, most time.Duration) bool {
	b.next = min(max(2*b.next, retryFirst), most)
	return sleep(ctx, b.next-rand.N(b.next/2+1))
}

// reset makes the next wait the first again.
func (b *backoff) reset() { b.next = 0 }

// sleep waits for d. It is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
