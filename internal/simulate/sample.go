package simulate

import (
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/rate"
)

// Sample is what happened since the sample before.
type Sample struct {
	// At is the end of the sample's time.
	At time.Duration
	// Depth is the queue's at that end, in items, MinDepth and MaxDepth those of
	// the whole time.
	Depth, MinDepth, MaxDepth int
	// Level and Scale are the provider's at that end, Worst the worst level of
	// the whole time.
	Level, Worst event.Level
	Scale        float64
	// Rate is the mean effective rate of the provider, in tokens/s.
	Rate float64
	// Fetched, Drained and Drain are means in items/s: what came, what went, and
	// what could have gone. Overflow is in items.
	Fetched, Drained, Drain float64
	Overflow                uint64
}

// recorder follows a run. It is told of every instant at which something has
// changed; between two of them all rates are constant.
type recorder struct {
	result   *Result
	interval time.Duration
	last     instant

	// Of the sample in progress.
	minDepth, maxDepth     int
	worst                  event.Level
	tokens, could          float64 // integrals of rates over it
	fetched                uint64
	drainedBefore, dropped uint64

	couldAll float64
}

// instant is what a run is like at one time.
type instant struct {
	at        time.Duration
	state     rate.State
	queue     *queue
	drainRate float64
	// What the provider's level is beside the queue's: worse, or better.
	pinned, early bool
}

// pass accounts for the time since the last instant, with what held then.
func (r *recorder) pass(now time.Duration) {
	d := now - r.last.at
	if d <= 0 {
		return
	}
	seconds := d.Seconds()
	r.result.InLevel[r.last.state.Level] += d
	if r.last.pinned {
		r.result.Pinned += d
	}
	if r.last.early {
		r.result.Early += d
	}
	r.tokens += float64(r.last.state.EffectiveRate * seconds)
	could := float64(r.last.drainRate * seconds)
	r.could += could
	r.couldAll += could
}

// note takes in an instant, after pass.
func (r *recorder) note(now instant) {
	r.last = now
	r.worst = max(r.worst, event.Level(now.state.Level))
	r.depth(now.queue.depth)
}

// depth takes in the queue's depth at a turning point.
func (r *recorder) depth(depth int) {
	r.minDepth, r.maxDepth = min(r.minDepth, depth), max(r.maxDepth, depth)
	r.result.MaxDepth = max(r.result.MaxDepth, depth)
}

// sample ends a sample's time.
func (r *recorder) sample(now time.Duration) {
	q, seconds := r.last.queue, r.interval.Seconds()
	level := event.Level(r.last.state.Level)
	r.result.Samples = append(r.result.Samples, Sample{
		At: now, Depth: q.depth, MinDepth: r.minDepth, MaxDepth: r.maxDepth,
		Level: level, Worst: r.worst, Scale: r.last.state.Scale, Rate: r.tokens / seconds,
		Fetched: float64(r.fetched) / seconds, Drained: float64(q.drained-r.drainedBefore) / seconds,
		Drain: r.could / seconds, Overflow: q.overflow - r.dropped,
	})
	r.minDepth, r.maxDepth, r.worst = q.depth, q.depth, level
	r.tokens, r.could, r.fetched = 0, 0, 0
	r.drainedBefore, r.dropped = q.drained, q.overflow
}

// merged makes at most n samples of many.
func merged(samples []Sample, n int) []Sample {
	if len(samples) <= n {
		return samples
	}
	list := make([]Sample, n)
	for i := range list {
		part := samples[i*len(samples)/n : (i+1)*len(samples)/n]
		m := part[len(part)-1]
		m.Rate, m.Fetched, m.Drained, m.Drain, m.Overflow = 0, 0, 0, 0, 0
		for _, s := range part {
			m.MinDepth, m.MaxDepth, m.Worst = min(m.MinDepth, s.MinDepth), max(m.MaxDepth, s.MaxDepth), max(m.Worst, s.Worst)
			m.Rate += s.Rate / float64(len(part))
			m.Fetched += s.Fetched / float64(len(part))
			m.Drained += s.Drained / float64(len(part))
			m.Drain += s.Drain / float64(len(part))
			m.Overflow += s.Overflow
		}
		list[i] = m
	}
	return list
}
