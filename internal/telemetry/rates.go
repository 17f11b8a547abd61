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
}

// rateCollector reads the states when it is scraped, so that the gauges never
// differ from what the coordinator does.
type rateCollector struct {
	read                                                           func() []ProviderState
	scale, level, effective, tokens, waiters, granted, denied, age *prometheus.Desc
}

// RegisterRates registers the gauges of the rate coordinator's providers.
func RegisterRates(reg prometheus.Registerer, read func() []ProviderState) error {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"provider"}, nil)
	}
	return reg.Register(&rateCollector{
		read:      read,
		scale:     desc("pipeline_rate_scale_factor", "Scale applied to the provider's rate, 0 paused to 1 full."),
		level:     desc("pipeline_backpressure_state", "Backpressure level: 0 ok, 1 soft, 2 hard."),
		effective: desc("pulseflow_rate_effective", "Tokens a second the provider is granted now."),
		tokens:    desc("pulseflow_rate_tokens", "Tokens in the provider's bucket."),
		waiters:   desc("pulseflow_rate_waiters", "Callers waiting for tokens."),
		granted:   desc("pulseflow_rate_granted_total", "Tokens granted."),
		denied:    desc("pulseflow_rate_denied_total", "Requests for tokens turned away."),
		age:       desc("pulseflow_level_age_seconds", "Age of the event that holds the provider's level."),
	})
}

// Describe implements prometheus.Collector.
func (c *rateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.scale, c.level, c.effective, c.tokens, c.waiters, c.granted, c.denied, c.age,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *rateCollector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.read() {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Provider)
		}
		gauge(c.scale, s.Scale)
		gauge(c.level, float64(s.Level))
		gauge(c.effective, s.EffectiveRate)
		gauge(c.tokens, s.Tokens)
		gauge(c.waiters, float64(s.Waiters))
		gauge(c.age, s.LevelAge)
		ch <- prometheus.MustNewConstMetric(c.granted, prometheus.CounterValue, float64(s.Granted), s.Provider)
		ch <- prometheus.MustNewConstMetric(c.denied, prometheus.CounterValue, float64(s.Denied), s.Provider)
	}
}
