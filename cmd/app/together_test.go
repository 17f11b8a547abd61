package app

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/flowtest"
	"github.com/mjdevaccount/pulseflow/stages"
)

// sound has no fault. A fault takes the place of one line, so that two of them do not
// move each other.
const sound = `version: 1
enabled: true
shutdown_timeout: 5s
bus: {backend: redis, namespace: prod}
buses:
  shared: {backend: redis, redis: {url: "redis://localhost:6379/3"}}
  spare: {backend: inmem}
admin: {listen: "off"}
rates: {share: true}
registry: {enabled: false}
providers:
  ibkr:
    rate: 60
    min_rate: 1
    burst: 9
    breaker: {threshold: 3}
  other: {rate: 5}
  third: {rate: 5}
flows:
  feedback:
    from:
      stream: telemetry.feedback
      group: pipeline
      start: oldest
    stages:
      - validate: {schema: telemetry.FeedbackEvent}
      - dedupe:
          key: id
          ttl: 10m
      - handle:
          with: feedback
          provider: ibkr
          policy: {soft: 0.5}
      - rate-apply: {publish: telemetry.rate_adjustment}
    to:
      bus: shared
      stream: out
    retry:
      max: 3
      initial: 1s
    dead_letter:
      stream: dead
    lanes: 4
  second:
    from: {stream: s2}
    stages: [filter: {when: payload.x > 1}]
  tested:
    from: {stream: s3}
    stages: [handle: {with: feedback, provider: third}, rate-apply: {publish: rates3}]
tests:
  - name: one
    flow: tested
    events:
      - {name: e, raw: x}
    fail:
      - {stage: handle, event: e}
    expect:
      outcomes: {error: 1}
      rates: {third: {scale: 1}}
      outputs: {rates3: []}
      dead_letters: [{event: e}]
`

// placed is a fault: a line of sound, what stands there instead, and how the one thing
// that is reported begins, from its column on.
type placed struct{ place, line, instead, want string }

// faultsOfPlaces are faults of every part of a file, each of which is one by itself.
func faultsOfPlaces() []placed {
	return []placed{
		{"version", "version: 1", "version: 2", "10: version: must be 1"},
		{"version, type", "version: 1", "version: {a: 1}", "10: version: expected an integer"},
		{"version, key", "version: 1", "versio: 1", `1: unknown field "versio" (did you mean "version"?)`},
		{"top, type", "enabled: true", "enabled: [5]", "10: enabled: expected true or false"},
		{"top, variable", "enabled: true", "enabled: ${UNSET}", "10: variable UNSET is not set"},
		{"top, unknown key", "enabled: true", "colour: red", `1: unknown field "colour"`},
		{"top, duplicate key", "enabled: true", "version: 1", `1: duplicate key "version"`},
		{"top, alias", "enabled: true", "enabled: *no", "10: not valid YAML: *no stands for nothing"},
		{"top, tag", "enabled: true", "enabled: !!bool true", "10: tag !!bool is not supported"},
		{"top, tag of a key", "enabled: true", "!!str enabled: true", "1: a key must be a plain name, without a tag"},
		{"top, key of a list", "enabled: true", "[a]: true", "1: a key must be a plain name"},
		{"top, merge", "enabled: true", "<<: 5", `5: "<<" needs a mapping`},
		{"timeout", "shutdown_timeout: 5s", "shutdown_timeout: 5", "19: shutdown_timeout: expected a unit"},
		{"timeout, near key", "shutdown_timeout: 5s", "shutdown_timout: 5s", `1: unknown field "shutdown_timout" (did you mean "shutdown_timeout"?)`},
		{"bus", "bus: {backend: redis, namespace: prod}", "bus: {backend: rediss, namespace: prod}", "16: bus: backend: must be inmem or redis (did you mean"},
		{"bus, type", "bus: {backend: redis, namespace: prod}", "bus: [redis]", "6: bus: expected a mapping"},
		{"bus, url", "bus: {backend: redis, namespace: prod}", "bus: {redis: {url: http://x}}", "20: bus: redis: url: must be a URL"},
		{"bus, variable", "bus: {backend: redis, namespace: prod}", `bus: {backend: redis, namespace: "${UNSET}"}`, "35: variable UNSET is not set"},
		{"bus, control character", "bus: {backend: redis, namespace: prod}", "bus: {backend: redis, namespace: prod} # \a", "42: the control character U+0007"},
		{"bus, bytes", "bus: {backend: redis, namespace: prod}", "bus: {backend: redis, namespace: prod} # \xff", "42: byte 0xFF is not valid UTF-8"},
		{"bus of buses, name", "  spare: {backend: inmem}", "  Spare Bus: {backend: inmem}", "3: bus name: must be made of"},
		{"bus of buses, key", "  spare: {backend: inmem}", "  spare: {backend: inmem, lane: 5}", `27: bus "spare": unknown field "lane" (did you mean "lanes"?)`},
		{"bus of buses, type", "  spare: {backend: inmem}", "  spare: 5", `10: bus "spare": expected a mapping`},
		{"bus of buses, twice", "  spare: {backend: inmem}", "  shared: {backend: inmem}", `3: duplicate bus "shared"`},
		{"admin", `admin: {listen: "off"}`, `admin: {listen: "x"}`, "17: admin: listen: must be host:port"},
		{"rates", "rates: {share: true}", "rates: {share: maybe}", "16: rates: share: expected true or false"},
		{"rates, type", "rates: {share: true}", "rates: 5", "8: rates: expected a mapping"},
		{"registry", "registry: {enabled: false}", "registry: {enforcement: strikt}", `25: registry: enforcement: must be warn or strict (did you mean "strict"?)`},
		{"provider, name", "  other: {rate: 5}", "  other x: {rate: 5}", "3: provider name: must be made of"},
		{"provider, name's variable", "  other: {rate: 5}", "  ${UNSET}: {rate: 5}", "3: variable UNSET is not set"},
		{"provider, name twice", "  other: {rate: 5}", "  ibkr: {rate: 5}", `3: duplicate provider "ibkr"`},
		{"provider, type", "  other: {rate: 5}", "  other: [5]", `10: provider "other": expected a mapping`},
		{"provider, tag", "  other: {rate: 5}", "  other: !x {rate: 5}", "10: tag !x is not supported"},
		{"provider, rate", "    rate: 60", "    rate: fast", "11: "},
		{"provider, near key", "    rate: 60", "    rat: 60", `5: `},
		{"provider, burst", "    burst: 9", "    burst: 0", "12: "},
		{"provider, breaker", "    breaker: {threshold: 3}", "    breaker: {threshold: -3}", "26: "},
		{"provider, breaker's key", "    breaker: {threshold: 3}", "    breaker: {treshold: 3}", "15: "},
		{"flow, name", "  feedback:", "  my flow:", "3: flow name: must be made of a-z"},
		{"flow, capitals", "  feedback:", "  Feedback:", "3: flow name: must be made of a-z"},
		{"flow, name's variable", "  feedback:", "  ${UNSET}:", "3: variable UNSET is not set"},
		{"flow, name twice", "  second:", "  feedback:", `3: duplicate flow "feedback"`},
		{"flow, key of a list", "  second:", "  [second]:", "3: a key must be a plain name"},
		{"from, near key", "    from:", "    form:", `5: `},
		{"from, stream", "      stream: telemetry.feedback", "      stream: a b", "15: "},
		{"from, stream's near key", "      stream: telemetry.feedback", "      steam: telemetry.feedback", "7: "},
		{"from, stream's variable", "      stream: telemetry.feedback", "      stream: ${UNSET}", "15: variable UNSET is not set"},
		{"from, group", "      group: pipeline", "      group: a b", "14: "},
		{"from, bus", "      group: pipeline", "      bus: shard", "12: "},
		{"from, start", "      start: oldest", "      start: oldes", "14: "},
		{"stages, near key", "    stages:", "    stage:", "5: "},
		{"stage, unknown", "      - validate: {schema: telemetry.FeedbackEvent}", "      - valdate: {schema: telemetry.FeedbackEvent}", `9: `},
		{"stage, name", "      - validate: {schema: telemetry.FeedbackEvent}", "      - Validate: {schema: telemetry.FeedbackEvent}", `9: `},
		{"stage, schema", "      - validate: {schema: telemetry.FeedbackEvent}", "      - validate: {schema: telemetry.Feedback}", "28: "},
		{"stage, type", "      - validate: {schema: telemetry.FeedbackEvent}", "      - [validate]", "9: "},
		{"stage, keys", "          key: id", "          key: nope", "16: "},
		{"stage, list key", "          key: id", "          key: [5]", "16: "},
		{"stage, option", "          ttl: 10m", "          ttl: 10", "16: "},
		{"stage, near option", "          ttl: 10m", "          tll: 10m", "11: "},
		{"handle, misspelt", "      - handle:", "      - handel:", "9: "},
		{"handle, with", "          with: feedback", "          with: feedbak", "17: "},
		{"handle, provider", "          provider: ibkr", "          provider: ibrk", "21: "},
		{"handle, policy", "          policy: {soft: 0.5}", "          policy: {soft: 5}", "26: "},
		{"handle, policy's key", "          policy: {soft: 0.5}", "          policy: {sofd: 0.5}", "20: "},
		{"rate-apply", "      - rate-apply: {publish: telemetry.rate_adjustment}", "      - rate-apply: {publish: telemetry.rate_adjustment, when: alway}", "64: "},
		{"rate-apply, indentation", "      - rate-apply: {publish: telemetry.rate_adjustment}", "      - {rate-apply: , publish: telemetry.rate_adjustment}", "9: "},
		{"to, bus", "      bus: shared", "      bus: shred", "12: "},
		{"to, near key", "    to:", "    To:", "5: "},
		{"to, stream", "      stream: out", "      stream: o u t", "15: "},
		{"retry", "      max: 3", "      max: many", "12: "},
		{"retry, interval", "      initial: 1s", "      initial: 0s", "16: "},
		{"retry, near key", "    retry:", "    retri:", "5: "},
		{"dead letter, near key", "    dead_letter:", "    dead-letter:", "5: "},
		{"dead letter", "      stream: dead", "      stream: d e", "15: "},
		{"dead letter, loop", "      stream: dead", "      stream: telemetry.feedback", "7: "},
		{"lanes", "    lanes: 4", "    lanes: none", "12: "},
		{"second, from", "    from: {stream: s2}", "    from: s2", `11: flow "second": from: expected a mapping`},
		{"second, expression", "    stages: [filter: {when: payload.x > 1}]", "    stages: [filter: {when: payload.x >}]", "39: "},
		{"second, stages", "    stages: [filter: {when: payload.x > 1}]", "    stages: {filter: {when: payload.x > 1}}", "13: "},
		{"test, flow", "    flow: tested", "    flow: testet", "11: "},
		{"test, key", "    flow: tested", "    flows: tested", "5: "},
		{"test, name", "  - name: one", "  - name: 1", "11: "},
		{"test, event", "      - {name: e, raw: x}", "      - {name: e, raw: x, stream: nope}", "35: "},
		{"test, event's type", "      - {name: e, raw: x}", "      - {name: e, raw: x, at: 5}", "31: "},
		{"test, stage", "      - {stage: handle, event: e}", "      - {stage: handel, event: e}", "17: "},
		{"test, event's name", "      - {stage: handle, event: e}", "      - {stage: handle, event: f}", "32: "},
		{"test, outcome", "      outcomes: {error: 1}", "      outcomes: {errors: 1}", "18: "},
		{"test, provider", "      rates: {third: {scale: 1}}", "      rates: {thirt: {scale: 1}}", "22: "},
		{"test, scale", "      rates: {third: {scale: 1}}", "      rates: {third: {scale: 5}}", "30: "},
		{"test, stream", "      outputs: {rates3: []}", "      outputs: {rates4: []}", "25: "},
		{"test, letter", "      dead_letters: [{event: e}]", "      dead_letters: [{event: f}]", "30: "},
	}
}

// Two faults in two lines are both reported, and nothing that is only due to one of
// them.
func TestFaultsAreToldTogether(t *testing.T) {
	tree(t, nil)
	list := faultsOfPlaces()
	alone := make([]string, len(list))
	for i, f := range list {
		if strings.Count(sound, f.line+"\n") != 1 {
			t.Fatalf("%s: %q is not one line", f.place, f.line)
		}
		got := told(t, f.in(sound))
		before, _, _ := strings.Cut(sound, f.line+"\n")
		line := 1 + strings.Count(before, "\n")
		if want := fmt.Sprintf("%d:%s", line, f.want); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s: want %s\n%s", f.place, want, strings.Join(got, "\n"))
			continue
		}
		alone[i] = placeOf(got[0])
	}
	if t.Failed() {
		return
	}
	for i, f := range list {
		for k, g := range list[:i] {
			if f.line == g.line || cannotBeBoth(f.place, g.place) || !meet(list, i, k) {
				continue
			}
			got := told(t, g.in(f.in(sound)))
			var places []string
			for _, x := range got {
				places = append(places, placeOf(x))
			}
			want := []string{alone[i], alone[k]}
			slices.Sort(want)
			slices.Sort(places)
			if !slices.Equal(places, want) {
				t.Errorf("%s, and %s: at %v, want %v\n%s", f.place, g.place, places, want, strings.Join(got, "\n"))
			}
		}
	}
}

// meet reports whether two faults are looked at together. All pairs of lines are, and each
// fault of a line with some of the other's.
func meet(list []placed, i, k int) bool {
	number := func(i int) (number, of int) {
		for j, f := range list {
			if f.line == list[i].line {
				of++
				if j < i {
					number++
				}
			}
		}
		return number, of
	}
	a, ofA := number(i)
	b, ofB := number(k)
	fewer := min(ofA, ofB)
	return a%fewer == b%fewer
}

func (f placed) in(text string) string { return strings.Replace(text, f.line+"\n", f.instead+"\n", 1) }

// placeOf is where a diagnostic that told lists is.
func placeOf(diagnostic string) string {
	line, rest, _ := strings.Cut(diagnostic, ":")
	column, _, _ := strings.Cut(rest, ":")
	return line + ":" + column
}

// cannotBeBoth reports whether one of two faults is none beside the other.
func cannotBeBoth(a, b string) bool {
	for _, pair := range exclusive {
		if a == pair[0] && b == pair[1] || a == pair[1] && b == pair[0] {
			return true
		}
	}
	return false
}

// exclusive are faults of which one is none beside the other.
var exclusive = [][2]string{
	{"dead letter, loop", "from, stream"}, // with which it makes a loop
	{"dead letter, loop", "from, stream's variable"},
	{"top, duplicate key", "version, key"}, // which has another name then
	{"flow, name twice", "flow, name"},
	{"flow, name twice", "flow, capitals"},
	{"flow, name twice", "flow, name's variable"},
	{"flow, key of a list", "second, from"}, // of which nobody knows what it is in
	{"flow, key of a list", "second, expression"},
	{"flow, key of a list", "second, stages"},
}

// told lists what check says of a file, without the file's name.
func told(t *testing.T, text string) []string {
	t.Helper()
	file, d := flows.Parse("flows.yaml", []byte(text), nil)
	// For the tests, which are looked at with the file as it is read anew.
	if err := os.WriteFile("flows.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	reg := stages.Builtin()
	new(fileFlags).examine(file, reg, &d)
	d = append(d, flowtest.Check(file, reg, d)...)
	list := make([]string, len(d))
	for i, x := range d {
		list[i] = strings.TrimPrefix(x.String(), "flows.yaml:")
	}
	return list
}
