package virtual

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/rate"
)

// Clock is a clock that stands still until it is advanced. It implements
// stages.Clock and rate.Clock. All methods are safe for concurrent use.
type Clock struct {
	mu   sync.Mutex
	now  time.Time
	set  timers
	made uint64 // how often a timer has been set
}

var _ rate.Clock = (*Clock)(nil)

// New returns a clock that stands at start.
func New(start time.Time) *Clock {
	return &Clock{now: start.Round(0)} // without the machine's monotonic reading
}

// Now returns the time at which the clock stands. While a timer's function
// runs, that is the time of the timer.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Sleep blocks until the clock has advanced by d. It returns ctx.Err() when
// ctx ends first, and at once when d is not positive.
func (c *Clock) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 || ctx.Err() != nil {
		return Err(ctx)
	}
	awake := make(chan struct{})
	t := c.AfterFunc(d, func() { close(awake) })
	select {
	case <-awake:
		return nil
	case <-ctx.Done():
		t.Stop()
		return Err(ctx)
	}
}

// AfterFunc has f called once, by the Advance or AdvanceTo that reaches the
// time d from now; when d is not positive, by the next one of any length. The
// clock's methods may be used in f, except those two.
func (c *Clock) AfterFunc(d time.Duration, f func()) rate.Timer {
	t := &timer{clock: c, f: f, slot: unset}
	t.Reset(d)
	return t
}

// Advance lets d pass, as AdvanceTo does.
func (c *Clock) Advance(d time.Duration) { c.AdvanceTo(c.Now().Add(d)) }

// AdvanceTo lets time pass up to and including t, and fires what is due in
// that time, also what is set meanwhile. A t in the past is taken as now, since
// time does not go back.
func (c *Clock) AdvanceTo(t time.Time) {
	for {
		f := c.step(t)
		if f == nil {
			return
		}
		f()
	}
}

// step moves on to the next timer that is due by t and returns its function,
// or to t itself and returns nil.
func (c *Clock) step(t time.Time) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Before(c.now) {
		t = c.now
	}
	if len(c.set) == 0 || c.set[0].at.After(t) {
		c.now = t.Round(0)
		return nil
	}
	next := heap.Pop(&c.set).(*timer)
	c.now = next.at
	return next.f
}

// Next returns when the next timer or sleeper is due; false when there is
// none. It is never before Now.
func (c *Clock) Next() (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.set) == 0 {
		return time.Time{}, false
	}
	return c.set[0].at, true
}

// timer implements rate.Timer. All but clock and f is guarded by clock.mu.
type timer struct {
	clock *Clock
	f     func()
	at    time.Time
	order uint64 // among timers of the same time
	slot  int    // in the heap, or unset
}

const unset = -1

// Reset sets the timer anew and reports whether it had been pending. Of equal
// times it is then the last.
func (t *timer) Reset(d time.Duration) bool {
	c := t.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	pending := t.remove()
	t.at = c.now.Add(max(0, d))
	c.made++
	t.order = c.made
	heap.Push(&c.set, t)
	return pending
}

// Stop prevents the call and reports whether there was one to prevent.
func (t *timer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	return t.remove()
}

func (t *timer) remove() bool {
	if t.slot == unset {
		return false
	}
	heap.Remove(&t.clock.set, t.slot)
	return true
}

// timers is a heap.Interface, the timer that is due first in front.
type timers []*timer

func (ts timers) Len() int { return len(ts) }

func (ts timers) Less(i, j int) bool {
	if order := ts[i].at.Compare(ts[j].at); order != 0 {
		return order < 0
	}
	return ts[i].order < ts[j].order
}

func (ts timers) Swap(i, j int) {
	ts[i], ts[j] = ts[j], ts[i]
	ts[i].slot, ts[j].slot = i, j
}

func (ts *timers) Push(x any) {
	t := x.(*timer)
	t.slot = len(*ts)
	*ts = append(*ts, t)
}

func (ts *timers) Pop() any {
	last := len(*ts) - 1
	t := (*ts)[last]
	(*ts)[last] = nil
	*ts = (*ts)[:last]
	t.slot = unset
	return t
}
