package rate

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

// provider is one rate budget: its bucket, the levels that scale it, and who
// waits for it. One mutex guards all of it.
//
// Every method that needs the mutex held begins with advance and ends with
// arm, so whatever was due at an instant has happened before anything else
// does at that instant, whether the timer or a caller came first.
type provider struct {
	name     string
	index    int // in the coordinator's order
	config   ProviderConfig
	clock    Clock
	start    time.Time // the bucket's time zero
	watchers *watchers

	mu          sync.Mutex
	policy      Policy
	policySince time.Time // the event time of the policy
	bucket      bucket
	holdings    *holdings
	current     announced

	queue  list.List // of *waiter, first come first
	demand uint64    // tokens the queue waits for
	timer  Timer     // nil until first needed
	alarm  time.Duration

	granted, denied, stale uint64
}

// announced is what the outside follows of a provider.
type announced struct {
	level Level
	scale float64
	rate  float64 // effective, tokens/s
}

// waiter is one blocked Acquire. ready is closed once its tokens are taken.
type waiter struct {
	tokens uint64
	ready  chan struct{}
}

const (
	// noAlarm says that the timer is not pending.
	noAlarm time.Duration = -1
	// maxAlarm keeps the sum of two times from overflowing; what is further
	// away is armed again when it ends.
	maxAlarm time.Duration = 1 << 61
)

func newProvider(index int, config ProviderConfig, clock Clock, start time.Time, w *watchers) *provider {
	p := &provider{
		name:     config.Name,
		index:    index,
		config:   config,
		clock:    clock,
		start:    start,
		watchers: w,
		policy:   *config.Policy,
		bucket:   newBucket(config.Burst),
		holdings: newHoldings(config.MaxCoordinators, config.Aggregate, config.OnSilence),
		alarm:    noAlarm,
		current:  announced{rate: -1}, // so that the first evaluation sets the rate
	}
	p.evaluate()
	return p
}

// check refuses a number of tokens that can never be granted.
func (p *provider) check(n int) error {
	if n <= 0 {
		return fmt.Errorf("%w: %d must be positive", ErrTokens, n)
	}
	if float64(n) > p.config.Burst {
		return fmt.Errorf("%w: %d is more than the burst %v of provider %q", ErrTokens, n, p.config.Burst, p.name)
	}
	return nil
}

func (p *provider) acquire(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("acquire from provider %q: %w", p.name, err)
	}
	p.mu.Lock()
	now := p.clock.Now()
	p.advance(now)
	if p.queue.Len() == 0 && p.bucket.take(uint64(n)) {
		p.granted += uint64(n)
		p.arm(now)
		p.mu.Unlock()
		return nil
	}
	w := &waiter{tokens: uint64(n), ready: make(chan struct{})}
	place := p.queue.PushBack(w)
	p.demand += w.tokens
	p.arm(now)
	p.mu.Unlock()

	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	if p.leave(place) {
		return nil
	}
	return fmt.Errorf("acquire from provider %q: %w", p.name, ctx.Err())
}

// leave takes a waiter out of the queue. True means that its tokens were
// granted before it could go.
func (p *provider) leave(place *list.Element) (granted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	w := place.Value.(*waiter)
	select {
	case <-w.ready:
		granted = true
	default:
		p.queue.Remove(place)
		p.demand -= w.tokens
		p.denied++
		p.grant() // the next in line may need less
	}
	p.arm(now)
	return granted
}

func (p *provider) tryAcquire(n int) (bool, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	defer p.arm(now)
	if p.queue.Len() == 0 && p.bucket.take(uint64(n)) {
		p.granted += uint64(n)
		return true, 0
	}
	p.denied++
	return false, p.bucket.wait(p.demand + uint64(n))
}

func (p *provider) apply(a Adjustment, skew time.Duration) (Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	if a.Time.Sub(now) > skew {
		return Result{}, fmt.Errorf("%w: more than %v ahead", ErrFuture, skew)
	}
	p.advance(now)
	defer p.arm(now)
	at := a.Time.UTC().Round(0) // without a monotonic reading: other processes' times are compared with it
	stale := p.holdings.apply(a.Coordinator, signal{a.Level, at}, now)
	if stale {
		p.stale++
	}
	if newer := at.Compare(p.policySince); newer > 0 || newer == 0 && a.Policy.compare(p.policy) < 0 {
		p.policy, p.policySince = a.Policy, at
	}
	changed := p.evaluate()
	return Result{State: p.state(now), Changed: changed, Stale: stale}, nil
}

func (p *provider) setPolicy(policy Policy) Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	defer p.arm(now)
	p.policy = policy
	if wall := now.UTC().Round(0); p.policySince.Before(wall) {
		p.policySince = wall // events from before the change may still be on their way
	}
	changed := p.evaluate()
	return Result{State: p.state(now), Changed: changed}
}

func (p *provider) forget(coordinator string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	defer p.arm(now)
	ok := p.holdings.forget(coordinator)
	p.evaluate()
	return ok
}

func (p *provider) snapshot() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	defer p.arm(now)
	return p.state(now)
}

func (p *provider) coordinators() []CoordinatorState {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	defer p.arm(now)
	states := make([]CoordinatorState, 0, len(p.holdings.byName))
	for _, e := range p.holdings.byName {
		states = append(states, CoordinatorState{
			Coordinator: e.name,
			Level:       e.force,
			Signalled:   e.level,
			Time:        e.time,
			Age:         age(e.time, now),
		})
	}
	return states
}

// wake is the timer's call.
func (p *provider) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alarm = noAlarm
	now := p.clock.Now()
	p.advance(now)
	p.arm(now)
}

// advance brings the provider to now: it refills at the rate that held until
// now, grants what that pays for, and then lets silence release levels.
func (p *provider) advance(now time.Time) {
	p.bucket.refill(now.Sub(p.start))
	p.grant()
	if due, ok := p.holdings.due(); ok && !now.Before(due) {
		p.holdings.release(now)
		p.evaluate()
	}
}

// evaluate derives the effective rate from the held levels and the policy, and
// reports whether anything of it is new.
func (p *provider) evaluate() (changed bool) {
	level, _ := p.holdings.level()
	scale := p.policy.Scale(level)
	next := announced{level, scale, max(p.config.MinRate, p.config.Rate*scale)}
	if next == p.current {
		return false
	}
	p.current = next
	p.bucket.setRate(next.rate)
	p.watchers.mark(p.index)
	return true
}

// grant serves the queue in order as far as the stored tokens go.
func (p *provider) grant() {
	for front := p.queue.Front(); front != nil; front = p.queue.Front() {
		w := front.Value.(*waiter)
		if !p.bucket.take(w.tokens) {
			return
		}
		p.queue.Remove(front)
		p.demand -= w.tokens
		p.granted += w.tokens
		close(w.ready)
	}
}

// arm sets the timer to the next instant at which time alone changes
// something: the head of the queue can be served, or silence releases a level.
func (p *provider) arm(now time.Time) {
	wait := Never
	if front := p.queue.Front(); front != nil {
		wait = p.bucket.wait(front.Value.(*waiter).tokens)
	}
	if due, ok := p.holdings.due(); ok {
		wait = min(wait, due.Sub(now))
	}
	if wait == Never {
		if p.alarm != noAlarm {
			p.alarm = noAlarm
			p.timer.Stop()
		}
		return
	}
	wait = min(wait, maxAlarm)
	alarm := now.Sub(p.start) + wait
	if p.alarm != noAlarm && p.alarm <= alarm {
		return // it arms itself again if it comes too early
	}
	p.alarm = alarm
	if p.timer == nil {
		p.timer = p.clock.AfterFunc(wait, p.wake)
	} else {
		p.timer.Reset(wait)
	}
}

func (p *provider) state(now time.Time) State {
	level, since := p.holdings.level()
	return State{
		Provider:      p.name,
		Level:         level,
		Since:         since,
		Age:           age(since, now),
		Policy:        p.policy,
		Scale:         p.current.scale,
		EffectiveRate: p.current.rate,
		Tokens:        p.bucket.have.tokens(),
		Waiters:       p.queue.Len(),
		Granted:       p.granted,
		Denied:        p.denied,
		Stale:         p.stale,
		Evicted:       p.holdings.evicted,
		Coordinators:  len(p.holdings.byName),
	}
}

// age is never negative, so that a producer's clock that runs ahead does not
// show as one.
func age(since, now time.Time) time.Duration {
	if since.IsZero() {
		return 0
	}
	return max(0, now.Sub(since))
}
