package rate

import (
	"cmp"
	"fmt"
	"time"
)

// Configure makes the coordinator's providers those of configs, in their order. One
// that was there before goes on as it is, with its levels, tokens, cooldowns and
// override, under its new settings; a Policy that is given takes effect as by
// SetPolicy, and a nil one leaves the policy alone. One that is new starts as
// NewCoordinator would have it. One that is declared no more is unknown from then on:
// who waits for its tokens gets ErrUnknownProvider. Who waits for more tokens than a
// burst that is smaller now gets ErrTokens. With an error, which names everything that
// is wrong, nothing has changed.
func (c *Coordinator) Configure(configs []ProviderConfig) error {
	if err := validateProviders(configs); err != nil {
		return err
	}
	c.setProviders(configs)
	return nil
}

// setProviders is Configure for providers that are valid.
func (c *Coordinator) setProviders(configs []ProviderConfig) {
	c.configure.Lock()
	defer c.configure.Unlock()
	before := c.roster.Load()
	next := &roster{byName: make(map[string]*provider, len(configs))}
	for _, pc := range configs {
		policy := pc.Policy
		pc = pc.withDefaults()
		pc.MaxFutureSkew = cmp.Or(pc.MaxFutureSkew, c.skew)
		p := before.byName[pc.Name]
		if p != nil {
			p.reconfigure(pc, policy)
		} else {
			p = newProvider(pc, c.clock, c.clock.Now(), c.watchers)
			p.folding, p.onHold = c.folding, c.held
			if c.journals {
				p.holdings.keepJournal()
			}
		}
		next.providers = append(next.providers, p)
		next.byName[pc.Name] = p
	}
	c.roster.Store(next)
	for _, p := range next.providers {
		if before.byName[p.name] == nil {
			c.watchers.mark(p)
		}
	}
	for _, p := range before.providers {
		if next.byName[p.name] == nil {
			p.retire()
		}
	}
}

// reconfigure gives the provider other settings; policy is nil to keep the one it has.
func (p *provider) reconfigure(config ProviderConfig, policy *Policy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	p.config = config
	p.bucket.resize(config.Burst)
	p.ramp.every = stepOf(config.RampUp)
	p.breaker.reconfigure(config.Breaker)
	p.holdings.reconfigure(config.MaxCoordinators, config.Aggregate, config.OnSilence, now)
	if policy != nil {
		p.adopt(*policy, now)
	}
	p.refuseOverlarge()
	p.evaluate(at)
	p.grant() // whoever stood behind one that is refused
}

// refuseOverlarge turns away those who wait for more than the bucket can hold.
func (p *provider) refuseOverlarge() {
	for e := p.queue.Front(); e != nil; {
		next, w := e.Next(), e.Value.(*waiter)
		if err := p.check(int(w.tokens)); err != nil {
			w.refused = err
			p.queue.Remove(e)
			p.demand -= w.tokens
			p.denied++
			p.breaker.giveBack(1)
			close(w.ready)
		}
		e = next
	}
}

// retire ends a provider that is declared no more.
func (p *provider) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	for e := p.queue.Front(); e != nil; e = e.Next() {
		w := e.Value.(*waiter)
		w.refused = fmt.Errorf("%w %q", ErrUnknownProvider, p.name)
		close(w.ready)
	}
	p.queue.Init()
	p.demand = 0
	if p.timer != nil {
		p.timer.Stop()
	}
}

// resize changes what the bucket can hold. What it has stays, as far as it fits.
func (b *bucket) resize(burst float64) {
	b.burst = amount(burst)
	if b.burst.less(b.have) {
		b.have = b.burst
	}
}

// reconfigure gives the breaker other settings. An open one stays open until the time
// that it was opened for; without a threshold there is none.
func (b *breaker) reconfigure(config Breaker) {
	if config.Threshold == 0 {
		*b = breaker{}
	}
	b.config = config
}

// reconfigure gives the holdings other settings. What goes beyond a limit that is
// lower now is evicted as ever.
func (h *holdings) reconfigure(limit int, aggregate Aggregate, silence Silence, now time.Time) {
	same := h.aggregate == aggregate && h.silence == silence
	h.limit, h.aggregate, h.silence = limit, aggregate, silence
	if !same {
		h.rearrange(now)
	}
	for len(h.byName) > h.limit {
		h.drop(h.victim())
		h.evicted++
	}
	for len(h.gone) > h.limit {
		h.dropOldest(h.goneLog.Front())
	}
}

// rearrange puts every level in its place anew.
func (h *holdings) rearrange(now time.Time) {
	for l := range h.byAge {
		h.byAge[l].items = nil
	}
	h.byDue.items, h.newest = nil, nil
	for _, e := range h.byName {
		h.place(e, now)
		h.followNewest(e)
	}
}
