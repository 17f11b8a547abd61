package telemetry

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// resolvedCounters finds the counters of a vector whose labels take few values, but
// which are known only from event to event. The vector itself takes a lock and hashes
// every value each time.
type resolvedCounters struct {
	vec *prometheus.CounterVec

	mu    sync.Mutex                                    // held to add one
	known atomic.Pointer[map[labels]prometheus.Counter] // never changed, only replaced
}

// labels are the values of up to three labels, in the order of the vector.
type labels [3]string

func newResolvedCounters(vec *prometheus.CounterVec) *resolvedCounters {
	r := &resolvedCounters{vec: vec}
	r.known.Store(&map[labels]prometheus.Counter{})
	return r
}

// inc counts one with the first n of the values.
func (r *resolvedCounters) inc(n int, values labels) {
	c, ok := (*r.known.Load())[values]
	if !ok {
		c = r.resolve(n, values)
	}
	c.Inc()
}

func (r *resolvedCounters) resolve(n int, values labels) prometheus.Counter {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.vec.WithLabelValues(values[:n]...)
	more := maps.Clone(*r.known.Load())
	more[values] = c
	r.known.Store(&more)
	return c
}
