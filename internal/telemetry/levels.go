package telemetry

import "github.com/prometheus/client_golang/prometheus"

// RegisterLevelsKept registers the gauge of whether rate levels are shared or kept as
// the file asks.
func RegisterLevelsKept(reg prometheus.Registerer, kept func() bool) error {
	return reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pulseflow_rate_levels_kept",
		Help: "1 while rate levels are shared, or kept in a file, as configured; 0 while they are not.",
	}, func() float64 {
		if kept() {
			return 1
		}
		return 0
	}))
}
