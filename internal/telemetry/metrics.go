package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// queueDepthSource is the constant label docs/contract.md §7 asks for.
const queueDepthSource = "store_coordinator"

// Metrics are the counters and gauges of one process.
type Metrics struct {
	consumed    *prometheus.CounterVec
	lag         *prometheus.GaugeVec
	published   *resolvedCounters
	queueDepth  prometheus.Gauge
	processed   *resolvedCounters
	validation  *prometheus.CounterVec
	hashes      *prometheus.CounterVec
	stale       *prometheus.CounterVec
	retries     *prometheus.CounterVec
	deadLetters *prometheus.CounterVec
	dlFailures  *prometheus.CounterVec
}

// New registers the metrics on reg. An error means that one of them is registered
// already.
func New(reg prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	depth := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pipeline_feedback_queue_depth", Help: "Queue size in the newest feedback event.",
	}, []string{"source"})
	published := counter("pulse_publish_total", "Events published.", "stream", "track", "outcome")
	processed := counter("feedback_events_processed_total", "Feedback events handled.", "provider", "level")
	m := &Metrics{
		consumed: counter("pulse_consume_total", "Events settled, each with one outcome.", "stream", "track", "outcome"),
		lag: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "pulse_lag_ms", Help: "Milliseconds between the newest event's envelope ts and its arrival.",
		}, []string{"stream"}),
		published:  newResolvedCounters(published),
		queueDepth: depth.WithLabelValues(queueDepthSource),
		processed:  newResolvedCounters(processed),
		validation: counter("schema_validation_failures_total", "Events that broke their schema.", "schema", "mode"),
		hashes:     counter("pulseflow_hash_mismatches_total", "Events whose hash does not cover their payload.", "schema"),
		stale: counter("pulseflow_rate_stale_total",
			"Adjustments older than what their coordinator last said.", "provider"),
		retries: counter("pulseflow_retries_total", "Runs of a flow's stages that failed and were repeated.", "flow"),
		deadLetters: counter("pulseflow_dead_letters_total", "Events written to the dead letters, by kind of error.",
			"flow", "kind"),
		dlFailures: counter("pulseflow_dead_letter_failures_total",
			"Writes to the dead letters that failed; alert on any increase.", "flow"),
	}
	for _, c := range []prometheus.Collector{
		m.consumed, m.lag, published, depth, processed, m.validation, m.hashes, m.stale, m.retries,
		m.deadLetters, m.dlFailures,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// ValidationFailed counts an event that broke schema, by mode strict or warn.
func (m *Metrics) ValidationFailed(schema, mode string) {
	m.validation.WithLabelValues(schema, mode).Inc()
}

// HashMismatched counts an event whose hash does not cover its payload.
func (m *Metrics) HashMismatched(schema string) { m.hashes.WithLabelValues(schema).Inc() }

// QueueDepth sets the producer's queue size, in events.
func (m *Metrics) QueueDepth(depth int64) { m.queueDepth.Set(float64(depth)) }

// FeedbackProcessed counts a feedback event handled to its end.
func (m *Metrics) FeedbackProcessed(provider, level string) {
	m.processed.inc(2, labels{provider, level})
}

// Published counts an event published to a topic.
func (m *Metrics) Published(topic, track, outcome string) {
	m.published.inc(3, labels{topic, track, outcome})
}

// RateStale counts an adjustment older than what its coordinator last said.
func (m *Metrics) RateStale(provider string) { m.stale.WithLabelValues(provider).Inc() }

// Flow returns the metrics of one flow over topic, whose dead letters are of these kinds
// as a rule. Its counters exist from the start, at zero, so that a rate over them has a
// first sample: an alert on an increase would miss the first dead letter else.
func (m *Metrics) Flow(flow, topic string, kinds ...string) *FlowMetrics {
	f := &FlowMetrics{
		metrics: m, flow: flow,
		lag:        m.lag.WithLabelValues(topic),
		retries:    m.retries.WithLabelValues(flow),
		dlFailures: m.dlFailures.WithLabelValues(flow),
	}
	for t, track := range tracks {
		for o, outcome := range outcomes {
			f.consumed[t][o] = m.consumed.WithLabelValues(topic, track, outcome)
		}
	}
	for _, kind := range kinds {
		m.deadLetters.WithLabelValues(flow, kind)
	}
	return f
}

// The label values of pulse_consume_total, docs/contract.md §7.
var (
	tracks   = [...]string{"v1", "v2"}
	outcomes = [...]string{"success", "error", "duplicate", "filtered"}
)

// FlowMetrics are the metrics of one flow, their label values resolved once.
type FlowMetrics struct {
	metrics    *Metrics
	flow       string
	consumed   [len(tracks)][len(outcomes)]prometheus.Counter
	lag        prometheus.Gauge
	retries    prometheus.Counter
	dlFailures prometheus.Counter
}

// Consumed counts an event settled with its one outcome. A track or outcome
// outside the contract's sets is not counted.
func (f *FlowMetrics) Consumed(track, outcome string) {
	for t := range tracks {
		for o := range outcomes {
			if tracks[t] == track && outcomes[o] == outcome {
				f.consumed[t][o].Inc()
			}
		}
	}
}

// Lag sets the time between an envelope's ts and now.
func (f *FlowMetrics) Lag(d time.Duration) { f.lag.Set(float64(d) / float64(time.Millisecond)) }

// Retried counts a run of the stages that will be repeated.
func (f *FlowMetrics) Retried() { f.retries.Inc() }

// DeadLettered counts an event written to the dead letters, by error kind.
func (f *FlowMetrics) DeadLettered(kind string) {
	f.metrics.deadLetters.WithLabelValues(f.flow, kind).Inc()
}

// DeadLetterFailed counts a write to the dead letters that failed.
func (f *FlowMetrics) DeadLetterFailed() { f.dlFailures.Inc() }
