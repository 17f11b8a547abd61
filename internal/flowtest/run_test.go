package flowtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

// The tests of the shipped flow, a hundred times side by side: each time all is the
// same, also what each stage did and when.
func TestEveryRunIsTheSame(t *testing.T) {
	shipped := load(t, filepath.Join("..", "..", "flows_test.yaml"), false)
	crowd := load(t, write(t, strings.Replace(flow, "key: id", "key: payload", 1), crowded()), true)
	const rounds = 100
	suites := make([]*Suite, 0, 2*rounds)
	for range rounds {
		suites = append(suites, shipped, crowd)
	}
	results := Run(context.Background(), suites, Options{Limit: time.Minute, Parallel: 8})
	each := len(shipped.Tests) + len(crowd.Tests)
	if len(results) != rounds*each {
		t.Fatalf("%d results, want %d", len(results), rounds*each)
	}
	for i, r := range results {
		if first := results[i%each]; transcript(r) != transcript(first) {
			t.Fatalf("run %d is another (-first +this):\n%s", i/each, cmp.Diff(transcript(first), transcript(r)))
		}
		if !r.Passed() {
			t.Fatal(transcript(r))
		}
	}
}

// crowded is a test in which many events of several keys come at once, are the same
// to dedupe, fail, wait for each other and are retried.
func crowded() string {
	var b strings.Builder
	b.WriteString("tests:\n  - name: crowd\n    fail:\n      - {stage: rate-apply, times: 7}\n      - {stage: handle, times: 3, " +
		"kind: panic}\n    events:\n")
	for i := range 30 {
		fmt.Fprintf(&b, "      - {key: k%d, at: %dms, payload: {coordinator_id: c%d, queue_size: 1, capacity: 2, level: %s, "+
			"ts: 1767225600}}\n", i%7, 10*(i%3), i%5, []string{"ok", "soft", "hard"}[i%3])
	}
	return b.String()
}

func TestDedupeWaitsForTheOneInProgress(t *testing.T) {
	const payload = "payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}"
	passes(t, flow, `tests:
  - name: which succeeds
    events:
      - {id: same, key: a, `+payload+`, outcome: success}
      - {id: same, key: b, at: 1ms, `+payload+`, outcome: duplicate}
      - {id: same, key: c, at: 2ms, `+payload+`, outcome: duplicate}
    fail: [{stage: handle, kind: none, delay: 1s}]
    expect: {elapsed: 1s}
  - name: which fails
    events:
      - {id: same, key: a, `+payload+`, outcome: duplicate}
      - {id: same, key: b, at: 1ms, `+payload+`, outcome: success}
      - {id: same, key: c, at: 2ms, `+payload+`, outcome: duplicate}
    fail: [{stage: handle, delay: 1s}]
    expect: {elapsed: 1.1s}
`)
}

// While the first is retried its key is free, so the second does the work.
func TestAKeyIsFreeWhileItsEventIsRetried(t *testing.T) {
	const payload = "payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}"
	passes(t, flow, `tests:
  - name: overtaken
    events:
      - {id: same, key: a, `+payload+`, outcome: duplicate}
      - {id: same, key: b, at: 1ms, `+payload+`, outcome: success}
    fail: [{stage: handle, times: 1}]
    expect: {elapsed: 100ms}
`)
}

func TestLanes(t *testing.T) {
	const payload = "payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}"
	test := func(elapsed string) string {
		return `tests:
  - name: two keys
    events:
      - {name: slow, key: a, ` + payload + `}
      - {key: b, ` + payload + `}
    fail: [{stage: handle, times: 1, event: slow}, {stage: validate, times: 1}]
    expect: {elapsed: ` + elapsed + `}
`
	}
	// Side by side the waits are at the same time, but for the slow one's second.
	passes(t, flow, test("300ms"))
	passes(t, strings.Replace(flow, "    stages:", "    lanes: 1\n    stages:", 1), test("300ms"))
	both := `tests:
  - name: each fails once
    events:
      - {key: a, ` + payload + `}
      - {key: b, ` + payload + `}
    fail: [{stage: validate, times: 2}]
    expect: {elapsed: %s}
`
	passes(t, flow, fmt.Sprintf(both, "100ms"))
	// In one lane the first fails twice, and the second not at all.
	passes(t, strings.Replace(flow, "    stages:", "    lanes: 1\n    stages:", 1), fmt.Sprintf(both, "300ms"))
}

// What one flow publishes another reads.
func TestFlowsInARow(t *testing.T) {
	passes(t, flow+`  adjustments:
    from: {stream: telemetry.rate_adjustment}
    stages:
      - validate: {schema: telemetry.RateAdjustment}
`, `tests:
  - name: row
    flow: feedback
    events:
      - payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}
      - {stream: telemetry.rate_adjustment, raw: x, outcome: error}
    expect:
      outcomes: {success: 1}
      dead_letters:
        - {flow: adjustments, kind: decode}
      metrics:
        pulse_consume_total{outcome="success"}: 2
        pulse_consume_total{stream="telemetry.rate_adjustment",outcome="error"}: 1
`)
}

// The clock goes on until the test says, so that silence can be tested.
func TestUntil(t *testing.T) {
	silent := strings.Replace(flow, "{rate: 60}", "{rate: 60, on_silence: {after: 1m}}", 1)
	test := `tests:
  - name: silence
    until: %s
    events:
      - payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: hard}
    expect: {elapsed: 0s, rates: {ibkr: {level: %s}}}
`
	passes(t, silent, fmt.Sprintf(test, "59s", "hard"))
	passes(t, silent, fmt.Sprintf(test, "61s", "ok"))
}

func TestEnvironmentIsTheTests(t *testing.T) {
	t.Setenv("SOFT", "0.9")
	test := `env: {SOFT: "0.1"}
tests:
  - name: of all tests
    events: &soft [{payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}}]
    expect: {rates: {ibkr: {scale: 0.1}}}
  - name: its own
    env: {SOFT: "0.2"}
    events: *soft
    expect: {rates: {ibkr: {scale: 0.2}}}
`
	passes(t, flow, test)
	passes(t, flow, strings.NewReplacer(`env: {SOFT: "0.1"}`, "", "scale: 0.1", "scale: 0.5").Replace(test))
}

// Each expectation can fail, and says what it wanted and what it found.
func TestDifferences(t *testing.T) {
	for expect, want := range map[string]string{
		"outcomes: {duplicate: 1}":              "outcomes|- success: 0|+ success: 1|- duplicate: 1|+ duplicate: 0",
		"dead_letters: [{stage: x}]":            "dead_letters|- 1 dead letter|+ 0 dead letters",
		"elapsed: 1s":                           "elapsed|- 1s|+ 0s",
		"rates: {ibkr: {effective: 60}}":        "rates: ibkr|- effective: 60|+ effective: 30",
		"rates: {ibkr: {level: ok}}":            "rates: ibkr|- level: ok|+ level: soft",
		"metrics: {pulseflow_retries_total: 1}": "metrics|- pulseflow_retries_total: 1|+ pulseflow_retries_total: 0",
		"metrics: {pulseflow_retrys_total: 1}": "metrics|- pulseflow_retrys_total: 1|+ unknown metric \"pulseflow_retrys_total\" " +
			"(did you mean \"pulseflow_retries_total\"?); known: ",
		"outputs: {telemetry.rate_adjustment: []}": "outputs: telemetry.rate_adjustment|- 0 messages|+ 1 message|+ {",
		"outputs: {telemetry.rate_adjustment: [{values: {/payload/scale: 1, /nowhere: 2}}]}": "outputs: " +
			"telemetry.rate_adjustment: message 1|- /payload/scale: 1|+ /payload/scale: 0.5|- /nowhere: 2|+ /nowhere: nothing",
		"outputs: {telemetry.rate_adjustment: [{payload: {provider: ibkr, scale: 0.5, x: 1}}]}": "outputs: " +
			`telemetry.rate_adjustment: message 1|- /payload/x: 1|+ /payload/reason: "soft"|+ /payload/ts: 1767225600`,
		"outputs: {telemetry.rate_adjustment: [{contains: {key: polygon}}]}": "outputs: telemetry.rate_adjustment: " +
			`message 1|- /key: "polygon"|+ /key: "ibkr"`,
		"outputs: {telemetry.rate_adjustment: [{text: polygon}]}": "outputs: telemetry.rate_adjustment: message 1|" +
			`- text: "polygon"|+ {`,
	} {
		results := run(t, flow, "tests:\n  - name: t\n    events:\n      - payload: {coordinator_id: a, queue_size: 1, "+
			"capacity: 2, level: soft}\n    expect: {"+expect+"}\n")
		r := results[0]
		if r.Err != nil || len(r.Differences) != 1 {
			t.Errorf("%s: %s", expect, transcript(r))
			continue
		}
		d := r.Differences[0]
		got := strings.Join(append([]string{d.What}, d.Lines...), "|")
		if !strings.HasPrefix(got, want) || d.Pos.Line != 5 {
			t.Errorf("%s: at %v\n got %s\nwant %s", expect, d.Pos, got, want)
		}
	}
}

func TestDeadLetterDifferences(t *testing.T) {
	results := run(t, flow, `tests:
  - name: t
    events: [{name: one, raw: x, outcome: success}, {name: two, raw: x, repeat: 2, outcome: duplicate}]
    expect:
      dead_letters:
        - {event: two, stage: validate, kind: schema, attempts: 2, reason: nonsense, flow: feedback}
`)
	var got []string
	for _, d := range results[0].Differences {
		got = append(got, d.What+"|"+strings.Join(d.Lines, "|"))
	}
	const reason = "entry: not JSON: unexpected character at byte 0"
	want := []string{
		`event "one": outcome|- success|+ error (decode: ` + reason + ")",
		`event "two": outcome|- duplicate|+ error (decode: ` + reason + "), 2 of 2",
		"dead_letters: 1|- event: two|+ event: one|- stage: validate|+ stage: decode|- kind: schema|+ kind: decode|" +
			"- reason: nonsense|+ reason: " + reason + "|- attempts: 2|+ attempts: 1",
		"dead_letters|- 1 dead letter|+ 3 dead letters|+ event: two, flow: feedback, stage: decode, kind: decode, reason: " +
			reason + ", attempts: 1|+ event: two, flow: feedback, stage: decode, kind: decode, reason: " + reason + ", attempts: 1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// testReader is a reader without a router, of a line of its own.
func testReader(t *testing.T, s *schedule) *reader {
	t.Helper()
	base, cancel := context.WithCancel(context.Background())
	l := &line{schedule: s, base: base, cancel: cancel, flows: map[source]string{{"s", "g"}: "feedback"}}
	r, err := l.newReader("s", "g", 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// An event that waits for something outside is given up in real time, by name.
func TestStuck(t *testing.T) {
	s := newSchedule(time.Unix(0, 0))
	r := testReader(t, s)
	r.out = make(chan *message.Message, 1)
	e := event.Decoder{}.Decode("1-0", []byte("{}"))
	s.admit(&task{reader: r, lane: r.lane(e), event: e, paused: make(chan struct{}, 1)})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := s.play(ctx, nil, s.start)
	if err == nil || !strings.Contains(err.Error(), "flow feedback: event 1-0: still running") {
		t.Error(err)
	}
}

// Events that wait for each other are found out.
func TestWaitForEver(t *testing.T) {
	s := newSchedule(time.Unix(0, 0))
	r := testReader(t, s)
	e := event.Decoder{}.Decode("1-0", []byte("{}"))
	s.admit(&task{reader: r, lane: r.lane(e), event: e, paused: make(chan struct{}, 1)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		<-r.out
		done <- s.Wait(ctx, make(chan struct{}))
	}()
	if err := s.play(context.Background(), nil, s.start); err == nil || !strings.Contains(err.Error(), "wait for each other") {
		t.Error(err)
	}
	s.end()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A refused event comes again after a backoff, and its key waits for it.
func TestRefused(t *testing.T) {
	s := newSchedule(time.Unix(0, 0))
	r := testReader(t, s)
	e := event.Decoder{}.Decode("1-0", []byte("{}"))
	for range 2 {
		s.admit(&task{reader: r, lane: r.lane(e), event: e, paused: make(chan struct{}, 1)})
	}
	var times []time.Duration
	go func() {
		for i := range 5 {
			msg := <-r.out
			times = append(times, s.Now().Sub(s.start))
			if i < 3 {
				msg.Nack()
			} else {
				msg.Ack()
			}
		}
	}()
	if err := s.play(context.Background(), nil, s.start); err != nil {
		t.Error(err)
	}
	const ms = time.Millisecond
	if diff := cmp.Diff([]time.Duration{0, 100 * ms, 300 * ms, 700 * ms, 700 * ms}, times); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// BenchmarkThousand runs a thousand tests: a retry, a duplicate and a dead letter each.
func BenchmarkThousand(b *testing.B) {
	var text strings.Builder
	text.WriteString("tests:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, `  - name: case %d
    events:
      - {id: a, payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}, outcome: success}
      - {id: a, at: 1s, payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}, outcome: duplicate}
      - {id: b, at: 2s, payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: loud}, outcome: error}
    fail: [{stage: handle, times: 2}]
    expect:
      outcomes: {success: 1, duplicate: 1, error: 1}
      rates: {ibkr: {effective: 30}}
      metrics: {pulseflow_retries_total: 2}
`, i)
	}
	path := write(b, flow, text.String())
	b.ReportAllocs()
	for b.Loop() {
		s := load(b, path, false)
		for _, r := range Run(context.Background(), []*Suite{s}, Options{Limit: time.Minute}) {
			if !r.Passed() {
				b.Fatal(transcript(r))
			}
		}
	}
}
