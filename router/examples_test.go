package router_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/internal/bus"
)

// example is a file of docs/examples, with flows that collect what it publishes.
func example(t *testing.T, name string, outputs ...string) string {
	t.Helper()
	src, err := os.ReadFile(filepath.Join("..", "docs", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	text := string(src)
	for i, topic := range outputs {
		text += fmt.Sprintf("  sink-%d: {from: {stream: %s, group: sink}, stages: [{handle: {with: test}}]}\n", i, topic)
	}
	return text
}

// putTo puts an entry on any stream.
func (r *running) putTo(topic, data string) {
	r.t.Helper()
	var err error
	switch b := r.line.transport.(type) {
	case *bus.InMemory:
		_, err = b.Put(context.Background(), "mdp:mdp."+topic, []byte(data), nil, true)
	case *bus.Redis:
		_, err = b.Put(context.Background(), "mdp:mdp."+topic, []byte(data), nil)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func payloads(got *seen, flow string) []string {
	var list []string
	for _, e := range got.of(flow) {
		list = append(list, string(e.Payload))
	}
	slices.Sort(list)
	return list
}

func TestExampleSchemaDrift(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		var got seen
		r := start(t, l, example(t, "schema-drift.yaml", "ops.schema_alerts"), got.handle, nil)
		drift := func(payload string) {
			r.putTo("telemetry.schema_drift", `{"ts": 1795556873.5, "key": "drift", "meta": {"schema_id": "telemetry.SchemaDrift", `+
				`"track": "v2"}, "payload": `+payload+`}`)
		}
		drift(`{"repo": "store", "schema": "telemetry.FeedbackEvent", "track": "v1", "local_sha256": "aa", "local_version": "1.2.0",` +
			` "registry_sha256": "bb", "registry_version": "1.3.0", "detected_at": 1795556870}`)
		drift(`{"schema_name": "telemetry.RateAdjustment", "local_sha": "cc", "registry_sha": "dd"}`)
		drift(`{"schema_name": "telemetry.FeedbackEvent", "track": "v1", "local_sha": "aa", "registry_sha": "bb"}`) // repeats
		drift(`{"schema_name": "same", "local_sha": "ee", "registry_sha": "ee"}`)
		drift(`{"local_sha": "ee", "registry_sha": "ff"}`) // of no schema
		r.eventually("two alerts, two filtered reports and a dead letter", func() bool {
			return len(got.of("sink-0")) == 2 && r.count.of("filtered") == 2 && r.count.of("dead letter expression") == 1
		})
		want := []string{
			`{"detected_at": 1795556870, "local": "aa", "local_version": "1.2.0", "registry": "bb", "registry_version": "1.3.0", ` +
				`"repo": "store", "schema": "telemetry.FeedbackEvent", "track": "v1"}`,
			`{"detected_at": 1795556873.5, "local": "cc", "local_version": null, "registry": "dd", "registry_version": null, ` +
				`"repo": "unknown", "schema": "telemetry.RateAdjustment", "track": "v2"}`,
		}
		if diff := cmp.Diff(want, payloads(&got, "sink-0")); diff != "" {
			t.Errorf("alerts (-want +got):\n%s", diff)
		}
		if n := r.count.of("published success"); n != 2 {
			t.Errorf("%d alerts counted, want 2", n)
		}
	})
}

func TestExampleQuotes(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		var got seen
		text := example(t, "quotes.yaml", "market.top", "ops.crossed", "ops.wide")
		// A tenth of a second between two quotes is long for a machine that has other work.
		slower := strings.Replace(text, "rate: 10,", "rate: 0.01,", 1)
		if slower == text {
			t.Fatal("the example has no throttle any more")
		}
		r := start(t, l, slower, got.handle, nil)
		now := float64(time.Now().Unix())
		quote := func(symbol string, bid, ask, ts float64) {
			r.putTo("market.quotes", fmt.Sprintf(`{"ts": %[4]f, "key": %[1]q, "meta": {"schema_id": "market.Quote"}, "payload": `+
				`{"symbol": %[1]q, "bid": %[2]g, "ask": %[3]g, "ts": %[4]f}}`, symbol, bid, ask, ts))
		}
		quote("A", 10, 10.1, now)
		quote("A", 10, 10.1, now) // too soon after the first
		quote("B", 20, 22, now)   // wide
		quote("C", 5, 4, now)     // crossed
		quote("D", 5, 6, now-60)  // stale
		quote("E", 0, 6, now)     // one side only
		r.eventually("the top of book", func() bool {
			return len(got.of("sink-0")) == 2 && len(got.of("sink-1")) == 1 && len(got.of("sink-2")) == 1 &&
				r.count.of("filtered") == 5
		})
		top := payloads(&got, "sink-0")
		if !strings.HasPrefix(top[0], `{"mid": 10.05, "spread": 0.09999999999999964, "symbol": "A"`) ||
			!strings.HasPrefix(top[1], `{"mid": 21.0, "spread": 2, "symbol": "B"`) {
			t.Errorf("top of book %q", top)
		}
		if crossed := payloads(&got, "sink-1"); !strings.HasPrefix(crossed[0], `{"symbol": "C", "bid": 5`) {
			t.Errorf("crossed %q", crossed)
		}
	})
}
