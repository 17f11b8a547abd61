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
		w := c.watchers.add(len(c.providers))
		defer c.watchers.remove(w)
		for {
			for i, p := range c.providers {
				if !c.watchers.take(w, i) {
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

// watcher is one running Watch. All slices go by the provider's index.
type watcher struct {
	changed []bool        // guarded by watchers.mu
	signal  chan struct{} // holds one when something has changed since the last look
	seen    []*announced  // what was last yielded
}

// offer yields a provider's state unless it is back to what was last yielded.
func (w *watcher) offer(p *provider, yield func(State) bool) bool {
	s, now := p.observe()
	if last := w.seen[p.index]; last != nil && *last == now {
		return true
	}
	w.seen[p.index] = &now
	return yield(s)
}

// watchers are the running Watches of a coordinator. Its mutex comes after a
// provider's.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]struct{}
}

// add starts a watcher that has yet to look at each of n providers.
func (ws *watchers) add(n int) *watcher {
	w := &watcher{
		changed: make([]bool, n),
		signal:  make(chan struct{}, 1),
		seen:    make([]*announced, n),
	}
	for i := range w.changed {
		w.changed[i] = true
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
func (ws *watchers) mark(index int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		w.changed[index] = true
		select {
		case w.signal <- struct{}{}:
		default:
		}
	}
}

// take reports whether a provider has changed since it was last taken.
func (ws *watchers) take(w *watcher, index int) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	changed := w.changed[index]
	w.changed[index] = false
	return changed
}
