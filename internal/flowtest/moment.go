package flowtest

import (
	"fmt"

	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// moment is what has happened up to a time of a test.
type moment struct {
	world     *world
	outcomes  [stages.Outcomes]int // of the test's flow
	published []publication
	rates     map[string]ProviderRate
	samples   map[string][]sample // series, by metric
}

// moment takes down what has happened so far, while nothing runs. Metrics are gathered
// only where e looks at some.
func (w *world) moment(flow string, e *Expectation) (*moment, error) {
	m := &moment{world: w, published: w.line.published, rates: make(map[string]ProviderRate)}
	for _, t := range w.line.tasks {
		if t.settled && t.reader.flow == flow {
			m.outcomes[t.result.Outcome]++
		}
	}
	for _, s := range w.states() {
		m.rates[s.provider] = s.ProviderRate
	}
	if len(e.Metrics) == 0 {
		return m, nil
	}
	var err error
	if m.samples, err = w.metrics.samples(); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	return m, nil
}

// letters are the dead letters, in the order in which they were written.
func (m *moment) letters() []publication {
	var list []publication
	for _, p := range m.published {
		if p.meta[router.FieldFlow] != "" {
			list = append(list, p)
		}
	}
	return list
}

// on lists what was published on a stream, by topic or key.
func (m *moment) on(name string) []publication {
	var list []publication
	for _, p := range m.published {
		for _, s := range streams(m.world.plan) {
			if s.key == p.stream && s.is(name) {
				list = append(list, p)
				break
			}
		}
	}
	return list
}
