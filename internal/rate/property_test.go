package rate

import (
	"context"
	"errors"
	"math/big"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The model below is a second, sequential implementation in whole numbers. It
// counts in units of 2⁻⁶⁴ nanotoken, so that it is exact too.

// call is one Acquire of a script.
type call struct {
	n        int
	begin    time.Duration
	end      time.Duration
	why      error // nil when it was granted
	finished bool
}

// op is one step of a script; exactly one of its parts is set.
type op struct {
	at       time.Duration
	acquire  *call
	cancel   *call
	try      int
	level    *Level
	policy   *Policy
	success  bool
	failure  bool
	cooldown time.Duration
	override *override // until is how long
	end      bool      // of the override
}

// model is one provider, as the documentation has it.
type model struct {
	now           time.Duration
	full, floor   float64  // tokens/s
	burst, have   *big.Int // units
	policy        Policy
	level         Level
	queue         []*call
	granted, lost uint64

	rampUp   time.Duration
	from, to float64 // a ramp, done or not
	raised   time.Duration
	changes  []change // of the rate

	breaker  Breaker
	state    BreakerState
	failures int
	probes   int
	shut     time.Duration // until when
	cooling  time.Duration // until when

	override override
}

// units are those of a number of nanotokens, rounded down.
func units(nanotokens float64) *big.Int {
	n, _ := new(big.Float).SetMantExp(exact(nanotokens), 64).Int(nil)
	return n
}

func (m *model) scale() float64 {
	if m.override.on {
		return m.override.scale
	}
	return m.policy.Scale(m.level)
}

// target is the rate that override, or level and policy, ask for.
func (m *model) target() float64 { return max(m.floor, m.full*m.scale()) }

// rate is the rate at a time, and until when that holds.
func (m *model) rate(at time.Duration) (float64, time.Duration) {
	if m.rampUp == 0 || m.to <= m.from {
		return m.to, Never
	}
	step := (m.rampUp + 99) / 100
	k := (at - m.raised) / step
	if k >= 100 {
		return m.to, Never
	}
	return m.from + (m.to-m.from)*float64(k)/100, m.raised + (k+1)*step
}

func (m *model) demand() (tokens int) {
	for _, c := range m.queue {
		tokens += c.n
	}
	return tokens
}

// wait is the time until so many tokens have come in all.
func (m *model) wait(tokens int) time.Duration {
	missing := new(big.Int).Sub(units(float64(tokens)*nano), m.have)
	for at := m.now; missing.Sign() > 0; {
		rate, until := m.rate(at)
		if rate == 0 && until == Never {
			return Never
		}
		per := units(rate)
		yield := new(big.Int).Mul(per, big.NewInt(int64(until-at)))
		if yield.Cmp(missing) < 0 {
			missing.Sub(missing, yield)
			at = until
			continue
		}
		quo, rem := new(big.Int).QuoRem(missing, per, new(big.Int))
		at += time.Duration(quo.Int64())
		if rem.Sign() > 0 {
			at++
		}
		return at - m.now
	}
	return 0
}

func (m *model) refill(at time.Duration) {
	for m.now < at {
		rate, until := m.rate(m.now)
		until = min(until, at)
		yield := new(big.Int).Mul(units(rate), big.NewInt(int64(until-m.now)))
		if yield.Add(yield, m.have); yield.Cmp(m.burst) > 0 {
			yield.Set(m.burst)
		}
		m.have = yield
		m.now = until
		m.note()
	}
}

// note keeps the rate of now for the bound.
func (m *model) note() {
	rate, _ := m.rate(m.now)
	m.changes = append(m.changes, change{m.now, rate})
}

func (m *model) take(n int) {
	m.have = new(big.Int).Sub(m.have, units(float64(n)*nano))
	m.granted += uint64(n)
}

// advance grants whatever falls due up to a time.
func (m *model) advance(at time.Duration) {
	if end := m.override.until; m.override.on && end <= at {
		m.override = override{on: true, scale: m.override.scale, until: Never}
		m.advance(end)
		m.override = override{}
		m.adjust()
	}
	for len(m.queue) > 0 {
		head := m.queue[0]
		wait := m.wait(head.n)
		if wait > at-m.now {
			break
		}
		m.refill(m.now + wait)
		m.take(head.n)
		head.end, head.finished = m.now, true
		m.queue = m.queue[1:]
	}
	m.refill(at)
	if m.state == BreakerOpen && m.shut <= m.now {
		m.state, m.probes = BreakerHalfOpen, 0
	}
}

func (m *model) adjust() {
	to := m.target()
	if to == m.to {
		return
	}
	m.from, _ = m.rate(m.now)
	m.to, m.raised = to, m.now
	if m.note(); to == 0 {
		m.have = new(big.Int)
	}
}

// shutFor is how long the breaker refuses calls.
func (m *model) shutFor() time.Duration {
	if m.state == BreakerOpen || m.state == BreakerHalfOpen && m.probes == m.breaker.HalfOpen {
		return max(0, m.shut-m.now)
	}
	return 0
}

// refusal says why a call is refused now, and for how long.
func (m *model) refusal() (time.Duration, error) {
	open, cooling := m.shutFor(), max(0, m.cooling-m.now)
	switch {
	case open > cooling:
		return open, ErrBreakerOpen
	case cooling > 0:
		return cooling, ErrCooldown
	}
	return 0, nil
}

// admit counts a call that was not refused.
func (m *model) admit() {
	if m.state != BreakerHalfOpen {
		return
	}
	m.probes = m.probes%m.breaker.HalfOpen + 1
	if m.probes == m.breaker.HalfOpen {
		m.shut = m.now + m.breaker.OpenFor
	}
}

// clear refuses everyone who waits.
func (m *model) clear() {
	_, why := m.refusal()
	for _, c := range m.queue {
		c.end, c.why, c.finished = m.now, why, true
		m.lost++
		m.probes = max(0, m.probes-1)
	}
	m.queue = nil
}

// run performs one step at its time and returns what a try yields.
func (m *model) run(o op) (ok bool, retryAfter time.Duration, why error) {
	m.advance(o.at)
	switch {
	case o.acquire != nil:
		if _, why := m.refusal(); why != nil {
			o.acquire.end, o.acquire.why, o.acquire.finished = m.now, why, true
			m.lost++
			break
		}
		m.admit()
		m.queue = append(m.queue, o.acquire)
		m.advance(o.at)
	case o.cancel != nil:
		i := slices.Index(m.queue, o.cancel)
		if i < 0 {
			break
		}
		m.queue = slices.Delete(m.queue, i, i+1)
		o.cancel.end, o.cancel.why, o.cancel.finished = m.now, context.Canceled, true
		m.lost++
		m.probes = max(0, m.probes-1)
		m.advance(o.at)
	case o.try > 0:
		if retryAfter, why := m.refusal(); why != nil {
			m.lost++
			return false, retryAfter, why
		}
		wait := m.wait(m.demand() + o.try)
		if len(m.queue) == 0 && wait == 0 {
			m.admit()
			m.take(o.try)
			return true, 0, nil
		}
		m.lost++
		return false, wait, nil
	case o.level != nil:
		m.level = *o.level
		m.adjust()
	case o.policy != nil:
		m.policy = *o.policy
		m.adjust()
	case o.success:
		m.failures = 0
		if m.state == BreakerHalfOpen {
			m.state = BreakerClosed
		}
	case o.failure && m.breaker.Threshold > 0 && m.state != BreakerOpen:
		if m.failures++; m.failures == m.breaker.Threshold || m.state == BreakerHalfOpen {
			m.state, m.failures, m.shut = BreakerOpen, 0, m.now+m.breaker.OpenFor
			m.clear()
		}
	case o.cooldown > 0:
		m.cooling = max(m.cooling, m.now+o.cooldown)
		m.clear()
	case o.override != nil:
		m.override = *o.override
		m.override.until += m.now
		m.adjust()
	case o.end:
		m.override = override{}
		m.adjust()
	}
	return false, 0, nil
}

// snapshot is the state after the last step.
func (m *model) snapshot() State {
	rate, until := m.rate(m.now)
	whole, part := new(big.Int).DivMod(m.have, units(1), new(big.Int))
	s := State{
		Provider: "p", Level: m.level, Policy: m.policy, Scale: m.scale(), EffectiveRate: rate,
		Override: m.override.status(m.now),
		Waiters:  len(m.queue), Granted: m.granted, Denied: m.lost,
		Breaker: BreakerStatus{State: m.state, Failures: m.failures, RetryAfter: m.shutFor()},
		Tokens:  quantity{hi: whole.Uint64(), lo: part.Uint64()}.tokens(),
	}
	if until != Never {
		s.RampTarget = m.to
	}
	if m.cooling > m.now {
		s.Cooldowns = []Cooldown{{GlobalScope, m.cooling - m.now}}
	}
	return s
}

// script is a random provider and what happens to it.
func script(rnd *rand.Rand) (ProviderConfig, *model, []op) {
	full := (1 + rnd.Float64()*[]float64{10, 1000, 100_000}[rnd.IntN(3)]) / 16
	floor := 0.0
	if rnd.IntN(2) == 0 {
		floor = full / 4 * rnd.Float64()
	}
	burst := 1 + rnd.IntN(20)
	perToken := time.Duration(nano / full)
	config := ProviderConfig{Rate: full, MinRate: floor, Burst: float64(burst)}
	if rnd.IntN(3) == 0 {
		config.RampUp = minRampUp + time.Duration(rnd.Int64N(int64(perToken)*40))
	}
	if rnd.IntN(3) == 0 {
		config.Breaker = Breaker{
			Threshold: 1 + rnd.IntN(3), OpenFor: 1 + time.Duration(rnd.Int64N(int64(perToken)*10)), HalfOpen: 1 + rnd.IntN(3),
		}
	}
	m := &model{
		full: full, floor: floor, policy: DefaultPolicy(), from: full, to: full, rampUp: config.RampUp, breaker: config.Breaker,
		burst: units(float64(burst) * nano), have: units(float64(burst) * nano),
	}
	m.note()

	scales := []float64{0, 0.25, 0.5, 0.75, 1}
	scale := func() float64 { return scales[rnd.IntN(len(scales))] }
	var ops []op
	var calls []*call
	var at time.Duration
	for range 4 + rnd.IntN(20) {
		at += time.Duration(rnd.Int64N(int64(perToken) * int64(1+rnd.IntN(2*burst))))
		o := op{at: at}
		switch pick := rnd.IntN(22); {
		case pick < 9 || len(calls) == 0:
			o.acquire = &call{n: 1 + rnd.IntN(burst), begin: at}
			calls = append(calls, o.acquire)
		case pick < 12:
			o.cancel = calls[rnd.IntN(len(calls))]
		case pick < 14:
			o.try = 1 + rnd.IntN(burst)
		case pick < 15 && config.Breaker.Threshold > 0:
			o.success = true
		case pick < 17 && config.Breaker.Threshold > 0:
			o.failure = true
		case pick < 19:
			l := Level(rnd.IntN(levels))
			o.level = &l
		case pick < 21:
			o.override = &override{on: true, scale: scale(), until: 1 + time.Duration(rnd.Int64N(int64(perToken)*20)), reason: "test"}
			o.end = rnd.IntN(4) == 0
			if o.end {
				o.override = nil
			}
		case rnd.IntN(2) == 0:
			o.cooldown = 1 + time.Duration(rnd.Int64N(int64(perToken)*10))
		default:
			o.policy = &Policy{OK: scale(), Soft: scale(), Hard: scale()}
		}
		ops = append(ops, o)
	}
	// In the end the full rate, so that whoever still waits must be served.
	ok := OK
	return config, m, append(ops, op{at: at, policy: &Policy{OK: 1}}, op{at: at, level: &ok}, op{at: at, end: true})
}

// Every Acquire returns at the very nanosecond at which the model grants or
// refuses it, in the order of the calls, whatever is lowered, raised at once or
// over time, paused, overridden, cancelled, opened or cooled down in between. So none is
// early (the bound), none late (no lost wake-up), and none out of turn; the
// bound is checked once more for itself.
func TestAcquireFollowsTheModel(t *testing.T) {
	t.Parallel()
	const scripts = 10_000
	for seed := range uint64(scripts) {
		config, m, ops := script(rand.New(rand.NewPCG(seed, 1)))
		synctest.Test(t, func(t *testing.T) { follow(t, config, m, ops) })
		if t.Failed() {
			t.Fatalf("seed %d: %+v", seed, config)
		}
	}
}

func follow(t *testing.T, config ProviderConfig, m *model, ops []op) {
	start := time.Now()
	c := newTestCoordinator(t, nil, config)
	policy := DefaultPolicy()
	var level Level
	record := newLedger(config.Burst, mustState(t, c).EffectiveRate)
	got := make(map[*call]*call)
	cancels := make(map[*call]context.CancelFunc)
	var mu sync.Mutex
	var wg sync.WaitGroup

	for i, o := range ops {
		time.Sleep(time.Until(start.Add(o.at)))
		wantOK, wantRetry, wantErr := m.run(o)
		switch {
		case o.acquire != nil:
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			mine := &call{n: o.acquire.n, begin: o.at}
			got[o.acquire], cancels[o.acquire] = mine, cancel
			wg.Go(func() {
				err := c.Acquire(ctx, "p", mine.n)
				mu.Lock()
				defer mu.Unlock()
				mine.end, mine.why, mine.finished = time.Since(start), err, true
				if err == nil {
					record.grant(mine.end, mine.n)
				}
			})
		case o.cancel != nil:
			cancels[o.cancel]()
		case o.try > 0:
			ok, retry, err := c.TryAcquire("p", o.try)
			if ok != wantOK || retry != wantRetry || !errors.Is(err, wantErr) {
				t.Errorf("op %d: try %d: %v, %v, %v, want %v, %v, %v", i, o.try, ok, retry, err, wantOK, wantRetry, wantErr)
			}
			if ok {
				mu.Lock()
				record.grant(o.at, o.try)
				mu.Unlock()
			}
		case o.policy != nil:
			policy = *o.policy
			if _, err := c.SetPolicy("p", policy); err != nil {
				t.Errorf("op %d: %v", i, err)
			}
		case o.level != nil:
			level = *o.level
			// Events of rising times, their policy that of the model.
			a := Adjustment{Provider: "p", Level: level, Policy: policy, Time: start.Add(time.Duration(i))}
			if _, err := c.Apply(a); err != nil {
				t.Errorf("op %d: %v", i, err)
			}
		case o.success, o.failure:
			record := c.RecordSuccess
			if o.failure {
				record = c.RecordFailure
			}
			if err := record("p"); err != nil {
				t.Errorf("op %d: %v", i, err)
			}
		case o.cooldown > 0:
			if err := c.TriggerCooldown("p", GlobalScope, o.cooldown); err != nil {
				t.Errorf("op %d: %v", i, err)
			}
		case o.override != nil:
			if _, err := c.Override("p", o.override.scale, o.override.until, o.override.reason); err != nil {
				t.Errorf("op %d: %v", i, err)
			}
		case o.end:
			if _, err := c.EndOverride("p"); err != nil {
				t.Errorf("op %d: %v", i, err)
			}
		}
		synctest.Wait()
		if i%4 != 0 {
			continue // reading the state brings it to the present, and so could hide a lost wake-up
		}
		if diff := cmp.Diff(m.snapshot(), mustState(t, c), cmpopts.IgnoreFields(State{}, "Since", "Age", "Coordinators")); diff != "" {
			t.Fatalf("op %d: state differs (-model +coordinator):\n%s", i, diff)
		}
	}
	m.advance(Never / 2)
	wg.Wait()
	var last time.Duration
	for _, o := range ops {
		want := o.acquire
		if want == nil {
			continue
		}
		mine := got[want]
		if !mine.finished || !errors.Is(mine.why, want.why) || mine.end != want.end {
			t.Errorf("acquire %d at %v: %v at %v, want %v at %v", want.n, want.begin, mine.why, mine.end, want.why, want.end)
		}
		if mine.why == nil && mine.end < last {
			t.Errorf("acquire %d at %v: granted at %v, before an earlier call", want.n, want.begin, mine.end)
		}
		if mine.why == nil {
			last = mine.end
		}
	}
	record.rates = m.changes
	record.check(t)
}

// ledger records grants and rates to check the bound: over any window the
// tokens granted are at most the burst plus the integral of the rate. Sums are
// exact, since all floats are binary fractions and the precision holds them.
type ledger struct {
	burst  *big.Float
	grants []grant
	rates  []change
}

type grant struct {
	at time.Duration
	n  int
}

type change struct {
	at   time.Duration
	rate float64
}

func exact(x float64) *big.Float { return new(big.Float).SetPrec(512).SetFloat64(x) }

func newLedger(burst, rate float64) *ledger {
	return &ledger{burst: new(big.Float).Mul(exact(burst), exact(nano)), rates: []change{{0, rate}}}
}

func (l *ledger) grant(at time.Duration, n int)        { l.grants = append(l.grants, grant{at, n}) }
func (l *ledger) rate(at time.Duration, value float64) { l.rates = append(l.rates, change{at, value}) }

// check tests every window from one grant to another. With G the tokens
// granted before a grant and I the integral up to it, the bound over the window
// from grant i to grant j is (G(j)+n(j)-I(j)) - (G(i)-I(i)) ≤ burst, so the
// least G(i)-I(i) so far decides for all i at once.
func (l *ledger) check(t *testing.T) {
	t.Helper()
	slices.SortStableFunc(l.grants, func(a, b grant) int { return int(a.at - b.at) })
	sum, least := exact(0), exact(0)
	var now time.Duration
	next := 0
	rate := l.rates[0].rate
	pass := func(to time.Duration) { // takes off what the rate yields until then
		sum.Sub(sum, new(big.Float).SetPrec(512).Mul(exact(rate), exact(float64(to-now))))
		now = to
	}
	for _, g := range l.grants {
		for ; next < len(l.rates) && l.rates[next].at <= g.at; next++ {
			pass(l.rates[next].at)
			rate = l.rates[next].rate
		}
		pass(g.at)
		if sum.Cmp(least) < 0 {
			least.Set(sum)
		}
		sum.Add(sum, exact(float64(g.n)*nano))
		if over := new(big.Float).Sub(sum, least); over.Cmp(l.burst) > 0 {
			t.Errorf("at %v: %v nanotokens granted beyond the rate, the burst is %v", g.at, over, l.burst)
			return
		}
	}
}

// The same bound with rates that are no neat fractions, released by silence
// too, while goroutines acquire, try, give up and read all at once, with ramps and
// overrides.
func TestConcurrentAcquirersKeepTheBound(t *testing.T) {
	t.Parallel()
	const runs = 10_000
	for seed := range uint64(runs) {
		synctest.Test(t, func(t *testing.T) { compete(t, rand.New(rand.NewPCG(seed, 2))) })
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func compete(t *testing.T, rnd *rand.Rand) {
	start := time.Now()
	rate := rnd.Float64() * []float64{1, 100, 1e6}[rnd.IntN(3)]
	config := ProviderConfig{Rate: rate, MinRate: rate * rnd.Float64() * float64(rnd.IntN(2)), Burst: 1 + rnd.Float64()*9}
	perToken := time.Duration(nano / rate)
	if rnd.IntN(2) == 0 {
		config.OnSilence = Silence{After: 1 + 5*perToken, Step: rnd.IntN(2) == 0}
	}
	if rnd.IntN(3) == 0 {
		config.RampUp = minRampUp + time.Duration(rnd.Int64N(int64(20*perToken)+1))
	}
	c := newTestCoordinator(t, nil, config)
	record := newLedger(config.Burst, mustState(t, c).EffectiveRate)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for worker := range 4 {
		seed := rnd.Uint64()
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 3))
			for range 8 {
				n := 1 + rnd.IntN(int(config.Burst))
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if rnd.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rnd.Int64N(int64(4*perToken)+1)))
				}
				var ok bool
				var err error
				if worker == 0 {
					ok, _, err = c.TryAcquire("p", n)
				} else if err = c.Acquire(ctx, "p", n); err == nil {
					ok = true
				} else if errors.Is(err, context.DeadlineExceeded) {
					err = nil
				}
				cancel()
				mu.Lock()
				if ok {
					record.grant(time.Since(start), n)
				}
				mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if rnd.IntN(2) == 0 {
					time.Sleep(time.Duration(rnd.Int64N(int64(2*perToken) + 1)))
				}
			}
		})
	}
	// One goroutine follows the rate, which changes at known instants only.
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		for s := range c.Watch(ctx) {
			mu.Lock()
			record.rate(time.Since(start), s.EffectiveRate)
			mu.Unlock()
		}
	})
	// Two change it, so that adjustments compete as well. At the end all is ok.
	var changing sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		seed := rnd.Uint64()
		changing.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 4))
			for k := range 9 {
				time.Sleep(time.Duration(1 + rnd.Int64N(int64(3*perToken)+1)))
				if rnd.IntN(6) == 0 {
					ttl := time.Duration(1 + rnd.Int64N(min(int64(5*perToken), int64(MaxOverride))))
					if _, err := c.Override("p", rnd.Float64(), ttl, "test"); err != nil {
						t.Error(err)
					}
				}
				level := Level(rnd.IntN(levels))
				if k == 8 {
					level = OK
				}
				a := Adjustment{Provider: "p", Coordinator: name, Level: level, Policy: DefaultPolicy(), Time: time.Now()}
				if _, err := c.Apply(a); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	changing.Wait()
	stop()
	following.Wait()
	if s := mustState(t, c); s.Waiters != 0 {
		t.Errorf("%d still wait", s.Waiters)
	}
	record.check(t)
}

func TestManyWaitersWakeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waiters = 1500 // of whom a third gives up
		c := newTestCoordinator(t, nil, ProviderConfig{Rate: 1000, Burst: 1})
		mustApply(t, c, "a", Hard, time.Now())
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range waiters {
			ctx, cancel := context.WithCancel(t.Context())
			wg.Go(func() {
				if err := c.Acquire(ctx, "p", 1); err != nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			defer cancel()
			synctest.Wait() // it is in the queue
			if i%3 == 1 {
				cancel()
			}
		}
		synctest.Wait()
		if s := mustState(t, c); s.Waiters != waiters-waiters/3 || len(order) != 0 {
			t.Fatalf("%d wait and %d are served during the pause", s.Waiters, len(order))
		}
		time.Sleep(time.Hour)
		paused := time.Now()
		mustApply(t, c, "a", OK, time.Now())
		wg.Wait()
		if want := waiters - waiters/3; len(order) != want || !slices.IsSorted(order) {
			t.Errorf("%d served, want %d in order: %v", len(order), want, order)
		}
		if got, want := time.Since(paused), time.Duration(len(order))*time.Millisecond; got != want {
			t.Errorf("took %v, want %v", got, want)
		}
	})
}
