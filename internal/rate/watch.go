package rate

import (
	"context"
	"iter"
	"sync"
)

// Watch yields every provider's state once and from then on the state of each
// provider whose level, scale, effective rate or ramp target, breaker's state,
// global cooldown or override has changed, until ctx is done or the loop is left.
// Changes that come faster than they are taken are coalesced into the latest
// state, so a slow loop holds nobody up. It starts no goroutine.
func (c *Coordinator) Watch(ctx context.Context) iter.Seq[State] {
	return func(yield func(State) bool) {
		w := c.watchers.add()
		defer c.watchers.remove(w)
		for {
			for _, p := range c.providers() {
				if !c.watchers.take(w, p) {
					continue
				}
				if ctx.Err() != nil || !w.offer(p, yield) {
					return
				}
			}
			select {
			case <-w.signal:
			case <-ctx.Done():
				return
			}
		}
	}
}

// watcher is one running Watch.
type watcher struct {
	looked map[*provider]struct{}   // guarded by watchers.mu: those that have not changed since they were looked at
	signal chan struct{}            // holds one when something has changed since the last look
	seen   map[*provider]*announced // what was last yielded
}

// offer yields a provider's state unless it is back to what was last yielded.
func (w *watcher) offer(p *provider, yield func(State) bool) bool {
	s, now := p.observe()
	if last := w.seen[p]; last != nil && *last == now {
		return true
	}
	w.seen[p] = &now
	return yield(s)
}

// watchers are the running Watches of a coordinator. Its mutex comes after a
// provider's.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]struct{}
}

// add starts a watcher that has yet to look at each provider.
func (ws *watchers) add() *watcher {
	w := &watcher{
		looked: make(map[*provider]struct{}),
		signal: make(chan struct{}, 1),
		seen:   make(map[*provider]*announced),
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.all[w] = struct{}{}
	return w
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

// mark tells every watcher that a provider has changed. It never blocks.
func (ws *watchers) mark(p *provider) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		delete(w.looked, p)
		select {
		case w.signal <- struct{}{}:
		default:
		}
	}
}

// take reports whether a provider has changed since it was last taken.
func (ws *watchers) take(w *watcher, p *provider) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	_, looked := w.looked[p]
	w.looked[p] = struct{}{}
	return !looked
}
