package flowtest

import (
	"bytes"
	"os"
	"slices"
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
		"tests: [{name: a, events: [{raw: x}], expect: {outcomes: {success: 1}, # why\n  rates: {}}}]": "in { }",
		"tests:\n  - name: a\n    events: [{raw: x}]\n    expect: &e {outcomes: {error: 1}}\n  - name: b\n    events: [{raw: x, repeat: 2}]\n" +
			"    expect: {<<: *e}\n": `test "b" cannot be updated: what is false stands elsewhere`,
		"tests:\n  - name: a\n    events: [{raw: x}]\n    expect:\n      dead_letters:\n        - {kind: decode}\n        - &l {kind: decode}\n" +
			"  - name: b\n    events: [{raw: x}]\n    expect:\n      dead_letters: [*l]\n": `test "a" cannot be updated: more than what it expects would change`,
		"tests:\n  - name: a\n    events: &v\n      - {raw: x, outcome: success}\n  - name: b\n    events: *v\n    flow: feedback\n" +
			"  - name: c\n    events:\n      - &w {payload: &p {coordinator_id: a, queue_size: 1, capacity: 2, level: soft}, outcome: duplicate}\n" +
			"  - name: d\n    events: [*w]\n    fail: [{stage: handle, kind: permanent}]\n": `is that of another test too, where it is not error`,
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

// However a file is written, only what is expected changes in it, and the second time
// nothing does.
func TestUpdateKeepsForm(t *testing.T) {
	const payload = "{coordinator_id: a, queue_size: 1, capacity: 2, level: soft}"
	const commented = `# top
tests: # after tests
  # before a
  - name: a # n
    # before events
    events: # e
      # before event
      - payload: # p
          # in payload
          coordinator_id: a # 1
          queue_size:   1

          capacity: 2
          # mid
          level: 'soft' # 2
        # after payload
        outcome: "duplicate" # 3
      # after event
    # before expect

    expect: # x

      # before outcomes
      outcomes: # o
        # before success
        success:   5 # five

        # after success
      outputs:
        telemetry.rate_adjustment: # t

          # first
          - values: # v

              /payload/scale:   0.9 # nine
              /payload/reason:  "soft"  # right
          # last
      # before dead letters
      dead_letters: # d
        - kind: x
      # before rates
      rates:
        # provider
        ibkr: # i
          # level
          level:   hard # l
          # after level
          scale:   0.5   # right
        # after ibkr
      # end of expect
    # end of test
  # before b
  - name:   b
    events:   [  {  payload: ` + payload + `  }  ]
    expect:   {  outcomes:   {  success:   1  }  } # right
# end
`
	changes := []string{
		`outcome: "duplicate" # 3`, `outcome: "success" # 3`, "success:   5 # five", "success: 1 # five", "/payload/scale:   0.9 # nine",
		"/payload/scale: 0.5 # nine", "dead_letters: # d\n        - kind: x", "dead_letters: [] # d", "level:   hard # l", "level: soft # l",
	}
	windows := func(list []string) []string {
		list = slices.Clone(list)
		for i := range list {
			list[i] = strings.ReplaceAll(list[i], "\n", "\r\n")
		}
		return list
	}
	const letters = "dead_letters: [{stage: decode, kind: decode, attempts: 1, reason: 'entry: not JSON: unexpected character at byte 0'}]"
	for name, tt := range map[string]struct {
		before  string
		changes []string // old, new, old, new
	}{
		"comments": {commented, changes},
		"CRLF":     {windows([]string{commented})[0], windows(changes)},
		"braces": {
			"tests: [{name: a, events: [{payload: " + payload + ", outcome: error}], expect: {outcomes: {success: 2}}}, # one\n" +
				"  {\"expect\": {outcomes:   {success: 3}, rates: {ibkr: {level:   soft}}}, name: \"b}\", events: [{raw: \"}{]'\"}]}]\n",
			[]string{
				"outcome: error", "outcome: success", "{success: 2}", "{success: 1}",
				"{outcomes:   {success: 3}, rates: {ibkr: {level:   soft}}}", "{outcomes: {success: 0, error: 1}, rates: {ibkr: {level: ok}}}",
			},
		},
		"braces without expectations": {
			"tests: [\n  {name: it's, # {\n   events: [{raw: x}], # }\n  }, {name: b, events: [{raw: x}] }, {events: [{raw: x}], name: c, }\n]",
			[]string{
				"\n  }, {name: b, events: [{raw: x}] }, {events: [{raw: x}], name: c, }",
				"\n   EXPECT}, {name: b, events: [{raw: x}], EXPECT }, {events: [{raw: x}], name: c, EXPECT }",
				"EXPECT", "expect: {outcomes: {error: 1}, outputs: {telemetry.rate_adjustment: []}, " + letters +
					", rates: {ibkr: {level: ok, scale: 1, effective: 60}}}",
			},
		},
		"comments in braces": {
			"tests:\n  - name: a\n    events: [{payload: " + payload + "}]\n    expect: {outcomes: {success: 2}, # o\n      rates: {ibkr: {level: hard}}} # r\n",
			[]string{
				"{outcomes: {success: 2}, # o\n      rates: {ibkr: {level: hard}}} # r",
				"# r\n      outcomes: {success: 1} # o\n      rates: {ibkr: {level: soft}}",
			},
		},
		"anchors": {
			"tests:\n  - name: a\n    events: &two\n      - &one {payload: &p " + payload + ", outcome: error}\n      - *one\n" +
				"    expect: &x\n      outcomes: &o {success: 2}\n      rates: &r {ibkr: {level: soft}}\n" +
				"  - name: b\n    events: *two\n    expect: {outcomes: *o, rates: {<<: *r}}\n" +
				"  - name: c\n    events: [*one]\n    expect:\n      <<: *x\n      outcomes: *o\n" +
				"  - name: d\n    events: [{payload: *p}]\n    expect:\n      outcomes: &q {success: 3}\n" +
				"  - name: e\n    events: [{payload: *p}, {payload: *p}, {payload: *p}]\n    expect:\n      outcomes: *q\n",
			[]string{
				"outcome: error", "outcome: success", "      <<: *x\n      outcomes: *o", "      <<: *x\n      outcomes: {success: 1}",
				"&q {success: 3}", "&q {success: 1}", "outcomes: *q", "outcomes: {success: 3}",
			},
		},
		"ends": {
			"---\ntests:\n- name: a\n  events:\n  - payload: " + payload + "\n  expect:\n        outcomes:   \n              success: 2   \n\n\n...\n",
			[]string{"success: 2   ", "success: 1"},
		},
		"no end": {
			"tests:\n  - name: a\n    events: [{raw: x}]\n    expect: {outcomes: {success: 2}, dead_letters: [{reason: JSON}]}",
			[]string{"{success: 2}", "{success: 0, error: 1}"},
		},
		"empty lines in a text": {
			"tests:\n  - name: a\n    events:\n      - raw: |+\n          no\n\n    # hello\n\n  - name: b\n    expect: # b\n    events: [{payload: " +
				payload + "}]\n",
			[]string{
				"\n\n    # hello", "\n\n    expect:\n      outcomes: {error: 1}\n      outputs:\n        telemetry.rate_adjustment: []\n      dead_letters:\n" +
					"        - {stage: decode, kind: decode, attempts: 1, reason: 'entry: not JSON: unexpected character at byte 1'}\n" +
					"      rates:\n        ibkr: {level: ok, scale: 1, effective: 60}\n    # hello",
				"expect: # b", "expect: # b\n      outcomes: {success: 1}\n      outputs:\n        telemetry.rate_adjustment:\n" +
					"          - payload: {provider: ibkr, reason: soft, scale: 0.5, ts: 1767225600}\n      dead_letters: []\n" +
					"      rates:\n        ibkr: {level: soft, scale: 0.5, effective: 30}",
			},
		},
		"long lines": {
			"tests:\n  - name: a\n    events: [{payload: " + payload + ", headers: {h: \"" + strings.Repeat("word ", 100) + "\"}}]\n    expect:\n" +
				"      outcomes: {success: 2} # " + strings.Repeat("long ", 100) + "x\n      outputs:\n        telemetry.rate_adjustment:\n" +
				"          - contains: {key: ibkr, x: \"" + strings.Repeat("word ", 100) + "\"}\n",
			[]string{"success: 2", "success: 1", "{key: ibkr, x: \"" + strings.Repeat("word ", 100) + "\"}", "{key: ibkr}"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := tt.before
			for i := 0; i+1 < len(tt.changes); i += 2 {
				if !strings.Contains(want, tt.changes[i]) {
					t.Fatalf("%q is not there", tt.changes[i])
				}
				want = strings.ReplaceAll(want, tt.changes[i], tt.changes[i+1])
			}
			got, changed := []byte(tt.before), 0
			for round := range 3 {
				text, n, err := Update(got, run(t, flow, string(got)))
				if err != nil {
					t.Fatalf("round %d: %v\n%s", round, err, text)
				}
				got, changed = text, n
				if n == 0 {
					break
				}
			}
			if changed != 0 {
				t.Errorf("it does not come to rest")
			}
			if diff := cmp.Diff(want, string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			passes(t, flow, string(got))
		})
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
