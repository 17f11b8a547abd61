package telemetry

import "github.com/prometheus/client_golang/prometheus"

// ProviderState is a provider's rate as the gauges show it.
type ProviderState struct {
	Provider string
	// Scale is in [0, 1]; Level is 0 ok, 1 soft, 2 hard.
	Scale float64
	Level int
	// EffectiveRate is in tokens/s, Tokens what the bucket holds, Waiters how many
	// callers wait for it.
	EffectiveRate float64
	Tokens        float64
	Waiters       int
	// Granted and Denied count tokens given, and calls turned away.
	Granted uint64
	Denied  uint64
	// LevelAge is the age in seconds of the event that sets the level; 0 before the
	// first.
	LevelAge float64
	// Coordinators is how many hold a level, Evicted how many were dropped so that they
	// stay bounded.
	Coordinators int
	Evicted      uint64
	// Breaker is 0 closed, 1 open, 2 half open.
	Breaker int
	// Cooldowns is how many run; CooldownLeft and OverrideLeft are the seconds until the
	// one that stops the provider, and an operator's override, end, 0 when there is none.
	Cooldowns                  int
	CooldownLeft, OverrideLeft float64
}

// rateCollector reads the states when it is scraped, so that the gauges never
// differ from what the coordinator does.
type rateCollector struct {
	read    func() []ProviderState
	metrics []rateMetric
}

// rateMetric is one metric, a value a provider.
type rateMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(ProviderState) float64
}

// RegisterRates registers the gauges of the rate coordinator's providers.
func RegisterRates(reg prometheus.Registerer, read func() []ProviderState) error {
	c := &rateCollector{read: read}
	metric := func(kind prometheus.ValueType, name, help string, value func(ProviderState) float64) {
		c.metrics = append(c.metrics, rateMetric{prometheus.NewDesc(name, help, []string{"provider"}, nil), kind, value})
	}
	const gauge, counter = prometheus.GaugeValue, prometheus.CounterValue
	metric(gauge, "pipeline_rate_scale_factor", "Scale applied to the provider's rate, 0 paused to 1 full.",
		func(s ProviderState) float64 { return s.Scale })
	metric(gauge, "pipeline_backpressure_state", "Backpressure level: 0 ok, 1 soft, 2 hard.",
		func(s ProviderState) float64 { return float64(s.Level) })
	metric(gauge, "pulseflow_rate_effective", "Tokens a second the provider is granted now.",
		func(s ProviderState) float64 { return s.EffectiveRate })
	metric(gauge, "pulseflow_rate_tokens", "Tokens in the provider's bucket.",
		func(s ProviderState) float64 { return s.Tokens })
	metric(gauge, "pulseflow_rate_waiters", "Callers waiting for tokens.",
		func(s ProviderState) float64 { return float64(s.Waiters) })
	metric(counter, "pulseflow_rate_granted_total", "Tokens granted.",
		func(s ProviderState) float64 { return float64(s.Granted) })
	metric(counter, "pulseflow_rate_denied_total", "Requests for tokens turned away.",
		func(s ProviderState) float64 { return float64(s.Denied) })
	metric(gauge, "pulseflow_level_age_seconds", "Age of the event that holds the provider's level.",
		func(s ProviderState) float64 { return s.LevelAge })
	metric(gauge, "pulseflow_rate_coordinators", "Coordinators that hold a level.",
		func(s ProviderState) float64 { return float64(s.Coordinators) })
	metric(counter, "pulseflow_rate_evicted_total", "Coordinators dropped to stay within max_coordinators.",
		func(s ProviderState) float64 { return float64(s.Evicted) })
	metric(gauge, "pulseflow_rate_breaker_state", "Circuit breaker: 0 closed, 1 open, 2 half open.",
		func(s ProviderState) float64 { return float64(s.Breaker) })
	metric(gauge, "pulseflow_rate_cooldowns", "Cooldowns that run, of any scope.",
		func(s ProviderState) float64 { return float64(s.Cooldowns) })
	metric(gauge, "pulseflow_rate_cooldown_seconds", "Seconds until the cooldown that stops the provider ends; 0 for none.",
		func(s ProviderState) float64 { return s.CooldownLeft })
	metric(gauge, "pulseflow_rate_override_seconds", "Seconds until an operator's override ends; 0 for none.",
		func(s ProviderState) float64 { return s.OverrideLeft })
	return reg.Register(c)
}

// Describe implements prometheus.Collector.
func (c *rateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *rateCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.read() {
		for _, m := range c.metrics {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(s), s.Provider)
		}
	}
}
