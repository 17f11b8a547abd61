package telemetry

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTimeout bounds what a scrape asks Redis, so that a server that hangs does
// not take the other metrics with it.
const scrapeTimeout = time.Second

// StreamGroup names a consumer group of a stream.
type StreamGroup struct {
	// Key is the stream's full key, Topic its name without namespace, which is what
	// the label shows.
	Key, Topic, Group string
}

// GroupState is how a consumer group fares.
type GroupState struct {
	// Lag is the number of entries not delivered yet, -1 when the server cannot tell.
	Lag int64
	// Pending is the number delivered and not acknowledged, OldestPending the age of
	// the oldest of them.
	Pending       int64
	OldestPending time.Duration
}

// Streams are the metrics of Redis Streams transports.
type Streams struct {
	lag, pending, oldest, redisUp   *prometheus.Desc
	inFlight                        *prometheus.GaugeVec
	reclaimed, ackFailures, trimmed *prometheus.CounterVec
	batch, handling                 *prometheus.HistogramVec

	mu    sync.Mutex
	buses []*BusStreams
}

// BusStreams are the metrics of one transport.
type BusStreams struct {
	all    *Streams
	name   string
	groups atomic.Pointer[map[[2]string]*groupMetrics] // never changed, only replaced
	read   func(ctx context.Context, key, group string) (GroupState, error)
	up     func() error
}

// groupMetrics are the handles of one group, their labels resolved once.
type groupMetrics struct {
	StreamGroup
	inFlight                        prometheus.Gauge
	reclaimed, ackFailures, trimmed prometheus.Counter
	batch, handling                 prometheus.Observer
}

// NewStreams registers the metrics on reg.
func NewStreams(reg prometheus.Registerer) (*Streams, error) {
	labels := []string{"stream", "group"}
	desc := func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	s := &Streams{
		lag:     desc("pulseflow_stream_lag_entries", "Entries of the stream not delivered to the group yet.", labels),
		pending: desc("pulseflow_pending_entries", "Entries delivered to the group and not acknowledged.", labels),
		oldest:  desc("pulseflow_oldest_pending_seconds", "Age of the oldest pending entry, by its ID.", labels),
		redisUp: desc("pulseflow_redis_up", "1 when the Redis of the bus can be used.", []string{"bus"}),
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	s.inFlight = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pulseflow_in_flight", Help: "Entries taken by this process and not yet acknowledged to Redis.",
	}, labels)
	s.reclaimed = counter("pulseflow_reclaimed_total", "Pending entries of dead or ended consumers that were taken to be run.")
	s.ackFailures = counter("pulseflow_ack_failures_total", "Entries whose acknowledgement failed and was kept for later.")
	s.trimmed = counter("pulseflow_trimmed_total", "Entries deleted from the stream while they were pending.")
	s.batch = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "pulseflow_batch_entries", Help: "Entries in one read.", Buckets: prometheus.ExponentialBuckets(1, 4, 7),
	}, labels)
	s.handling = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "pulseflow_handling_seconds", Help: "Time from an entry's dispatch to its lane until it was settled.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
	}, labels)
	for _, c := range []prometheus.Collector{s.inFlight, s.reclaimed, s.ackFailures, s.trimmed, s.batch, s.handling, s} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Bus adds the transport of a bus with its groups. read tells how a group fares; it is
// asked at each scrape, for at most a second in all. up is nil when Redis can be used.
func (s *Streams) Bus(
	name string, groups []StreamGroup,
	read func(ctx context.Context, key, group string) (GroupState, error), up func() error,
) *BusStreams {
	b := &BusStreams{all: s, name: name, read: read, up: up}
	b.Follow(groups)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.buses = append(s.buses, b)
	return b
}

// Follow makes the groups those given, after a new file was loaded. What is counted of
// a group that is among them again goes on; one that is not has no state any more, and
// its counters stay as they are.
func (s *BusStreams) Follow(groups []StreamGroup) {
	next := make(map[[2]string]*groupMetrics, len(groups))
	for _, g := range groups {
		next[[2]string{g.Key, g.Group}] = &groupMetrics{
			StreamGroup: g,
			inFlight:    s.all.inFlight.WithLabelValues(g.Topic, g.Group),
			reclaimed:   s.all.reclaimed.WithLabelValues(g.Topic, g.Group),
			ackFailures: s.all.ackFailures.WithLabelValues(g.Topic, g.Group),
			trimmed:     s.all.trimmed.WithLabelValues(g.Topic, g.Group),
			batch:       s.all.batch.WithLabelValues(g.Topic, g.Group),
			handling:    s.all.handling.WithLabelValues(g.Topic, g.Group),
		}
	}
	s.groups.Store(&next)
}

// Describe implements prometheus.Collector.
func (s *Streams) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.lag, s.pending, s.oldest, s.redisUp} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. Every bus is asked at once: one that hangs
// takes no metric of another with it.
func (s *Streams) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	buses := s.buses
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, b := range buses {
		wg.Go(func() { s.collect(b, ch) })
	}
	wg.Wait()
}

// collect asks one bus. A group that Redis does not tell of has no lag and no pending
// entries at that scrape, rather than zero.
func (s *Streams) collect(b *BusStreams, ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if b.up() != nil {
		gauge(s.redisUp, 0, b.name)
		return
	}
	gauge(s.redisUp, 1, b.name)
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	for _, g := range *b.groups.Load() {
		state, err := b.read(ctx, g.Key, g.Group)
		if err != nil {
			continue
		}
		if state.Lag >= 0 {
			gauge(s.lag, float64(state.Lag), g.Topic, g.Group)
		}
		gauge(s.pending, float64(state.Pending), g.Topic, g.Group)
		gauge(s.oldest, state.OldestPending.Seconds(), g.Topic, g.Group)
	}
}

// of calls report with the metrics of a group that was named with the bus, or to Follow.
func (s *BusStreams) of(key, group string, report func(*groupMetrics)) {
	if g, ok := (*s.groups.Load())[[2]string{key, group}]; ok {
		report(g)
	}
}

// Read observes the entries of one read.
func (s *BusStreams) Read(key, group string, entries int) {
	s.of(key, group, func(g *groupMetrics) { g.batch.Observe(float64(entries)) })
}

// InFlight sets the entries taken and not yet acknowledged.
func (s *BusStreams) InFlight(key, group string, entries int) {
	s.of(key, group, func(g *groupMetrics) { g.inFlight.Set(float64(entries)) })
}

// Settled observes the time one entry took.
func (s *BusStreams) Settled(key, group string, took time.Duration) {
	s.of(key, group, func(g *groupMetrics) { g.handling.Observe(took.Seconds()) })
}

// AckFailed counts entries whose acknowledgement failed.
func (s *BusStreams) AckFailed(key, group string, entries int) {
	s.of(key, group, func(g *groupMetrics) { g.ackFailures.Add(float64(entries)) })
}

// Reclaimed counts entries that run again after their consumer died.
func (s *BusStreams) Reclaimed(key, group string, entries int) {
	s.of(key, group, func(g *groupMetrics) { g.reclaimed.Add(float64(entries)) })
}

// Trimmed counts entries deleted while they were pending.
func (s *BusStreams) Trimmed(key, group string, entries int) {
	s.of(key, group, func(g *groupMetrics) { g.trimmed.Add(float64(entries)) })
}
