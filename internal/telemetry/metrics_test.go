package telemetry

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"gopkg.in/yaml.v3"
)

func TestFlowCounters(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := New(reg)
	if err != nil {
		t.Fatal(err)
	}
	f := m.Flow("feedback", "telemetry.feedback")
	f.Consumed("v1", "success")
	f.Consumed("v1", "success")
	f.Consumed("v2", "duplicate")
	f.Consumed("v3", "success") // outside the contract's sets
	f.Consumed("v1", "lost")
	f.Lag(1500 * time.Microsecond)
	want := `
# HELP pulse_consume_total Events settled, each with one outcome.
# TYPE pulse_consume_total counter
pulse_consume_total{outcome="duplicate",stream="telemetry.feedback",track="v1"} 0
pulse_consume_total{outcome="duplicate",stream="telemetry.feedback",track="v2"} 1
pulse_consume_total{outcome="error",stream="telemetry.feedback",track="v1"} 0
pulse_consume_total{outcome="error",stream="telemetry.feedback",track="v2"} 0
pulse_consume_total{outcome="filtered",stream="telemetry.feedback",track="v1"} 0
pulse_consume_total{outcome="filtered",stream="telemetry.feedback",track="v2"} 0
pulse_consume_total{outcome="success",stream="telemetry.feedback",track="v1"} 2
pulse_consume_total{outcome="success",stream="telemetry.feedback",track="v2"} 0
# HELP pulse_lag_ms Milliseconds between the newest event's envelope ts and its arrival.
# TYPE pulse_lag_ms gauge
pulse_lag_ms{stream="telemetry.feedback"} 1.5
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "pulse_consume_total", "pulse_lag_ms"); err != nil {
		t.Error(err)
	}
	if _, err := New(reg); err == nil {
		t.Error("the metrics were registered twice")
	}
}

func TestRates(t *testing.T) {
	reg := prometheus.NewRegistry()
	if err := RegisterRates(reg, func() []ProviderState {
		return []ProviderState{{
			Provider: "ibkr", Scale: 0.5, Level: 1, EffectiveRate: 30, Tokens: 7, Waiters: 3, Granted: 11, Denied: 12,
			LevelAge: 2, Coordinators: 4, Evicted: 5, Breaker: 2, Cooldowns: 6, CooldownLeft: 8, OverrideLeft: 9,
		}}
	}); err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{
		"pipeline_rate_scale_factor": 0.5, "pipeline_backpressure_state": 1, "pulseflow_rate_effective": 30,
		"pulseflow_rate_tokens": 7, "pulseflow_rate_waiters": 3, "pulseflow_rate_granted_total": 11,
		"pulseflow_rate_denied_total": 12, "pulseflow_level_age_seconds": 2, "pulseflow_rate_coordinators": 4,
		"pulseflow_rate_evicted_total": 5, "pulseflow_rate_breaker_state": 2, "pulseflow_rate_cooldowns": 6,
		"pulseflow_rate_cooldown_seconds": 8, "pulseflow_rate_override_seconds": 9,
	}
	for name, value := range want {
		if got := sample(t, reg, name); got != value {
			t.Errorf("%s is %v, want %v", name, got, value)
		}
	}
	if n, err := testutil.GatherAndCount(reg); n != len(want) || err != nil {
		t.Errorf("%d metrics, %v, and a test for %d", n, err, len(want))
	}
	scale := `
# HELP pipeline_rate_scale_factor Scale applied to the provider's rate, 0 paused to 1 full.
# TYPE pipeline_rate_scale_factor gauge
pipeline_rate_scale_factor{provider="ibkr"} 0.5
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(scale), "pipeline_rate_scale_factor"); err != nil {
		t.Error(err)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP pulseflow_rate_granted_total Tokens granted.
# TYPE pulseflow_rate_granted_total counter
pulseflow_rate_granted_total{provider="ibkr"} 11
`), "pulseflow_rate_granted_total"); err != nil {
		t.Error(err)
	}
}

// Every metric is documented, and every documented one is there.
func TestDocumentedMetrics(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
				documented[m[1]] = true
			}
		}
	}
	registered := make(map[string]bool)
	for name := range registeredMetrics(t) {
		registered[name] = true
	}
	if diff := cmp.Diff(registered, documented); diff != "" {
		t.Errorf("docs/metrics.md (-registered +documented):\n%s", diff)
	}
}

func TestStreams(t *testing.T) {
	reg := prometheus.NewRegistry()
	var down error
	all, err := NewStreams(reg)
	if err != nil {
		t.Fatal(err)
	}
	s := all.Bus("default", []StreamGroup{{"mdp:mdp.t", "t", "g"}},
		func(context.Context, string, string) (GroupState, error) {
			return GroupState{Lag: 7, Pending: 3, OldestPending: 2 * time.Second}, nil
		}, func() error { return down })
	s.Read("mdp:mdp.t", "g", 5)
	s.InFlight("mdp:mdp.t", "g", 4)
	s.Settled("mdp:mdp.t", "g", time.Millisecond)
	s.AckFailed("mdp:mdp.t", "g", 2)
	s.Reclaimed("mdp:mdp.t", "g", 1)
	s.Trimmed("mdp:mdp.t", "g", 6)
	s.Trimmed("another", "g", 6) // not ours
	for name, want := range map[string]float64{
		"pulseflow_stream_lag_entries": 7, "pulseflow_pending_entries": 3, "pulseflow_oldest_pending_seconds": 2,
		"pulseflow_in_flight": 4, "pulseflow_ack_failures_total": 2, "pulseflow_reclaimed_total": 1,
		"pulseflow_trimmed_total": 6, "pulseflow_redis_up": 1,
	} {
		if got := sample(t, reg, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	down = errors.New("out")
	if got := sample(t, reg, "pulseflow_redis_up"); got != 0 {
		t.Errorf("pulseflow_redis_up is %v while Redis is out", got)
	}
	if n, err := testutil.GatherAndCount(reg, "pulseflow_stream_lag_entries"); n != 0 || err != nil {
		t.Errorf("%d lags while Redis is out, %v", n, err)
	}
}

// Two buses are told apart, and one that does not answer hides nothing of the other.
func TestStreamsOfTwoBuses(t *testing.T) {
	reg := prometheus.NewRegistry()
	all, err := NewStreams(reg)
	if err != nil {
		t.Fatal(err)
	}
	up := func() error { return nil }
	all.Bus("hangs", []StreamGroup{{"k", "one", "g"}}, func(ctx context.Context, _, _ string) (GroupState, error) {
		<-ctx.Done()
		return GroupState{}, ctx.Err()
	}, up)
	answers := all.Bus("answers", []StreamGroup{{"k", "two", "g"}}, func(ctx context.Context, _, _ string) (GroupState, error) {
		return GroupState{Lag: 4}, ctx.Err()
	}, up)
	all.Bus("down", nil, nil, func() error { return errors.New("out") })
	answers.AckFailed("k", "g", 3) // a key that both have
	want := `
# HELP pulseflow_ack_failures_total Entries whose acknowledgement failed and was kept for later.
# TYPE pulseflow_ack_failures_total counter
pulseflow_ack_failures_total{group="g",stream="one"} 0
pulseflow_ack_failures_total{group="g",stream="two"} 3
# HELP pulseflow_redis_up 1 when the Redis of the bus can be used.
# TYPE pulseflow_redis_up gauge
pulseflow_redis_up{bus="answers"} 1
pulseflow_redis_up{bus="down"} 0
pulseflow_redis_up{bus="hangs"} 1
# HELP pulseflow_stream_lag_entries Entries of the stream not delivered to the group yet.
# TYPE pulseflow_stream_lag_entries gauge
pulseflow_stream_lag_entries{group="g",stream="two"} 4
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "pulseflow_ack_failures_total", "pulseflow_redis_up",
		"pulseflow_stream_lag_entries"); err != nil {
		t.Error(err)
	}
}

// sample is the sum of a metric's counters and gauges.
func sample(t *testing.T, reg prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

func TestNewLogger(t *testing.T) {
	var b bytes.Buffer
	log, err := NewLogger(&b, "WARN", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("unseen")
	log.Warn("seen", "flow", "feedback")
	if got := b.String(); strings.Contains(got, "unseen") || !strings.Contains(got, `"flow":"feedback"`) {
		t.Errorf("log %q", got)
	}
	for _, bad := range [][2]string{{"loud", "text"}, {"info", "xml"}} {
		if _, err := NewLogger(&b, bad[0], bad[1]); err == nil {
			t.Errorf("level %q, format %q were accepted", bad[0], bad[1])
		}
	}
}

// The first dead letter is an increase only where there was a zero.
func TestDeadLettersBeginAtZero(t *testing.T) {
	reg := prometheus.NewRegistry()
	m, err := New(reg)
	if err != nil {
		t.Fatal(err)
	}
	m.Flow("a", "a", "schema", "decode").DeadLettered("decode")
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP pulseflow_dead_letters_total Events written to the dead letters, by kind of error.
# TYPE pulseflow_dead_letters_total counter
pulseflow_dead_letters_total{flow="a",kind="decode"} 1
pulseflow_dead_letters_total{flow="a",kind="schema"} 0
`), "pulseflow_dead_letters_total"); err != nil {
		t.Error(err)
	}
}

// registeredMetrics are the labels of every metric, by name.
func registeredMetrics(t *testing.T) map[string][]string {
	t.Helper()
	reg := prometheus.NewRegistry()
	if _, err := New(reg); err != nil {
		t.Fatal(err)
	}
	if err := RegisterRates(reg, func() []ProviderState { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := RegisterLevelsKept(reg, func() bool { return true }); err != nil {
		t.Fatal(err)
	}
	if _, err := NewStreams(reg); err != nil {
		t.Fatal(err)
	}
	if _, err := NewReloads(reg); err != nil {
		t.Fatal(err)
	}
	descs := make(chan *prometheus.Desc)
	go func() {
		defer close(descs)
		reg.Describe(descs)
	}()
	registered := make(map[string][]string)
	parts := regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	for d := range descs {
		m := parts.FindStringSubmatch(d.String())
		registered[m[1]] = strings.Split(m[2], ",")
	}
	return registered
}

// The rules of deploy/ speak of metrics that there are, by labels that they have.
func TestAlertingRules(t *testing.T) {
	src, err := os.ReadFile(filepath.Join("..", "..", "deploy", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(src, &file); err != nil {
		t.Fatal(err)
	}
	labels := registeredMetrics(t)
	name := regexp.MustCompile(`\b(?:pulse|pulseflow|pipeline|feedback|schema)_\w+`)
	told := regexp.MustCompile(`\$labels\.(\w+)`)
	seen := 0
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			seen++
			if r.Alert == "" || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%+v lacks something", r)
			}
			have := map[string]bool{"instance": true, "job": true}
			for _, metric := range name.FindAllString(r.Expr, -1) {
				own, ok := labels[metric]
				if !ok {
					t.Errorf("%s: there is no metric %s", r.Alert, metric)
				}
				for _, l := range own {
					have[l] = true
				}
			}
			for _, m := range told.FindAllStringSubmatch(r.Annotations["summary"]+r.Annotations["description"], -1) {
				if !have[m[1]] {
					t.Errorf("%s: no metric of it has a label %s", r.Alert, m[1])
				}
			}
		}
	}
	if seen < 10 {
		t.Errorf("%d rules found", seen)
	}
}
