package simulate

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// busy is a source at 1.5 times the drain, at the full rate of the built-in
// provider.
func busy() Config {
	return Config{
		Duration: 5 * time.Minute, Interval: time.Second, Offered: 3000, Items: 50, Drain: Drain{Rate: 2000},
		Queue: QueueConfig{Capacity: 10000, High: 8000, Low: 5000}, Delay: 100 * time.Millisecond,
	}
}

// slump is busy with a drain that drops to a fifth for a while.
func slump() Config {
	c := busy()
	c.Drain.Changes = []Change{{time.Minute, 400}, {2 * time.Minute, 2000}}
	return c
}

// flowOf plans the only flow of a file.
func flowOf(t *testing.T, file *flows.File, d flows.Diagnostics, registry *stages.Registry) Flow {
	t.Helper()
	plan, more := router.NewPlan(file, registry)
	if d = append(d, more...); d.HasErrors() {
		t.Fatal(d)
	}
	p := plan.Flows[0]
	return Flow{Name: p.Name, Track: p.Track, Stages: p.Stages, Providers: file.Providers, Provider: file.Providers[0].Name}
}

func builtIn(t *testing.T) Flow {
	t.Helper()
	file, d := flows.BuiltIn(func(string) (string, bool) { return "", false })
	return flowOf(t, file, d, stages.Builtin())
}

// written is a flow with the given provider and stages before handle.
func written(t *testing.T, registry *stages.Registry, provider, first string) Flow {
	t.Helper()
	file, d := flows.Parse("flows.yaml", []byte("version: 1\nproviders:\n  ibkr: "+provider+"\nflows:\n  feedback:\n"+
		"    from: {stream: telemetry.feedback}\n    stages:\n"+first+
		"      - handle: {with: feedback, provider: ibkr}\n      - rate-apply\n"),
		func(string) (string, bool) { return "", false })
	return flowOf(t, file, d, registry)
}

func simulated(t *testing.T, c Config, f Flow) *Result {
	t.Helper()
	r, err := Run(t.Context(), c, f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// The promises that the policy is chosen for: the queue does not overflow, and
// the drain is kept busy.
func TestBuiltInPolicyDoesNotOverflow(t *testing.T) {
	for name, c := range map[string]Config{"steady": busy(), "slump": slump()} {
		for _, delay := range []time.Duration{100 * time.Millisecond, time.Second} {
			c.Delay = delay
			r := simulated(t, c, builtIn(t))
			if r.Overflow != 0 || r.Utilisation < 0.99 || r.AtEnd != nil || r.Refused != 0 {
				t.Errorf("%s, delay %v: overflow %d, utilisation %v, pinned %+v, refused %v",
					name, delay, r.Overflow, r.Utilisation, r.AtEnd, r.Reason)
			}
			if hard := r.Sent[event.LevelHard]; (hard > 0) != (name == "slump") && delay < time.Second {
				t.Errorf("%s, delay %v: %d times hard", name, delay, hard)
			}
			if r.Fetched != r.Drained+r.Overflow+uint64(r.Samples[len(r.Samples)-1].Depth) {
				t.Errorf("%s, delay %v: items went missing: %+v", name, delay, r)
			}
			var all time.Duration
			for _, d := range r.InLevel {
				all += d
			}
			if all != c.Duration || len(r.Samples) != 300 {
				t.Errorf("%s, delay %v: %v in levels, %d samples", name, delay, all, len(r.Samples))
			}
		}
	}
}

// The general stages work in a simulation, on its clock.
func TestGeneralStages(t *testing.T) {
	first := "      - timeout: {after: 10s}\n      - filter: {when: key != \"\"}\n" +
		"      - throttle: {rate: 1000, key: key}\n      - delay: {for: 50ms}\n"
	r := simulated(t, slump(), written(t, stages.Builtin(), "{rate: 60, min_rate: 1}", first))
	if r.Overflow != 0 || r.Refused != 0 || r.Sent[event.LevelHard] == 0 {
		t.Errorf("overflow %d, refused %v, sent %v", r.Overflow, r.Reason, r.Sent)
	}
}

func TestWithoutPressureReliefItOverflows(t *testing.T) {
	r := simulated(t, busy(), written(t, stages.Builtin(), "{rate: 60, min_rate: 60}", ""))
	if r.Overflow == 0 || r.MaxDepth != 10000 {
		t.Errorf("overflow %d, max depth %d", r.Overflow, r.MaxDepth)
	}
	// 1000 items/s too many, from the tenth second on.
	if got := r.Overflow; got < 285_000 || got > 290_100 {
		t.Errorf("overflow %d", got)
	}
}

// The rate of a level is what gets through.
func TestThroughputFollowsTheScale(t *testing.T) {
	c := busy()
	c.Lose, c.LoseFor = []Loss{{Level: event.LevelOK, Nth: 1}}, c.Duration
	r := simulated(t, c, builtIn(t))
	if r.AtEnd == nil || r.AtEnd.Level != event.LevelSoft {
		t.Fatalf("pinned %+v", r.AtEnd)
	}
	for _, s := range r.Samples[60:] {
		if s.Scale != 0.5 || s.Fetched < 1450 || s.Fetched > 1550 || s.Rate < 29.99 || s.Rate > 30.01 {
			t.Fatalf("%+v", s)
		}
	}
}

func TestALostOKPinsTheProvider(t *testing.T) {
	c := slump()
	c.Lose, c.LoseFor = []Loss{{Level: event.LevelOK, Nth: 1, From: 100 * time.Second}}, 10*time.Second
	r := simulated(t, c, builtIn(t))
	if r.AtEnd == nil || r.AtEnd.Level != event.LevelHard || r.AtEnd.Signalled != event.LevelOK {
		t.Fatalf("pinned %+v", r.AtEnd)
	}
	if lost := r.Lost[len(r.Lost)-1]; r.Pinned != c.Duration-lost.At || r.AtEnd.Since >= lost.At || r.AtEnd.Since < time.Minute {
		t.Errorf("pinned for %v since %v, lost %+v", r.Pinned, r.AtEnd.Since, lost)
	}
	for text, flow := range map[string]Flow{
		"all at once":   written(t, stages.Builtin(), "{rate: 60, min_rate: 1, on_silence: {after: 30s}}", ""),
		"step for step": written(t, stages.Builtin(), "{rate: 60, min_rate: 1, on_silence: {after: 30s, step: true}}", ""),
	} {
		freed := simulated(t, c, flow)
		if r.Early != 0 || freed.AtEnd != nil || freed.Pinned == 0 || freed.Pinned > time.Minute || freed.Utilisation < 1.5*r.Utilisation {
			t.Errorf("on_silence, %s: pinned %v, at the end %+v, utilisation %v", text, freed.Pinned, freed.AtEnd, freed.Utilisation)
		}
	}
}

func TestRampUpRaisesSlowly(t *testing.T) {
	fast := simulated(t, slump(), written(t, stages.Builtin(), "{rate: 60, min_rate: 1}", ""))
	slow := simulated(t, slump(), written(t, stages.Builtin(), "{rate: 60, min_rate: 1, ramp_up: 20s}", ""))
	if slow.Utilisation >= fast.Utilisation || slow.Sent[event.LevelSoft] >= fast.Sent[event.LevelSoft] {
		t.Errorf("with ramp_up %v of the drain and %v, without %v and %v", slow.Utilisation, slow.Sent, fast.Utilisation, fast.Sent)
	}
}

// The same again is the same, to the last bit.
func TestRunsAreRepeatable(t *testing.T) {
	c := slump()
	c.Lose = []Loss{{Any: true, Nth: 100}}
	want := simulated(t, c, builtIn(t))
	for range 2 {
		if diff := cmp.Diff(want, simulated(t, c, builtIn(t))); diff != "" {
			t.Fatal(diff)
		}
	}
}

// What a stage refuses has no effect, and is told.
func TestDeadLettersAreCounted(t *testing.T) {
	r := simulated(t, busy(), written(t, stages.Builtin(), "{rate: 60}", "      - validate: {schema: telemetry.RateAdjustment}\n"))
	sent := r.Sent[0] + r.Sent[1] + r.Sent[2]
	if r.Refused == 0 || r.Refused != sent || !strings.HasPrefix(r.Reason.Error(), "validate: ") || r.Overflow == 0 {
		t.Errorf("%d of %d refused, for %v; overflow %d", r.Refused, sent, r.Reason, r.Overflow)
	}
}

// The events are what strict flows accept, hashes and all.
func TestEventsAreValid(t *testing.T) {
	r := simulated(t, slump(), written(t, stages.Builtin(), "{rate: 60}",
		"      - validate: {schema: telemetry.FeedbackEvent, mode: strict, hash: strict}\n      - dedupe: {key: id}\n"))
	if r.Refused != 0 || r.Sent[event.LevelHard] == 0 {
		t.Errorf("%d refused, for %v; sent %v", r.Refused, r.Reason, r.Sent)
	}
	at := time.Date(2026, 1, 1, 0, 0, 7, 250_000_000, time.UTC)
	data, err := signal{coordinator: "bö\"rs", level: event.LevelOK, depth: 50, capacity: 100, at: at}.entry(event.TrackV2)
	if err != nil {
		t.Fatal(err)
	}
	e := event.Decoder{}.Decode("1-1", data)
	fb, err := e.Feedback()
	want := event.Feedback{
		CoordinatorID: "bö\"rs", QueueSize: 50, Capacity: 100, Level: event.LevelOK, Source: "store", Time: event.Seconds(at),
	}
	if diff := cmp.Diff(want, fb); err != nil || diff != "" || e.CheckHash() != nil {
		t.Errorf("%v, hash %v: %s", err, e.CheckHash(), diff)
	}
	headers := map[string]string{"reason": "queue_recovered", "utilization": "0.500000"}
	if diff := cmp.Diff(headers, e.Headers()); diff != "" || e.Dialect != event.DialectNested || e.Track != event.TrackV2 {
		t.Errorf("%v %v %s", e.Dialect, e.Track, diff)
	}
}

// napConfig is a stage that sleeps on its clock.
type napConfig struct{ naps int }

func (*napConfig) Fields() flows.Fields                      { return nil }
func (*napConfig) Validate(stages.Scope, *flows.Diagnostics) {}
func (c *napConfig) Build(deps stages.Deps) (stages.Stage, error) {
	return nap{c, deps.Clock}, nil
}

type nap struct {
	config *napConfig
	clock  stages.Clock
}

func (n nap) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		begun := n.clock.Now()
		if err := n.clock.Sleep(msg.Context(), time.Second); err != nil {
			return nil, err
		}
		if n.clock.Now().Sub(begun) != time.Second {
			return nil, errors.New("slept badly")
		}
		n.config.naps++
		return next(msg)
	}
}

// A stage may sleep: events queue up behind it, and time goes on.
func TestStagesSleepOnTheClock(t *testing.T) {
	registry, config := stages.Builtin(), &napConfig{}
	if err := registry.Add(stages.Kind{
		Name: "nap", Summary: "Sleeps.", Example: "- nap", New: func() stages.Config { return config },
	}); err != nil {
		t.Fatal(err)
	}
	c := busy()
	c.Delay = 0
	r := simulated(t, c, written(t, registry, "{rate: 60, min_rate: 1}", "      - nap\n"))
	sent := r.Sent[0] + r.Sent[1] + r.Sent[2]
	if r.Refused > 1 || config.naps < 10 || config.naps > sent || config.naps > 300 { // one may be asleep at the end
		t.Errorf("%d naps, %d sent, %d refused for %v", config.naps, sent, r.Refused, r.Reason)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, busy(), builtIn(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("run: %v", err)
	}
}

func TestConfigErrors(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"duration":             func(c *Config) { c.Duration = 0 },
		"interval":             func(c *Config) { c.Interval = time.Hour },
		"samples":              func(c *Config) { c.Interval = time.Microsecond },
		"offered":              func(c *Config) { c.Offered = 0 },
		"items per token":      func(c *Config) { c.Items = 0 },
		"delay":                func(c *Config) { c.Delay = -1 },
		"lose for":             func(c *Config) { c.LoseFor = -1 },
		"drain: 0 items/s":     func(c *Config) { c.Drain.Rate = 0 },
		"must come after 10s":  func(c *Config) { c.Drain.Changes = []Change{{10 * time.Second, 1}, {5 * time.Second, 1}} },
		"drain: -1 items/s at": func(c *Config) { c.Drain.Changes = []Change{{10 * time.Second, -1}} },
		"capacity":             func(c *Config) { c.Queue.Capacity = 0 },
		"high watermark":       func(c *Config) { c.Queue.High = 10001 },
		"low watermark":        func(c *Config) { c.Queue.Low = 8000 },
	} {
		c := busy()
		change(&c)
		if _, err := Run(t.Context(), c, builtIn(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	f := builtIn(t)
	f.Providers = nil
	if _, err := Run(t.Context(), busy(), f); err == nil {
		t.Error("a flow without providers ran")
	}
}

// report is small enough to be read: a slump, and the same with a lost ok.
func report(t *testing.T) Report {
	t.Helper()
	c := Config{
		Duration: 2 * time.Minute, Interval: 2 * time.Second, Offered: 90, Items: 1, Delay: 100 * time.Millisecond,
		Drain: Drain{Rate: 40, Changes: []Change{{30 * time.Second, 5}, {time.Minute, 40}}},
		Queue: QueueConfig{Capacity: 400, High: 320, Low: 200},
		Lose:  []Loss{{Level: event.LevelOK, Nth: 1, From: 40 * time.Second}}, LoseFor: time.Second,
	}
	r := Report{Config: c}
	for _, v := range []struct{ name, provider string }{
		{"held <&>", "{rate: 60, burst: 1, min_rate: 1}"},
		{"silence", "{rate: 60, burst: 1, min_rate: 1, on_silence: {after: 20s}, ramp_up: 10s}"},
	} {
		f := written(t, stages.Builtin(), v.provider, "")
		r.Variants = append(r.Variants, Variant{
			Name: v.name, Provider: "ibkr", Rates: [3]float64{60, 30, 1}, Result: simulated(t, c, f),
		})
	}
	return r
}

func TestGolden(t *testing.T) {
	r := report(t)
	for name, write := range map[string]func(io.Writer) error{
		"samples.csv": r.WriteCSV,
		"plot.svg":    r.WritePlot,
		"chart.txt":   func(w io.Writer) error { return r.WriteChart(w, 72) },
		"table.txt": func(w io.Writer) error {
			err := r.WriteTable(w)
			for _, f := range r.Findings() {
				_, _ = io.WriteString(w, f+"\n")
			}
			return err
		},
	} {
		var out bytes.Buffer
		if err := write(&out); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), out.String()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestPlotIsWellFormed(t *testing.T) {
	r := report(t)
	r.Config.Interval /= 100
	long := r.Variants[0].Result.Samples
	for len(long) < 50*maxPoints {
		long = append(long, long...)
	}
	r.Variants[0].Result.Samples = long
	var out bytes.Buffer
	if err := r.WritePlot(&out); err != nil {
		t.Fatal(err)
	}
	if out.Len() > 200_000 {
		t.Errorf("a plot of %d samples has %d bytes", len(long), out.Len())
	}
	text := out.String()
	decoder, elements := xml.NewDecoder(&out), 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := token.(xml.StartElement); ok {
			elements++
		}
	}
	for _, want := range []string{
		"queue depth, items", "fetched, items/s", "time since the start", "high 320", "low 200", "capacity 400",
		"held &lt;&amp;&gt;", "silence", "pinned at hard",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the plot lacks %q", want)
		}
	}
	if elements < 50 || strings.Contains(text, "NaN") || strings.Contains(text, "%!") {
		t.Errorf("%d elements", elements)
	}
}

func TestChartKeepsItsWidth(t *testing.T) {
	r := report(t)
	for _, columns := range []int{0, MinColumns, 72, 200} {
		var out bytes.Buffer
		if err := r.WriteChart(&out, columns); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > max(columns, MinColumns) && !strings.Contains(line, "items") {
				t.Errorf("%d columns: %d in %q", columns, n, line)
			}
		}
	}
}

func TestClockTime(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", time.Second: "1s", 10 * time.Second: "10s", 90 * time.Second: "1m30s", time.Minute: "1m", 10 * time.Minute: "10m",
		time.Hour: "1h", 90 * time.Minute: "1h30m", 100 * time.Millisecond: "100ms", 20 * time.Hour: "20h", 70 * time.Second: "1m10s",
	} {
		if got := clockTime(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// A timeout is one of virtual time: what is held for longer is a dead letter, and what
// is not goes on.
func TestTimeoutIsVirtual(t *testing.T) {
	for hold, refuses := range map[string]bool{"199ms": false, "201ms": true, "1h": true} {
		r := simulated(t, slump(), written(t, stages.Builtin(), "{rate: 60}",
			"      - timeout: {after: 200ms}\n      - delay: {for: "+hold+", since: arrival}\n"))
		sent := r.Sent[0] + r.Sent[1] + r.Sent[2]
		if !refuses && r.Refused > 0 || refuses && (r.Refused < sent-1 || r.Refused == 0) { // one may be asleep at the end
			t.Errorf("held for %s: %d of %d refused, for %v", hold, r.Refused, sent, r.Reason)
		}
		if refuses && (!strings.Contains(r.Reason.Error(), "timed out after 200ms") || !errors.Is(r.Reason, context.DeadlineExceeded)) {
			t.Errorf("held for %s: refused for %v", hold, r.Reason)
		}
	}
}
