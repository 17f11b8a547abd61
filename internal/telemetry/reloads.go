package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The values of the label result of pulseflow_config_reloads_total.
const (
	ReloadSuccess    = "success"     // the file runs now
	ReloadUnchanged  = "unchanged"   // the file says what runs already
	ReloadRejected   = "rejected"    // the file is wrong, or needs a restart: nothing has changed
	ReloadRolledBack = "rolled_back" // flows were swapped, and swapped back
	ReloadFailed     = "failed"      // flows were swapped and could not be swapped back
)

// Reloads are the metrics of loading the file again.
type Reloads struct {
	results    *prometheus.CounterVec
	generation prometheus.Gauge
	success    prometheus.Gauge
}

// NewReloads registers the metrics on reg.
func NewReloads(reg prometheus.Registerer) (*Reloads, error) {
	r := &Reloads{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pulseflow_config_reloads_total", Help: "Times the file was loaded again, by what came of it.",
		}, []string{"result"}),
		generation: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pulseflow_config_generation", Help: "How many files have run in this process, the one that runs included.",
		}),
		success: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pulseflow_config_last_success_timestamp_seconds",
			Help: "When the file that runs was last loaded, or found to say what runs, as Unix time.",
		}),
	}
	for _, result := range []string{ReloadSuccess, ReloadUnchanged, ReloadRejected, ReloadRolledBack, ReloadFailed} {
		r.results.WithLabelValues(result)
	}
	for _, c := range []prometheus.Collector{r.results, r.generation, r.success} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Reloaded counts a reload.
func (r *Reloads) Reloaded(result string) { r.results.WithLabelValues(result).Inc() }

// Runs sets the generation of the file that runs, and when that was last confirmed.
func (r *Reloads) Runs(generation int, at time.Time) {
	r.generation.Set(float64(generation))
	r.success.Set(float64(at.UnixMilli()) / 1e3)
}
