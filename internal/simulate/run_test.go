package simulate

import (
	"testing"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

func base() Config {
	return Config{
		Duration: 5 * time.Minute, Interval: time.Second, Offered: 3000, Items: 50, Drain: Drain{Rate: 2000},
		Queue: QueueConfig{Capacity: 10000, High: 8000, Low: 5000}, Delay: 100 * time.Millisecond,
	}
}

func builtIn(t *testing.T) Flow {
	t.Helper()
	file, d := flows.BuiltIn(func(string) (string, bool) { return "", false })
	plan, more := router.NewPlan(file, stages.Builtin())
	if d = append(d, more...); d.HasErrors() {
		t.Fatal(d)
	}
	p := plan.Flows[0]
	return Flow{Name: p.Name, Track: p.Track, Stages: p.Stages, Providers: file.Providers, Provider: "ibkr"}
}

func TestX(t *testing.T) {
	for _, f := range []func(*Config){
		func(c *Config) {},
		func(c *Config) { c.Delay = 0 },
		func(c *Config) { c.Drain.Changes = []Change{{60 * time.Second, 400}, {150 * time.Second, 2000}} },
		func(c *Config) {
			c.Drain.Changes = []Change{{60 * time.Second, 400}, {150 * time.Second, 2000}}
			c.Lose = []Loss{{Nth: 1, From: 140 * time.Second}}
		},
	} {
		c := base()
		f(&c)
		begun := time.Now()
		r, err := Run(t.Context(), c, builtIn(t))
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(begun)
		samples := r.Samples
		r.Samples = nil
		t.Logf("%v %+v", took, r)
		for i := 0; i < len(samples); i += 10 {
			t.Logf("%+v", samples[i])
		}
	}
}
