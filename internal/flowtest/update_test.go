package flowtest

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Only what was false changes; comments, spelling and all other lines stay.
func TestUpdate(t *testing.T) {
	const before = `# The tests.
tests:
  # A right one.
  - name: right
    events: [{payload: &soft {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}}] # one

    expect: {outcomes: {success: 1}} # stays


  - name: wrong
    # What happens.
    events:
      - {id: é, payload: *soft, outcome: duplicate} # not so
      - {name: bad, id: x, raw: "no", outcome: "error"}
    # What must come of it.
    expect:
      # How they end.
      outcomes: {success: 2} # two
      outputs:
        telemetry.rate_adjustment:
          # The first.
          - payload: {scale: 0.7, provider: 'ibkr', reason: soft, ts: 1767225600.0}
            values: {/payload/scale: 0.5}
          - contains: {x: 1}
      dead_letters:
        - {event: bad, stage: validate, reason: JSON} # why
      rates:
        ibkr: {scale: 0.50, level: hard}
      elapsed: 5s
    # The end of it.

  # Expects nothing yet.
  - name: fresh
    events:
      - payload: *soft
      - {raw: "no"}
  # Nor does it.
  - expect:
    name: empty
    events: [{payload: *soft}]
# The end.
`
	const after = `# The tests.
tests:
  # A right one.
  - name: right
    events: [{payload: &soft {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}}] # one

    expect: {outcomes: {success: 1}} # stays


  - name: wrong
    # What happens.
    events:
      - {id: é, payload: *soft, outcome: success} # not so
      - {name: bad, id: x, raw: "no", outcome: "error"}
    # What must come of it.
    expect:
      # How they end.
      outcomes: {success: 1, error: 1} # two
      outputs:
        telemetry.rate_adjustment:
          # The first.
          - payload: {scale: 0.5, provider: 'ibkr', reason: soft, ts: 1767225600.0}
            values: {/payload/scale: 0.5}
      dead_letters:
        - {event: bad, stage: decode, reason: JSON} # why
      rates:
        ibkr: {scale: 0.50, level: soft}
      elapsed: 0s
    # The end of it.

  # Expects nothing yet.
  - name: fresh
    events:
      - payload: *soft
      - {raw: "no"}
    expect:
      outcomes: {success: 1, error: 1}
      outputs:
        telemetry.rate_adjustment:
          - payload: {provider: ibkr, reason: soft, scale: 0.5, ts: 1767225600}
      dead_letters:
        - {stage: decode, kind: decode, attempts: 1, reason: 'entry: not JSON: unexpected character at byte 1'}
      rates:
        ibkr: {level: soft, scale: 0.5, effective: 30}
  # Nor does it.
  - expect:
      outcomes: {success: 1}
      outputs:
        telemetry.rate_adjustment:
          - payload: {provider: ibkr, reason: soft, scale: 0.5, ts: 1767225600}
      dead_letters: []
      rates:
        ibkr: {level: soft, scale: 0.5, effective: 30}
    name: empty
    events: [{payload: *soft}]
# The end.
`
	results := run(t, flow, before)
	got, changed, err := Update([]byte(before), results)
	if err != nil || changed != 3 {
		t.Fatal(changed, err)
	}
	if diff := cmp.Diff(after, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	passes(t, flow, string(got))
	if err := os.WriteFile(results[0].Suite.Path, got, 0o600); err != nil {
		t.Fatal(err)
	}
	again, changed, err := Update(got, run(t, flow, string(got)))
	if err != nil || changed != 0 || !bytes.Equal(again, got) {
		t.Errorf("the second time %d changed, %v", changed, err)
	}
}

// What cannot be rewritten in place is left, and told.
func TestUpdateRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"tests: [{name: a, events: [{raw: x}], expect: {outcomes: {success: 1}}}]": "in { }",
		"tests:\n  - name: a\n    events: [{raw: x}]\n    expect: &e {outcomes: {error: 1}}\n  - name: b\n    events: [{raw: x, repeat: 2}]\n" +
			"    expect: *e\n": "stands for that of another test",
		"tests:\n  - name: a\n    events: [{from: two.jsonl, outcome: success}]\n": "did not end alike",
	} {
		path := write(t, flow, text)
		two := `{"coordinator_id":"a","queue_size":1,"capacity":2,"level":"soft"}` + "\n" + `{"x":1}` + "\n" + `{"y":1}` + "\n"
		if err := os.WriteFile(strings.TrimSuffix(path, "flows_test.yaml")+"two.jsonl", []byte(two), 0o600); err != nil {
			t.Fatal(err)
		}
		s := load(t, path, true)
		results := Run(t.Context(), []*Suite{s}, Options{})
		if _, _, err := Update([]byte(text), results); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestSelector(t *testing.T) {
	all := map[string][]sample{
		"a": {{map[string]string{"x": "1", "y": "1"}, 1}, {map[string]string{"x": "1", "y": "2"}, 2}, {map[string]string{"x": "2"}, 4}},
	}
	for text, want := range map[string]float64{`a`: 7, `a{x="1"}`: 3, `a{x="1", y="2"}`: 2, `a{x="3"}`: 0, `a{}`: 7} {
		s, err := parseSelector(text)
		if err != nil {
			t.Fatal(text, err)
		}
		if got, err := s.sum(all); got != want || err != nil {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "a b", "a{", `a{x=1}`, `a{x="1" y="2"}`, `1a`} {
		if _, err := parseSelector(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}
