package flowtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// staged is a file with one flow of the stages.
func staged(list string) string {
	return "version: 1\nflows:\n  f:\n    from: {stream: in}\n    retry: {max: 2, initial: 1s}\n    stages:\n" + list +
		"    to: {stream: out}\n"
}

// at puts a payload of a schema of no meaning on the stream.
func given(rest, payload string) string { return "{schema: a.B, " + rest + "payload: " + payload + "}" }

func TestGeneralStages(t *testing.T) {
	for name, tt := range map[string]struct{ stages, test string }{
		"filter": {`      - filter: {when: payload.level == "hard"}
`, `  - name: t
    events:
      - ` + given("outcome: success, ", "{level: hard}") + `
      - ` + given("outcome: filtered, ", "{level: ok}") + `
      - ` + given("outcome: filtered, ", "{}") + `
    expect:
      outcomes: {success: 1, filtered: 2}
      outputs: {out: [{payload: {level: hard}}]}
`},
		"filter of what it cannot evaluate": {`      - filter: {when: payload.n > 1}
`, `  - name: t
    events:
      - ` + given("name: text, ", "{n: x}") + `
    expect:
      outcomes: {error: 1}
      outputs: {out: []}
      dead_letters: [{event: text, stage: filter, kind: expression, attempts: 1, reason: "flows.yaml:7:34: invalid operation: string > int"}]
`},
		"filter that drops what it cannot evaluate": {`      - filter: {when: payload.n > 1, on_error: drop}
`, `  - name: t
    events: [` + given("outcome: filtered, ", "{n: x}") + `]
    expect: {dead_letters: []}
`},
		"map": {`      - map: {set: {used: payload.size / payload.capacity}, remove: [size], schema: c.D, key: payload.name}
`, `  - name: t
    events: [` + given("", "{size: 1, capacity: 4, name: x}") + `]
    expect:
      outputs:
        out:
          - payload: {capacity: 4, name: x, used: 0.25}
            values: {/key: x, /meta/schema_id: c.D}
`},
		"map to no object": {`      - map: {payload: payload.inner}
`, `  - name: t
    events: [` + given("", "{inner: 1}") + `]
    expect:
      dead_letters: [{stage: map, kind: expression, attempts: 1, reason: must yield an object}]
`},
		"route to all": {`      - route: {to: {a: payload.n > 1, b: payload.n > 2, all: "true"}, otherwise: rest}
`, `  - name: t
    events: [` + given("", "{n: 2}") + ", " + given("", "{n: 3}") + `]
    expect:
      outputs:
        a: [{payload: {n: 2}}, {payload: {n: 3}}]
        b: [{payload: {n: 3}}]
        all: [{payload: {n: 2}}, {payload: {n: 3}}]
        rest: []
        out: [{payload: {n: 2}}, {payload: {n: 3}}]
`},
		"route to the first": {`      - route: {match: first, to: {a: payload.n > 1, b: payload.n > 0}, otherwise: rest}
`, `  - name: t
    events: [` + given("", "{n: 2}") + ", " + given("", "{n: 1}") + ", " + given("", "{n: 0}") + `]
    expect:
      outputs:
        a: [{payload: {n: 2}}]
        b: [{payload: {n: 1}}]
        rest: [{payload: {n: 0}}]
`},
		"what has it does not get it again": {`      - route: {to: {a: "true"}}
      - tap
`, `  - name: t
    events: [` + given("", "{n: 2}") + `]
    fail: [{stage: tap, times: 2}]
    expect:
      outputs: {a: [{payload: {n: 2}}], out: [{payload: {n: 2}}]}
      elapsed: 3s
`},
		"throttle that waits": {`      - throttle: {rate: 2, burst: 2}
`, `  - name: t
    events: [` + given("repeat: 5, outcome: success, ", "{}") + `]
    checks:
      - {at: 0s, outcomes: {success: 2}}
      - {at: 499ms, outcomes: {success: 2}}
      - {at: 500ms, outcomes: {success: 3}}
      - {at: 1s, outcomes: {success: 4}}
    expect: {elapsed: 1.5s}
`},
		"throttle that drops": {`      - throttle: {rate: 1, key: payload.k, over: drop}
`, `  - name: t
    events:
      - ` + given("outcome: success, ", "{k: a}") + `
      - ` + given("outcome: success, ", "{k: b}") + `
      - ` + given("at: 999ms, outcome: filtered, ", "{k: a}") + `
      - ` + given("at: 1s, outcome: success, ", "{k: a}") + `
    expect: {outcomes: {success: 3, filtered: 1}}
`},
		"delay by the event's time": {`      - delay: {for: 10s}
`, `  - name: t
    events:
      - ` + given("at: 8s, time: 5s, key: a, ", "{}") + `
      - ` + given("at: 30s, time: 5s, key: b, ", "{}") + `
    checks:
      - {at: 14s, outputs: {out: []}}
      - {at: 15s, outputs: {out: [{payload: {}}]}}
    expect: {elapsed: 30s}
`},
		"delay from arrival": {`      - delay: {for: 10s, since: arrival}
`, `  - name: t
    events: [` + given("at: 30s, time: 5s, ", "{}") + `]
    expect: {elapsed: 40s}
`},
		"timeout of a stage that sleeps": {`      - timeout: {after: 2s}
      - delay: {for: 5s, since: arrival}
`, `  - name: t
    events: [` + given("name: slow, ", "{}") + `]
    expect:
      outcomes: {error: 1}
      outputs: {out: []}
      dead_letters: [{event: slow, stage: delay, kind: timeout, attempts: 3, reason: "timed out after 2s: context deadline exceeded"}]
      elapsed: 9s
`},
		"timeout that is met": {`      - timeout: {after: 2s}
      - delay: {for: 1999ms, since: arrival}
`, `  - name: t
    events: [` + given("outcome: success, ", "{}") + `]
    expect: {elapsed: 1.999s}
`},
		"timeout once": {`      - timeout: {after: 2s}
      - tap
`, `  - name: t
    events: [` + given("outcome: success, ", "{}") + `]
    fail: [{stage: tap, kind: none, delay: 3s}]
    expect:
      metrics: {pulseflow_retries_total: 1}
      elapsed: 3s
`},
		"the inner of two timeouts": {`      - timeout: {after: 9s}
      - timeout: {after: 2s}
      - delay: {for: 5s, since: arrival}
`, `  - name: t
    events: [` + given("", "{}") + `]
    expect: {dead_letters: [{kind: timeout, reason: timed out after 2s}], elapsed: 9s}
`},
		"the outer of two timeouts": {`      - timeout: {after: 2s}
      - timeout: {after: 9s}
      - delay: {for: 5s, since: arrival}
`, `  - name: t
    events: [` + given("", "{}") + `]
    expect: {dead_letters: [{kind: timeout, reason: timed out after 2s}], elapsed: 9s}
`},
		"timeout of one that waits for another": {`      - timeout: {after: 2s}
      - dedupe
      - tap
`, `  - name: t
    events:
      - ` + given("id: same, key: a, outcome: success, ", "{}") + `
      - ` + given("id: same, key: b, at: 1s, outcome: duplicate, ", "{}") + `
    fail: [{stage: tap, kind: none, delay: 1500ms, times: 1}]
    expect: {elapsed: 1.5s}
`},
		"timeout of one that another waits for": {`      - dedupe
      - timeout: {after: 2s}
      - tap
`, `  - name: t
    events:
      - ` + given("id: same, key: a, outcome: duplicate, ", "{}") + `
      - ` + given("id: same, key: b, at: 1s, outcome: success, ", "{}") + `
    checks: [{at: 1999ms, outcomes: {}}, {at: 2s, outcomes: {success: 1}}]
    fail: [{stage: tap, kind: none, delay: 9s, times: 1}]
    expect: {elapsed: 3s}
`},
	} {
		t.Run(name, func(t *testing.T) { passes(t, staged(tt.stages), "tests:\n"+tt.test) })
	}
}

// Many events time out at the same moment, some asleep, some waiting for others, and
// each time all is the same.
func TestTimeoutsAreTheSameEachTime(t *testing.T) {
	file := staged(`      - timeout: {after: 2s}
      - dedupe: {key: payload}
      - throttle: {rate: 1}
      - delay: {for: 1s, since: arrival}
`)
	var b strings.Builder
	b.WriteString("tests:\n  - name: crowd\n    events:\n")
	for i := range 40 {
		fmt.Fprintf(&b, "      - {schema: a.B, key: k%d, at: %dms, payload: {n: %d}}\n", i, 10*(i%2), i%10)
	}
	b.WriteString("    expect: {outcomes: {success: 10}}\n")
	s := load(t, write(t, file, b.String()), true)
	suites := make([]*Suite, 30)
	for i := range suites {
		suites[i] = s
	}
	results := Run(context.Background(), suites, Options{Limit: time.Minute, Parallel: 8})
	first := transcript(results[0])
	if !strings.Contains(first, "timed out after 2s") || !strings.Contains(first, "duplicate") {
		t.Errorf("nothing timed out, or nothing waited:\n%s", first)
	}
	for _, r := range results[1:] {
		if diff := cmp.Diff(first, transcript(r)); diff != "" {
			t.Fatalf("(-first +this):\n%s", diff)
		}
	}
}

// What one flow publishes the next one reads, down to the last; failures and dead
// letters know the event it began with.
func TestChain(t *testing.T) {
	passes(t, `version: 1
flows:
  first:
    from: {stream: in}
    stages: [{map: {set: {hops: "[1]"}}}]
    to: {stream: middle}
  second:
    from: {stream: middle}
    stages: [{map: {set: {hops: "[payload.hops[0], 2]"}}}]
    to: {stream: last}
  third:
    from: {stream: last}
    retry: {max: 1, initial: 1s}
    stages: [{filter: {when: payload.n > 1}}, {dedupe: {key: payload}}]
    to: {stream: out}
  beside:
    from: {stream: middle, group: beside}
    stages: [{filter: {when: payload.n > 2}}]
    to: {stream: more}
`, `tests:
  - name: chain
    flow: first
    events:
      - `+given("name: one, ", "{n: 1}")+`
      - `+given("name: two, ", "{n: 2}")+`
      - `+given("name: three, at: 1m, ", "{n: 3}")+`
    fail:
      - {flow: third, stage: dedupe, event: two, times: 0, error: stuck}
    checks:
      - at: 30s
        outputs: {out: []}
        dead_letters: [{event: two, flow: third, stage: dedupe, attempts: 2, reason: stuck}]
    expect:
      outcomes: {success: 3}
      outputs:
        last: [{payload: {n: 1, hops: [1, 2]}}, {payload: {n: 2, hops: [1, 2]}}, {payload: {n: 3, hops: [1, 2]}}]
        out: [{payload: {n: 3, hops: [1, 2]}}]
        more: [{payload: {n: 3, hops: [1]}}]
      metrics:
        pulse_consume_total{stream="last",outcome="filtered"}: 1
        pulse_consume_total{stream="last",outcome="error"}: 1
      elapsed: 1m
  - name: into the middle
    flow: second
    events: [`+given("outcome: success, ", "{n: 7, hops: [5]}")+`]
    expect:
      outputs: {out: [{payload: {n: 7, hops: [5, 2]}}]}
`)
}

// Ramps, silence and levels that come late, over time.
func TestChecks(t *testing.T) {
	const level = "payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: "
	passes(t, flow, `tests:
  - name: levels that come late
    events:
      - {at: 10s, `+level+`ok}}
      - {at: 20s, time: 5s, `+level+`hard}}
      - {at: 30s, `+level+`soft}}
    checks:
      - {at: 0s, outcomes: {}, rates: {ibkr: {effective: 60}}}
      - {at: 20s, outcomes: {success: 2}, rates: {ibkr: {level: ok}}, metrics: {pulseflow_rate_stale_total: 1}}
      - {at: 25s, rates: {ibkr: {level: ok}}, dead_letters: []}
      - {at: 30s, rates: {ibkr: {level: soft, effective: 30}}}
      - {at: 1h, rates: {ibkr: {level: soft}}}
`)
	passes(t, strings.Replace(flow, "{rate: 60}", "{rate: 60, min_rate: 1, ramp_up: 100s}", 1), `tests:
  - name: ramp
    events:
      - {`+level+`hard}}
      - {at: 1s, `+level+`ok}}
    checks:
      - {at: 1s, rates: {ibkr: {level: ok, effective: 1}}}
      - {at: 11s, rates: {ibkr: {effective: 6.9}}}
      - {at: 51s, rates: {ibkr: {effective: 30.5}}}
      - {at: 101s, rates: {ibkr: {effective: 60}}}
`)
	passes(t, strings.Replace(flow, "{rate: 60}", "{rate: 60, on_silence: {after: 15m, step: true}}", 1), `tests:
  - name: silence
    events:
      - {`+level+`hard}}
    checks:
      - {at: 14m59s, rates: {ibkr: {level: hard}}}
      - {at: 15m, rates: {ibkr: {level: soft}}}
      - {at: 29m59s, rates: {ibkr: {level: soft}}}
      - {at: 30m, rates: {ibkr: {level: ok}}}
    expect: {elapsed: 0s}
`)
	// Each can fail, and says when.
	r := run(t, flow, `tests:
  - name: wrong
    events: [{at: 1s, `+level+`soft}}]
    checks:
      - {at: 1s, outcomes: {error: 1}, rates: {ibkr: {scale: 1}}, outputs: {telemetry.rate_adjustment: []}}
      - {at: 2s, dead_letters: [{stage: x}], metrics: {pulseflow_retries_total: 3}}
`)[0]
	var got []string
	for _, d := range r.Differences {
		got = append(got, fmt.Sprintf("%d %s", d.Pos.Line, d.What))
	}
	want := []string{
		"5 at 1s: outcomes", "5 at 1s: outputs: telemetry.rate_adjustment", "5 at 1s: rates: ibkr", "6 at 2s: dead_letters",
		"6 at 2s: metrics",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A check that is wrong is written anew, and one without expectations gets some; what
// is around them stays.
func TestUpdateOfChecks(t *testing.T) {
	const before = `tests:
  - name: over time
    events:
      - payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}
    # The end.
    expect: {outcomes:   {success: 1}} # right
    # Meanwhile.
    checks:
      # At once.
      - {at: 0s, rates: {ibkr: {level: hard}}} # no
      - at: 1m
        outputs: {telemetry.rate_adjustment: []}
      - at: 2m # what is it?
  - name: both
    events:
      - payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}
    checks:
      - {at: 0s, outcomes: {success: 2}}
      - {at: 1s, outcomes: {success: 1}}
    expect:
      elapsed: 1s
`
	const after = `tests:
  - name: over time
    events:
      - payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}
    # The end.
    expect: {outcomes:   {success: 1}} # right
    # Meanwhile.
    checks:
      # At once.
      - {at: 0s, rates: {ibkr: {level: soft}}} # no
      - at: 1m
        outputs: {telemetry.rate_adjustment: [{payload: {provider: ibkr, reason: soft, scale: 0.5, ts: 1767225600}}]}
      - at: 2m # what is it?
        outcomes: {success: 1}
        rates:
          ibkr: {level: soft, scale: 0.5, effective: 30}
  - name: both
    events:
      - payload: {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}
    checks:
      - {at: 0s, outcomes: {success: 1}}
      - {at: 1s, outcomes: {success: 1}}
    expect:
      elapsed: 0s
`
	got, changed, err := Update([]byte(before), run(t, flow, before))
	if err != nil || changed != 2 {
		t.Fatal(changed, err)
	}
	if diff := cmp.Diff(after, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	passes(t, flow, string(got))
}

// One that waits for another event is let go when its context ends by time.
func TestWaitEndsInTime(t *testing.T) {
	s := newSchedule(time.Unix(0, 0))
	one := &task{paused: make(chan struct{}, 1)}
	s.current = one
	ctx, cancel := s.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Wait(ctx, nil) }()
	<-one.paused
	if s.next() != nil {
		t.Fatal("it runs before its time")
	}
	s.clock.Advance(2 * time.Second)
	if s.next() != one || s.next() != nil {
		t.Fatal("it does not run once when its time is over")
	}
	close(one.resume)
	if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// What route and to publish is seen, also by the flow that reads it, and what waits
// for a token or a delay waits on the test's clock.
func TestEveryPublicationIsSeen(t *testing.T) {
	passes(t, `version: 1
flows:
  first:
    from: {stream: s1}
    stages: [{throttle: {rate: 0.5}}, {delay: {for: 3s}}, {route: {to: {s2: payload.x > 1}}}]
    to: {stream: s3}
  second:
    from: {stream: s2}
    stages: [{map: {set: {y: payload.x * 2}}}]
    to: {stream: s4}
`, `tests:
  - name: chain
    flow: first
    events:
      - {payload: {x: 1}, schema: my.X}
      - {payload: {x: 2}, schema: my.X}
    expect:
      outcomes: {success: 2}
      outputs:
        s2: [{payload: {x: 2}}]
        s3: [{payload: {x: 1}}, {payload: {x: 2}}]
        s4: [{payload: {x: 2, y: 4}}]
      elapsed: 3s
`)
}
