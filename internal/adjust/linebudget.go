package adjust

import (
	"sync"
	"time"
)

// A line for each adjustment helps at the rate people read, and costs more than
// the work itself at the rate machines can send.
const (
	linesBurst     = 50
	linesPerSecond = 10
)

// lineBudget says which of many log lines are written.
type lineBudget struct {
	now func() time.Time

	mu      sync.Mutex
	left    float64
	last    time.Time
	skipped int
}

func newLineBudget(now func() time.Time) *lineBudget {
	return &lineBudget{now: now, left: linesBurst, last: now()}
}

// take reports whether a line may be written, and how many were not since the
// last that was.
func (b *lineBudget) take() (skipped int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	b.left = min(linesBurst, b.left+linesPerSecond*now.Sub(b.last).Seconds())
	b.last = now
	if b.left < 1 {
		b.skipped++
		return 0, false
	}
	b.left--
	skipped, b.skipped = b.skipped, 0
	return skipped, true
}
