package flowtest

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// selector chooses series of a metric: those that have its labels.
type selector struct {
	name   string
	labels map[string]string
}

var (
	selectorForm = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?$`)
	labelForm    = regexp.MustCompile(`^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"([^"\\]*)"\s*(?:,|$)`)
)

// parseSelector reads name{label="value",...}.
func parseSelector(text string) (selector, error) {
	bad := fmt.Errorf(`%q: must be a metric, such as pulse_consume_total{outcome="success"}`, text)
	m := selectorForm.FindStringSubmatch(text)
	if m == nil {
		return selector{}, bad
	}
	s := selector{name: m[1], labels: make(map[string]string)}
	for rest := m[2]; rest != ""; {
		label := labelForm.FindStringSubmatch(rest)
		if label == nil {
			return selector{}, bad
		}
		s.labels[label[1]] = label[2]
		rest = rest[len(label[0]):]
	}
	return s, nil
}

// catalogue is a registerer that remembers which metrics there are: one without any
// series yet is gathered as nothing.
type catalogue struct {
	*prometheus.Registry
	names map[string]bool
}

func newCatalogue() *catalogue {
	return &catalogue{prometheus.NewRegistry(), make(map[string]bool)}
}

var descName = regexp.MustCompile(`fqName: "([^"]*)"`)

// Register implements prometheus.Registerer.
func (c *catalogue) Register(collector prometheus.Collector) error {
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		collector.Describe(descs)
	}()
	for d := range descs {
		if m := descName.FindStringSubmatch(d.String()); m != nil {
			c.names[m[1]] = true
		}
	}
	return c.Registry.Register(collector)
}

// sample is one series.
type sample struct {
	labels map[string]string
	value  float64
}

// samples reads every series, by metric.
func (c *catalogue) samples() (map[string][]sample, error) {
	families, err := c.Gather()
	if err != nil {
		return nil, err
	}
	all := make(map[string][]sample, len(c.names))
	for name := range c.names {
		all[name] = nil
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			s := sample{labels: make(map[string]string)}
			for _, l := range m.GetLabel() {
				s.labels[l.GetName()] = l.GetValue()
			}
			switch {
			case m.GetCounter() != nil:
				s.value = m.GetCounter().GetValue()
			case m.GetGauge() != nil:
				s.value = m.GetGauge().GetValue()
			}
			all[f.GetName()] = append(all[f.GetName()], s)
		}
	}
	return all, nil
}

// sum adds up what the selector chooses. The error says that there is no such metric.
func (s selector) sum(all map[string][]sample) (float64, error) {
	series, ok := all[s.name]
	if !ok {
		return 0, fmt.Errorf("%s", unknown("metric", s.name, slices.Sorted(maps.Keys(all))))
	}
	total := 0.0
	for _, one := range series {
		matches := true
		for name, value := range s.labels {
			matches = matches && one.labels[name] == value
		}
		if matches {
			total += one.value
		}
	}
	return total, nil
}
