package rate

import (
	"cmp"
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

// provider is one rate budget: its bucket, the levels that scale it, what else
// refuses its use, and who waits for it. One mutex guards all of it.
//
// Every method that needs the mutex held begins with advance and ends with
// arm, so whatever was due at an instant has happened before anything else
// does at that instant, whether the timer or a caller came first.
type provider struct {
	name     string
	config   ProviderConfig
	clock    Clock
	start    time.Time // the bucket's time zero
	watchers *watchers

	mu          sync.Mutex
	policy      Policy
	policySince time.Time // the event time of the policy
	ramp        ramp
	bucket      bucket // at the ramp's rate
	holdings    *holdings
	breaker     breaker
	cooldowns   cooldowns
	override    override
	current     announced
	folding     Folding
	foldEnd     time.Duration // when folded events take effect; noAlarm when there are none
	onHold      bool          // nothing is granted
	retired     bool          // declared no more

	queue  list.List // of *waiter, first come first
	demand uint64    // tokens the queue waits for
	timer  Timer     // nil until first needed
	alarm  time.Duration

	granted, denied, stale uint64
}

// announced is what the outside follows of a provider.
type announced struct {
	level        Level
	scale        float64
	rate, target float64 // effective and where it goes, tokens/s
	breaker      BreakerState
	cooling      bool // globally
	overridden   bool
}

// waiter is one blocked Acquire. ready is closed once its tokens are taken, or
// refused for a reason.
type waiter struct {
	tokens  uint64
	ready   chan struct{}
	refused error // set before ready is closed
}

const (
	// noAlarm says that the timer is not pending.
	noAlarm time.Duration = -1
	// maxAlarm keeps the sum of two times from overflowing; what is further
	// away is armed again when it ends.
	maxAlarm time.Duration = 1 << 61
)

func newProvider(config ProviderConfig, clock Clock, start time.Time, w *watchers) *provider {
	p := &provider{
		name:     config.Name,
		config:   config,
		clock:    clock,
		start:    start,
		watchers: w,
		policy:   *config.Policy,
		bucket:   newBucket(config.Burst),
		holdings: newHoldings(config.MaxCoordinators, config.Aggregate, config.OnSilence),
		breaker:  breaker{config: config.Breaker},
		alarm:    noAlarm,
		foldEnd:  noAlarm,
		ramp:     ramp{to: -1}, // so that the first evaluation sets the rate, and at once
	}
	p.evaluate(0)
	p.ramp.every = stepOf(config.RampUp)
	return p
}

// check refuses a number of tokens that can never be granted.
func (p *provider) check(n int) error {
	if p.retired {
		return fmt.Errorf("%w %q", ErrUnknownProvider, p.name)
	}
	if n <= 0 {
		return fmt.Errorf("%w: %d must be positive", ErrTokens, n)
	}
	if float64(n) > p.config.Burst {
		return fmt.Errorf("%w: %d is more than the burst %v of provider %q: it can never be granted", ErrTokens, n, p.config.Burst, p.name)
	}
	return nil
}

func (p *provider) acquire(ctx context.Context, n int) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("acquire from provider %q: %w", p.name, err)
	}
	p.mu.Lock()
	now := p.clock.Now()
	at := p.advance(now)
	if err := p.check(n); err != nil {
		p.arm(now)
		p.mu.Unlock()
		return err
	}
	if err := p.refusal(at); err != nil {
		p.denied++
		p.arm(now)
		p.mu.Unlock()
		return err
	}
	p.breaker.admit(at)
	if p.queue.Len() == 0 && !p.onHold && p.bucket.take(uint64(n)) {
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
		return w.refused
	case <-ctx.Done():
	}
	if p.leave(place) {
		return w.refused
	}
	return fmt.Errorf("acquire from provider %q: %w", p.name, ctx.Err())
}

// leave takes a waiter out of the queue. True means that its tokens were
// granted or refused before it could go.
func (p *provider) leave(place *list.Element) (answered bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	w := place.Value.(*waiter)
	select {
	case <-w.ready:
		answered = true
	default:
		p.queue.Remove(place)
		p.demand -= w.tokens
		p.denied++
		p.breaker.giveBack(1)
		p.grant() // the next in line may need less
	}
	p.arm(now)
	return answered
}

func (p *provider) tryAcquire(n int) (bool, time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	if err := p.check(n); err != nil {
		return false, 0, err
	}
	if refused := p.refusal(at); refused != nil {
		p.denied++
		return false, refused.RetryAfter, refused
	}
	if p.queue.Len() == 0 && !p.onHold && p.bucket.take(uint64(n)) {
		p.breaker.admit(at)
		p.granted += uint64(n)
		return true, 0, nil
	}
	p.denied++
	return false, p.wait(p.demand + uint64(n)), nil
}

// retryAfter is tryAcquire's, without taking anything.
func (p *provider) retryAfter(n int) (time.Duration, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	if err := p.check(n); err != nil {
		return 0, err
	}
	if refused := p.refusal(at); refused != nil {
		return refused.RetryAfter, refused
	}
	return p.wait(p.demand + uint64(n)), nil
}

// refusal returns why calls are refused now, nil when they are not. Of two
// reasons it is the one that lasts longer.
func (p *provider) refusal(at time.Duration) *RefusedError {
	if p.breaker.state == BreakerClosed && p.cooldowns.global <= at {
		return nil
	}
	open, cooling := p.breaker.refuses(at), p.cooldowns.refuses(at)
	switch {
	case open == 0 && cooling == 0:
		return nil
	case open > cooling:
		return &RefusedError{Provider: p.name, Reason: ErrBreakerOpen, RetryAfter: open}
	default:
		return &RefusedError{Provider: p.name, Reason: ErrCooldown, RetryAfter: cooling}
	}
}

// turnAway refuses everyone who waits: for them too the wait may be long, and
// they should look for another way.
func (p *provider) turnAway(at time.Duration) {
	if p.queue.Len() == 0 {
		return
	}
	refused := p.refusal(at)
	p.breaker.giveBack(p.queue.Len())
	p.denied += uint64(p.queue.Len())
	for e := p.queue.Front(); e != nil; e = e.Next() {
		w := e.Value.(*waiter)
		w.refused = refused
		close(w.ready)
	}
	p.queue.Init()
	p.demand = 0
}

// record takes in how a call went.
func (p *provider) record(success bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	if success {
		p.breaker.succeed()
	} else if p.breaker.fail(at) {
		p.turnAway(at)
	}
	p.announce(at)
}

// cool begins a cooldown.
func (p *provider) cool(scope string, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	if err := p.cooldowns.begin(scope, at, cmp.Or(d, p.config.Cooldown)); err != nil {
		return err
	}
	if scope == GlobalScope {
		p.turnAway(at)
		p.announce(at)
	}
	return nil
}

// endCooldown ends a cooldown and reports whether there was one.
func (p *provider) endCooldown(scope string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	ended := p.cooldowns.end(scope, at)
	p.announce(at)
	return ended
}

func (p *provider) setOverride(scale float64, ttl time.Duration, reason string) Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	p.override = override{on: true, scale: scale, until: at + ttl, reason: reason}
	changed := p.evaluate(at)
	return Result{State: p.state(now), Changed: changed}
}

// endOverride ends the override and reports whether there was one.
func (p *provider) endOverride() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	ended := p.override.on
	p.override = override{}
	p.evaluate(at)
	return ended
}

func (p *provider) apply(a Adjustment) (Result, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	if p.retired {
		return Result{}, fmt.Errorf("%w %q", ErrUnknownProvider, p.name)
	}
	if a.Time.Sub(now) > p.config.MaxFutureSkew {
		return Result{}, fmt.Errorf("%w: more than %v ahead", ErrFuture, p.config.MaxFutureSkew)
	}
	instant := p.advance(now)
	defer p.arm(now)
	at := a.Time.UTC().Round(0) // without a monotonic reading: other processes' times are compared with it
	stale := p.holdings.apply(a.Coordinator, signal{a.Level, at}, now)
	if stale {
		p.stale++
	}
	if newer := at.Compare(p.policySince); newer > 0 || newer == 0 && a.Policy.compare(p.policy) < 0 {
		p.policy, p.policySince = a.Policy, at
	}
	if p.folds(at, now, instant) {
		return Result{State: p.state(now), Stale: stale}, nil
	}
	changed := p.evaluate(instant)
	return Result{State: p.state(now), Changed: changed, Stale: stale}, nil
}

func (p *provider) setPolicy(policy Policy) Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	p.adopt(policy, now)
	changed := p.evaluate(at)
	return Result{State: p.state(now), Changed: changed}
}

// adopt makes a policy the provider's, whatever events from before now say.
func (p *provider) adopt(policy Policy, now time.Time) {
	p.policy = policy
	if wall := now.UTC().Round(0); p.policySince.Before(wall) {
		p.policySince = wall // events from before the change may still be on their way
	}
}

func (p *provider) forget(coordinator string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	ok := p.holdings.forget(coordinator)
	p.evaluate(at)
	return ok
}

func (p *provider) snapshot() State {
	s, _ := p.observe()
	return s
}

// observe returns the state and what of it the outside follows.
func (p *provider) observe() (State, announced) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	defer p.arm(now)
	return p.state(now), p.current
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

// advance brings the provider to now, and returns that as the bucket's time: it
// refills at the rates that held until now, grants what that pays for, and then
// ends what is over: silence, an open breaker, a cooldown. An override ends at its
// own time, however late it is seen to.
func (p *provider) advance(now time.Time) time.Duration {
	at := now.Sub(p.start)
	if end := p.override.until; p.override.on && end <= at {
		p.override = override{}
		p.advance(p.start.Add(end))
		p.evaluate(end)
	}
	if p.ramp.left > 0 {
		p.climb(at)
	}
	p.bucket.refill(at)
	p.grant()
	if due, ok := p.holdings.due(); ok && !now.Before(due) {
		p.holdings.release(now)
		p.evaluate(at)
	}
	if p.foldEnd != noAlarm && p.foldEnd <= at {
		p.evaluate(at)
	}
	if p.breaker.advance(at) || p.current.cooling && p.cooldowns.global <= at {
		p.announce(at)
	}
	return at
}

// climb takes the ramp's steps up to now, each at its time.
func (p *provider) climb(now time.Duration) {
	for due, ok := p.ramp.due(); ok && due <= now; due, ok = p.ramp.due() {
		p.bucket.refill(due)
		p.grant()
		p.ramp.climb()
		p.bucket.setRate(p.ramp.rate)
	}
	p.announce(now)
}

// evaluate derives the rate from the held levels and the policy, and reports
// whether anything is new to the outside.
func (p *provider) evaluate(at time.Duration) (changed bool) {
	p.foldEnd = noAlarm
	if target := max(p.config.MinRate, p.config.Rate*p.scale()); target != p.ramp.to {
		p.ramp.aim(target, at)
		p.bucket.setRate(p.ramp.rate)
	}
	return p.announce(at)
}

// scale is the override's, or what the policy makes of the held levels.
func (p *provider) scale() float64 {
	if p.override.on {
		return p.override.scale
	}
	level, _ := p.holdings.level()
	return p.policy.Scale(level)
}

// announce lets the outside know of what is new to it, and reports whether
// anything is.
func (p *provider) announce(at time.Duration) (changed bool) {
	level, _ := p.holdings.level()
	next := announced{
		level:      level,
		scale:      p.scale(),
		rate:       p.ramp.rate,
		target:     p.ramp.to,
		breaker:    p.breaker.state,
		cooling:    p.cooldowns.global > at,
		overridden: p.override.on,
	}
	if next == p.current {
		return false
	}
	p.current = next
	p.watchers.mark(p)
	return true
}

// wait returns how long it takes until so many tokens have come in all, the
// steps of the ramp included.
func (p *provider) wait(tokens uint64) time.Duration {
	b, r := p.bucket, p.ramp
	b.burst = boundless // those who are served in between make room
	for due, ok := r.due(); ok; due, ok = r.due() {
		if b.wait(tokens) <= due-b.at {
			break
		}
		b.refill(due)
		r.climb()
		b.setRate(r.rate)
	}
	wait, passed := b.wait(tokens), b.at-p.bucket.at
	if p.onHold {
		wait = max(wait, heldRetry)
	}
	if wait > Never-passed {
		return Never
	}
	return passed + wait
}

// grant serves the queue in order as far as the stored tokens go.
func (p *provider) grant() {
	if p.onHold {
		return
	}
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
// something: the head of the queue can be served, silence releases a level, folded
// events take effect, the ramp takes a step, the breaker half-opens, or the global
// cooldown or the override ends.
func (p *provider) arm(now time.Time) {
	wait := Never
	if front := p.queue.Front(); front != nil && !p.onHold {
		wait = p.bucket.wait(front.Value.(*waiter).tokens)
	}
	if due, ok := p.holdings.due(); ok {
		wait = min(wait, due.Sub(now))
	}
	at := now.Sub(p.start)
	if due, ok := p.ramp.due(); ok {
		wait = min(wait, due-at)
	}
	if p.foldEnd != noAlarm {
		wait = min(wait, p.foldEnd-at)
	}
	if p.breaker.state == BreakerOpen {
		wait = min(wait, p.breaker.until-at)
	}
	if p.current.cooling {
		wait = min(wait, p.cooldowns.global-at)
	}
	if p.override.on {
		wait = min(wait, p.override.until-at)
	}
	if wait == Never {
		if p.alarm != noAlarm {
			p.alarm = noAlarm
			p.timer.Stop()
		}
		return
	}
	wait = min(wait, maxAlarm)
	alarm := at + wait
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
	at := now.Sub(p.start)
	var target float64
	if p.ramp.left > 0 {
		target = p.ramp.to
	}
	return State{
		Provider:      p.name,
		Level:         level,
		Since:         since,
		Age:           age(since, now),
		Policy:        p.policy,
		Scale:         p.scale(),
		Override:      p.override.status(at),
		EffectiveRate: p.current.rate,
		RampTarget:    target,
		Breaker:       p.breaker.status(at),
		Cooldowns:     p.cooldowns.list(at),
		Tokens:        p.bucket.have.tokens(),
		Waiters:       p.queue.Len(),
		Granted:       p.granted,
		Denied:        p.denied,
		Stale:         p.stale,
		Evicted:       p.holdings.evicted,
		Coordinators:  len(p.holdings.byName),
		OnHold:        p.onHold,
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
