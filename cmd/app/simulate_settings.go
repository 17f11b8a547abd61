package app

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/simulate"
	"github.com/mjdevaccount/pulseflow/stages"
)

func named(name string) func(flows.Provider) bool {
	return func(p flows.Provider) bool { return p.Name == name }
}

// provider is the one whose tokens the source takes.
func (s *subject) provider() *flows.Provider {
	list := s.flow.Providers
	return &list[slices.IndexFunc(list, named(s.flow.Provider))]
}

// policies are those of the flow's stages that adjust the provider.
func (s *subject) policies() []*stages.Policy {
	var list []*stages.Policy
	for _, stage := range s.flow.Stages {
		if h, ok := stage.Config.(*stages.HandleConfig); ok && h.Provider == s.flow.Provider {
			list = append(list, &h.Policy)
		}
	}
	return list
}

// rates are the provider's effective rates by level, in tokens/s.
func (s *subject) rates() [3]float64 {
	p, policy := s.provider(), *s.policies()[0]
	rate := func(scale float64) float64 { return max(p.MinRate, p.Rate*scale) }
	return [...]float64{rate(policy.OK), rate(policy.Soft), rate(policy.Hard)}
}

// settings are what the flags say, with defaults that follow from the provider.
func (f *simulateFlags) settings(s *subject) (simulate.Config, error) {
	c := simulate.Config{
		Duration: f.duration, Interval: f.interval, Items: f.items, Delay: f.delay, LoseFor: f.loseFor,
		Drain: simulate.Drain{Rate: f.drain}, Queue: simulate.QueueConfig{Capacity: f.capacity},
	}
	if c.Interval == 0 {
		c.Interval = max(1, f.duration/samplesPerRun)
	}
	if !f.drainGiven {
		c.Drain.Rate = s.provider().Rate * float64(f.items) / offeredShare
	}
	var err error
	if c.Offered, err = scaled(f.offered, "x", c.Drain.Rate); err != nil {
		return c, fmt.Errorf("--offered %q: %w", f.offered, err)
	}
	for name, mark := range map[string]struct {
		text string
		to   *int
	}{"high": {f.high, &c.Queue.High}, "low": {f.low, &c.Queue.Low}} {
		v, err := scaled(mark.text, "%", float64(f.capacity)/100)
		if err != nil {
			return c, fmt.Errorf("--%s %q: %w", name, mark.text, err)
		}
		*mark.to = int(min(v, math.MaxInt32))
	}
	for _, text := range f.drainAt {
		at, rate, ok := strings.Cut(text, "=")
		if !ok {
			return c, fmt.Errorf("--drain-at %q: must be TIME=RATE, such as 30s=20%%", text)
		}
		change := simulate.Change{}
		if change.At, err = time.ParseDuration(at); err != nil {
			return c, fmt.Errorf("--drain-at %q: %q is not a time with a unit, such as 30s", text, at)
		}
		if change.Rate, err = scaled(rate, "%", c.Drain.Rate/100); err != nil {
			return c, fmt.Errorf("--drain-at %q: %w", text, err)
		}
		c.Drain.Changes = append(c.Drain.Changes, change)
	}
	for _, text := range f.lose {
		loss, err := simulate.ParseLoss(text)
		if err != nil {
			return c, fmt.Errorf("--lose %w", err)
		}
		c.Lose = append(c.Lose, loss)
	}
	return c, c.Validate()
}

// scaled reads a number, or one with a suffix that makes it a multiple of unit.
func scaled(text, suffix string, unit float64) (float64, error) {
	number, multiple := strings.CutSuffix(text, suffix)
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0, fmt.Errorf("must be a number that is not negative, with %s or without", suffix)
	}
	if multiple {
		v *= unit
	}
	return v, nil
}

// trySettings are the keys of --try.
var trySettings = []string{"ok", "soft", "hard", "rate", "burst", "min_rate", "ramp_up", "on_silence"}

// change makes the settings of --try.
func (s *subject) change(text string) error {
	// The file's providers and stages are this subject's own: it was loaded for it.
	p := s.provider()
	for _, setting := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(setting), "=")
		if !ok {
			return fmt.Errorf("%q must be KEY=VALUE", setting)
		}
		if err := s.set(p, key, value); err != nil {
			return err
		}
	}
	return nil
}

func (s *subject) set(p *flows.Provider, key, value string) error {
	switch key {
	case "ok", "soft", "hard":
		v, err := scaled(value, "", 1)
		if err != nil || v > 1 {
			return fmt.Errorf("%s: %q must be from 0 to 1", key, value)
		}
		for _, policy := range s.policies() {
			*map[string]*float64{"ok": &policy.OK, "soft": &policy.Soft, "hard": &policy.Hard}[key] = v
		}
	case "rate", "burst", "min_rate":
		v, err := scaled(value, "", 1)
		if err != nil {
			return fmt.Errorf("%s: %q must be a number that is not negative", key, value)
		}
		*map[string]*float64{"rate": &p.Rate, "burst": &p.Burst, "min_rate": &p.MinRate}[key] = v
	case "ramp_up", "on_silence":
		if key == "on_silence" && value == "hold" {
			p.OnSilence = flows.Silence{}
			return nil
		}
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return fmt.Errorf("%s: %q must be a duration with a unit, such as 30s", key, value)
		}
		*map[string]*time.Duration{"ramp_up": &p.RampUp, "on_silence": &p.OnSilence.After}[key] = d
	default:
		return fmt.Errorf("unknown key %q%s; keys: %s", key, flows.DidYouMean(key, trySettings), strings.Join(trySettings, ", "))
	}
	return nil
}
