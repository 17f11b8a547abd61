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
)

// The model below is a second, sequential implementation in whole numbers. It
// counts in units of 1/64 nanotoken and knows only rates that are multiples of
// 1/64 token/s, so that it is exact too.
const unit = 64

// call is one Acquire of a script.
type call struct {
	n        int
	begin    time.Duration
	end      time.Duration
	granted  bool
	finished bool
}

// op is one step of a script; exactly one of its parts is set.
type op struct {
	at      time.Duration
	acquire *call
	cancel  *call
	try     int
	level   *Level
	policy  *Policy
}

// model is one provider, as the documentation has it.
type model struct {
	now           time.Duration
	full, floor   int64 // units of rate
	burst, have   int64 // units of tokens
	policy        Policy
	level         Level
	queue         []*call
	granted, lost uint64
}

func (m *model) rate() int64 { return max(m.floor, int64(float64(m.full)*m.policy.Scale(m.level))) }

func (m *model) demand() (tokens int64) {
	for _, c := range m.queue {
		tokens += int64(c.n)
	}
	return tokens
}

// wait is the time until so many tokens have come in all.
func (m *model) wait(tokens int64) (time.Duration, bool) {
	missing := tokens*unit*nano - m.have
	if missing <= 0 {
		return 0, true
	}
	if m.rate() == 0 {
		return Never, false
	}
	return time.Duration((missing + m.rate() - 1) / m.rate()), true
}

func (m *model) refill(at time.Duration) {
	m.have = min(m.burst, m.have+int64(at-m.now)*m.rate())
	m.now = at
}

// advance grants whatever falls due up to a time.
func (m *model) advance(at time.Duration) {
	for len(m.queue) > 0 {
		head := m.queue[0]
		wait, ok := m.wait(int64(head.n))
		if !ok || m.now+wait > at {
			break
		}
		m.refill(m.now + wait)
		m.have -= int64(head.n) * unit * nano
		m.granted += uint64(head.n)
		head.end, head.granted, head.finished = m.now, true, true
		m.queue = m.queue[1:]
	}
	m.refill(at)
}

func (m *model) adjust() {
	if m.rate() == 0 {
		m.have = 0
	}
}

// run performs one step at its time and returns what a try yields.
func (m *model) run(o op) (ok bool, retryAfter time.Duration) {
	m.advance(o.at)
	switch {
	case o.acquire != nil:
		m.queue = append(m.queue, o.acquire)
		m.advance(o.at)
	case o.cancel != nil:
		i := slices.Index(m.queue, o.cancel)
		if i < 0 {
			break
		}
		m.queue = slices.Delete(m.queue, i, i+1)
		o.cancel.end, o.cancel.finished = m.now, true
		m.lost++
		m.advance(o.at)
	case o.try > 0:
		wait, _ := m.wait(m.demand() + int64(o.try))
		if len(m.queue) == 0 && wait == 0 {
			m.have -= int64(o.try) * unit * nano
			m.granted += uint64(o.try)
			return true, 0
		}
		m.lost++
		return false, wait
	case o.level != nil:
		m.level = *o.level
		m.adjust()
	case o.policy != nil:
		m.policy = *o.policy
		m.adjust()
	}
	return false, 0
}

// script is a random provider and what happens to it.
func script(rnd *rand.Rand) (ProviderConfig, *model, []op) {
	full := 1 + rnd.Int64N([]int64{10, 1000, 100_000}[rnd.IntN(3)])*4 // so that quarters are whole
	floor := int64(0)
	if rnd.IntN(2) == 0 {
		floor = rnd.Int64N(full + 1)
	}
	full *= 4
	burst := 1 + rnd.IntN(20)
	m := &model{
		full: full, floor: floor, policy: DefaultPolicy(),
		burst: int64(burst) * unit * nano, have: int64(burst) * unit * nano,
	}
	config := ProviderConfig{Rate: float64(full) / unit, MinRate: float64(floor) / unit, Burst: float64(burst)}

	perToken := time.Duration(unit * nano / full)
	scales := []float64{0, 0.25, 0.5, 0.75, 1}
	scale := func() float64 { return scales[rnd.IntN(len(scales))] }
	var ops []op
	var calls []*call
	var at time.Duration
	for range 4 + rnd.IntN(20) {
		at += time.Duration(rnd.Int64N(int64(perToken) * int64(1+rnd.IntN(2*burst))))
		o := op{at: at}
		switch pick := rnd.IntN(20); {
		case pick < 9 || len(calls) == 0:
			o.acquire = &call{n: 1 + rnd.IntN(burst), begin: at}
			calls = append(calls, o.acquire)
		case pick < 12:
			o.cancel = calls[rnd.IntN(len(calls))]
		case pick < 14:
			o.try = 1 + rnd.IntN(burst)
		case pick < 19:
			l := Level(rnd.IntN(levels))
			o.level = &l
		default:
			o.policy = &Policy{OK: scale(), Soft: scale(), Hard: scale()}
		}
		ops = append(ops, o)
	}
	// In the end the full rate, so that whoever still waits must be served.
	ok := OK
	return config, m, append(ops, op{at: at, policy: &Policy{OK: 1}}, op{at: at, level: &ok})
}

// Every Acquire returns at the very nanosecond at which the model grants it, in
// the order of the calls, whatever is lowered, raised, paused or cancelled in
// between. So none is early (the bound), none late (no lost wake-up), and none
// out of turn; the bound is checked once more for itself.
func TestAcquireFollowsTheModel(t *testing.T) {
	const scripts = 5000
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
		wantOK, wantRetry := m.run(o)
		switch {
		case o.acquire != nil:
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			mine := &call{n: o.acquire.n, begin: o.at}
			got[o.acquire], cancels[o.acquire] = mine, cancel
			wg.Go(func() {
				err := c.Acquire(ctx, "p", mine.n)
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("acquire: %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				mine.end, mine.granted, mine.finished = time.Since(start), err == nil, true
				if err == nil {
					record.grant(mine.end, mine.n)
				}
			})
		case o.cancel != nil:
			cancels[o.cancel]()
		case o.try > 0:
			ok, retry, err := c.TryAcquire("p", o.try)
			if ok != wantOK || retry != wantRetry || err != nil {
				t.Errorf("op %d: try %d: %v, %v, %v, want %v, %v", i, o.try, ok, retry, err, wantOK, wantRetry)
			}
			if ok {
				mu.Lock()
				record.grant(o.at, o.try)
				mu.Unlock()
			}
		case o.policy != nil:
			policy = *o.policy
			r, err := c.SetPolicy("p", policy)
			if err != nil {
				t.Errorf("op %d: %v", i, err)
			}
			mu.Lock()
			record.rate(o.at, r.State.EffectiveRate)
			mu.Unlock()
		case o.level != nil:
			level = *o.level
			// Events of rising times, their policy that of the model.
			a := Adjustment{Provider: "p", Level: level, Policy: policy, Time: start.Add(time.Duration(i))}
			r, err := c.Apply(a)
			if err != nil {
				t.Errorf("op %d: %v", i, err)
			}
			mu.Lock()
			record.rate(o.at, r.State.EffectiveRate)
			mu.Unlock()
		}
		synctest.Wait()
		if i%4 != 0 {
			continue // reading the state brings it to the present, and so could hide a lost wake-up
		}
		s := mustState(t, c)
		want := State{
			Level: m.level, Scale: m.policy.Scale(m.level), EffectiveRate: float64(m.rate()) / unit,
			Waiters: len(m.queue), Granted: m.granted, Denied: m.lost,
		}
		if s.Level != want.Level || s.Scale != want.Scale || s.EffectiveRate != want.EffectiveRate ||
			s.Waiters != want.Waiters || s.Granted != want.Granted || s.Denied != want.Denied {
			t.Fatalf("op %d: state %+v, want %+v", i, s, want)
		}
		have := quantity{hi: uint64(m.have / unit), lo: uint64(m.have%unit) << (64 - 6)}
		if s.Tokens != have.tokens() {
			t.Fatalf("op %d: %v tokens, want %v", i, s.Tokens, have.tokens())
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
		if mine.granted != want.granted || mine.end != want.end {
			t.Errorf("acquire %d at %v: granted %v at %v, want %v at %v",
				want.n, want.begin, mine.granted, mine.end, want.granted, want.end)
		}
		if mine.granted && mine.end < last {
			t.Errorf("acquire %d at %v: granted at %v, before an earlier call", want.n, want.begin, mine.end)
		}
		if mine.granted {
			last = mine.end
		}
	}
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
// too, while goroutines acquire, try, give up and read all at once.
func TestConcurrentAcquirersKeepTheBound(t *testing.T) {
	const runs = 3000
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
		const waiters = 1000
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
