package simulate

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
)

// Defaults of the Store's write coordinator, in items.
const (
	DefaultCapacity = 10_000
	// Shares of the capacity.
	DefaultHigh = 0.8
	DefaultLow  = 0.5
)

// QueueConfig is the size of the queue and where it signals, in items.
type QueueConfig struct {
	// Capacity is what it holds.
	Capacity int
	// High is where it signals hard, and Low where it signals ok again. In
	// between it signals soft.
	High, Low int
}

func (c QueueConfig) validate() error {
	var errs []error
	if c.Capacity < 1 || c.Capacity > math.MaxInt32 {
		errs = append(errs, fmt.Errorf("capacity %d must be from 1 to %d", c.Capacity, math.MaxInt32))
	}
	if c.High < 1 || c.High > c.Capacity {
		errs = append(errs, fmt.Errorf("high watermark %d must be from 1 to the capacity %d", c.High, c.Capacity))
	}
	if c.Low < 0 || c.Low >= c.High {
		errs = append(errs, fmt.Errorf("low watermark %d must be from 0 to below the high one %d", c.Low, c.High))
	}
	return errors.Join(errs...)
}

// queue is the Store's bounded queue with its drain. Its time is the one that
// the caller passes, which must not go back.
type queue struct {
	config QueueConfig
	signal func(level event.Level, depth int)

	depth      int
	soft, hard bool // signalled and not taken back
	level      event.Level

	rate   float64       // items/s
	anchor time.Duration // when the drain began on the item after the served ones
	served int           // since anchor

	drained, overflow uint64
}

func newQueue(config QueueConfig, rate float64, signal func(level event.Level, depth int)) *queue {
	return &queue{config: config, rate: rate, signal: signal}
}

// drain lets the items go that are done by now.
func (q *queue) drain(now time.Duration) {
	if q.depth == 0 || q.rate == 0 {
		return
	}
	n := int(min(float64(q.depth), (now-q.anchor).Seconds()*q.rate-float64(q.served)+1))
	for n > 0 && !q.done(n, now) { // what rounding made too many
		n--
	}
	for range n {
		q.depth--
		q.served++
		q.drained++
		if (q.soft || q.hard) && q.depth <= q.config.Low {
			q.soft, q.hard = false, false
			q.emit(event.LevelOK)
		}
	}
}

// done reports whether the n-th item from here has left by now.
func (q *queue) done(n int, now time.Duration) bool {
	d, ok := due(q.served+n, q.rate)
	return ok && q.anchor+d <= now
}

// put adds items, and counts those that find it full. The caller has drained it.
func (q *queue) put(items int, now time.Duration) {
	if q.depth == 0 {
		q.anchor, q.served = now, 0
	}
	for range items {
		if q.depth == q.config.Capacity {
			q.overflow++
			continue
		}
		q.depth++
		switch {
		case !q.hard && q.depth >= q.config.High:
			q.soft, q.hard = true, true
			q.emit(event.LevelHard)
		case !q.soft && q.depth > q.config.Low && q.depth < q.config.High:
			q.soft = true
			q.emit(event.LevelSoft)
		}
	}
}

func (q *queue) emit(level event.Level) {
	q.level = level
	q.signal(level, q.depth)
}

// setRate changes the drain. The item in work begins anew. The caller has
// drained it.
func (q *queue) setRate(rate float64, now time.Duration) {
	q.rate, q.anchor, q.served = rate, now, 0
}

// recovers returns when the queue will signal ok if nothing is put meanwhile;
// false for never.
func (q *queue) recovers() (time.Duration, bool) {
	if !q.soft && !q.hard || q.rate == 0 {
		return 0, false
	}
	d, ok := due(q.served+q.depth-q.config.Low, q.rate)
	return q.anchor + d, ok
}
