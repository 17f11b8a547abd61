package rate

import (
	"cmp"
	"slices"
	"time"
)

// heldRetry is the wait that TryAcquire names while a coordinator is on hold, when
// nobody knows how long that lasts.
const heldRetry = 250 * time.Millisecond

// Folding lets the events of a backlog take effect together. An event older than
// Older changes the levels at once, but the rate only Within later, with whatever
// else came meanwhile: of a burst of old events the rate follows the last one of
// each coordinator. A younger event takes effect at once and so do, with it, those
// that wait. The zero value folds nothing.
type Folding struct{ Older, Within time.Duration }

// Hold makes every Acquire wait, and TryAcquire grant nothing, until Release: what
// a provider may grant is not known before its levels have been restored.
func (c *Coordinator) Hold() {
	c.configure.Lock()
	defer c.configure.Unlock()
	c.held = true
	for _, p := range c.providers() {
		p.hold()
	}
}

// Release ends a Hold. Who waits is served in the order of the calls.
func (c *Coordinator) Release() {
	c.configure.Lock()
	defer c.configure.Unlock()
	c.held = false
	for _, p := range c.providers() {
		p.release()
	}
}

// Settle lets folded events take effect now.
func (c *Coordinator) Settle() {
	for _, p := range c.providers() {
		p.settle()
	}
}

// Journal begins to note what changes, for Changes to return.
func (c *Coordinator) Journal() {
	c.configure.Lock()
	defer c.configure.Unlock()
	c.journals = true
	for _, p := range c.providers() {
		p.mu.Lock()
		p.holdings.keepJournal()
		p.mu.Unlock()
	}
}

// Changes returns up to n records, all when n is negative, of a provider that changed since Changes last
// returned them, each with its present content, in any order. Without a Journal
// there are none. The only error is ErrUnknownProvider.
func (c *Coordinator) Changes(provider string, n int) ([]Record, error) {
	p, err := c.provider(provider)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holdings.takeChanges(n), nil
}

// Changed reports whether Changes would return anything of any provider.
func (c *Coordinator) Changed() bool {
	for _, p := range c.providers() {
		p.mu.Lock()
		j := p.holdings.journal
		changed := j != nil && len(j.changed)+len(j.dropped) > 0
		p.mu.Unlock()
		if changed {
			return true
		}
	}
	return false
}

// PutBack makes Changes return records again that it returned, with what is known
// by then. The only error is ErrUnknownProvider.
func (c *Coordinator) PutBack(provider string, records []Record) error {
	p, err := c.provider(provider)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holdings.journal != nil {
		p.holdings.putBack(records)
	}
	return nil
}

// Records returns all that is known of a provider's coordinators, those that are
// held before those that are gone. The only error is ErrUnknownProvider.
func (c *Coordinator) Records(provider string) ([]Record, error) {
	p, err := c.provider(provider)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holdings.records(), nil
}

// Merge takes in records from outside, as Apply takes in events, and lets them take
// effect together. A record that says nothing new changes nothing, and a Dropped
// one nothing at all. Records with an unknown level or without a time are left out.
// It reports whether the provider's level is another than before. The only error is
// ErrUnknownProvider.
func (c *Coordinator) Merge(provider string, records []Record) (changed bool, err error) {
	p, err := c.provider(provider)
	if err != nil {
		return false, err
	}
	records = slices.DeleteFunc(slices.Clone(records), func(r Record) bool {
		return r.Dropped || r.Level >= levels || r.Time.IsZero()
	})
	// The oldest first, so that of those that are gone the oldest are forgotten first.
	slices.SortFunc(records, func(a, b Record) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Coordinator, b.Coordinator))
	})
	return p.merge(records), nil
}

func (p *provider) hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	p.onHold = true
	p.arm(now)
}

func (p *provider) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	p.advance(now)
	p.onHold = false
	p.grant()
	p.arm(now)
}

func (p *provider) merge(records []Record) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	before, _ := p.holdings.level()
	for _, r := range records {
		r.Time = r.Time.UTC().Round(0)
		p.holdings.merge(r, now)
	}
	if p.foldEnd == noAlarm { // else the records take effect with the events that wait
		p.evaluate(at)
	}
	after, _ := p.holdings.level()
	return after != before
}

func (p *provider) settle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock.Now()
	at := p.advance(now)
	defer p.arm(now)
	p.evaluate(at)
}

// folds reports whether an event of time t takes effect later, and sees to it that
// it does.
func (p *provider) folds(t, now time.Time, at time.Duration) bool {
	if f := p.folding; f.Older <= 0 || now.Sub(t) <= f.Older {
		return false
	}
	if p.foldEnd == noAlarm {
		p.foldEnd = later(at, p.folding.Within)
	}
	return true
}
