package stages

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

// reached runs one event through stages and reports the event behind them, nil when
// it did not come so far.
func reached(t *testing.T, list, data string) (*bench, result, *event.Event) {
	t.Helper()
	var behind *event.Event
	b := start(t, Builtin(), list, func(msg *message.Message) error {
		behind = From(msg.Context()).Event
		return nil
	})
	return b, b.send("1795556890500-3", data), behind
}

func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		stage   string
		outcome Outcome
		passes  bool
		failure string
	}{
		{`{when: payload.bid < 11}`, OutcomeSuccess, true, ""},
		{`{when: payload.bid > 11}`, OutcomeFiltered, false, ""},
		{`{when: payload.sym > 11}`, OutcomeSuccess, false, "expression at flows.yaml:8:36: invalid operation: string > int"},
		{`{when: payload.sym > 11, on_error: keep}`, OutcomeSuccess, true, ""},
		{`{when: payload.sym > 11, on_error: drop}`, OutcomeFiltered, false, ""},
	} {
		_, r, behind := reached(t, "      - filter: "+tt.stage+"\n", quote)
		if r.outcome != tt.outcome || (behind != nil) != tt.passes {
			t.Errorf("%s: result %+v, passed %v", tt.stage, r, behind != nil)
		}
		if tt.failure == "" && r.err != nil || tt.failure != "" && (!IsPermanent(r.err) || r.err.Error() != tt.failure) {
			t.Errorf("%s: error %v, want %q", tt.stage, r.err, tt.failure)
		}
	}
}

func TestMap(t *testing.T) {
	for stage, want := range map[string]string{
		`{set: {mid: (payload.bid + payload.ask) / 2}, remove: [legs, tags, deep, none, live, source]}`: `AAPL market.Quote ` +
			`{"sym": "AAPL", "bid": 10, "ask": 10.5, "ts": 1795556880, "mid": 10.25}`,
		`{payload: "{s: payload.sym, spread: payload.ask - payload.bid, whole: 2.0}", schema: market.Spread}`: `AAPL market.Spread ` +
			`{"s": "AAPL", "spread": 0.5, "whole": 2.0}`,
		`{key: headers.venue + "/" + payload.sym, payload: "{}"}`: `XNAS/AAPL market.Quote {}`,
		`{schema: market.Top, remove: [legs, tags, deep, none]}`: `AAPL market.Top ` +
			`{"sym": "AAPL", "bid": 10, "ask": 10.5, "source": "feed", "live": true, "ts": 1795556880}`,
	} {
		b, r, behind := reached(t, "      - map: "+stage+"\n", quote)
		if r.err != nil || behind == nil {
			t.Errorf("%s: %v", stage, r.err)
			continue
		}
		if got := behind.Key + " " + behind.Schema + " " + string(behind.Payload); got != want {
			t.Errorf("%s:\n got %s\nwant %s", stage, got, want)
		}
		if behind.ID != "1795556890500-3" || behind.Track != "v2" || behind.Headers()["venue"] != "XNAS" || behind.CheckHash() != nil {
			t.Errorf("%s: the event is another: %+v", stage, behind)
		}
		d := b.last.Load()
		if string(d.Received().Data) != quote {
			t.Errorf("%s: the received entry is lost", stage)
		}
		d.Restart()
		if d.Event != d.Received() || d.Attempts != 2 {
			t.Errorf("%s: another attempt starts with the changed event", stage)
		}
	}
}

func TestMapFailures(t *testing.T) {
	for stage, want := range map[string]string{
		`{payload: payload.sym}`:              "expression at flows.yaml:8:24: yields a text, must yield an object",
		`{set: {x: payload.sym - 1}}`:         "expression at flows.yaml:8:36: invalid operation: string - int",
		`{set: {x: payload.bid / 0}}`:         "a number is not finite",
		`{set: {x: 1}, key: payload.tags}`:    "yields a list, must yield a text",
		`{payload: payload.deep, key: "nil"}`: "yields nil, must yield a text",
	} {
		_, r, behind := reached(t, "      - map: "+stage+"\n", quote)
		if r.err == nil || !strings.Contains(r.err.Error(), want) || !IsPermanent(r.err) || behind != nil {
			t.Errorf("%s: error %v, want %q", stage, r.err, want)
		}
	}
	for stage, want := range map[string]string{
		`{}`:                           "changes nothing",
		`{payload: "{}", set: {a: 1}}`: "is the whole payload",
		`{payload: "5"}`:               "must yield an object, this one yields int",
		`{set: {a: 1, b: nope}}`:       `set: b: unknown name "nope"`,
		`{set: {a: }}`:                 "has no value",
		`{set: [a]}`:                   "set: expected a map of expressions by name, such as {NAME: EXPRESSION}, found a list",
		`{payload: {a: payload.b}}`:    "payload: expected an expression, found a mapping: quote the whole expression",
		`payload.a`:                    "(map): expected a mapping of key, payload, remove, schema, set, found string",
		`{schema: events.envelope.EventEnvelope}`: "must be the id of an event type",
	} {
		if _, d := resolve(t, Builtin(), file("      - map: "+stage+"\n")); !strings.Contains(d.String(), want) {
			t.Errorf("%s: diagnostics %q, want %q", stage, d, want)
		}
	}
}

func TestRoute(t *testing.T) {
	const list = `      - route:
          to: {ops.cheap: payload.bid < 11, ops.all: true, ops.never: payload.bid > 11}
          keys: {ops.cheap: cheap-key}
`
	for name, tt := range map[string]struct {
		more string
		want []string
	}{
		"all":       {"", []string{"cheap-key", "mdp:mdp.ops.all"}},
		"first":     {"          match: first\n", []string{"cheap-key"}},
		"otherwise": {"          otherwise: ops.rest\n", []string{"cheap-key", "mdp:mdp.ops.all"}},
	} {
		b, r, behind := reached(t, list+tt.more, quote)
		if r.err != nil || behind == nil || r.outcome != OutcomeSuccess {
			t.Errorf("%s: result %+v", name, r)
		}
		if len(b.outbox.messages) != len(tt.want) {
			t.Errorf("%s: published %v, want %v", name, b.outbox.messages, tt.want)
		}
		for _, key := range tt.want {
			msgs := b.outbox.messages[key]
			if len(msgs) != 1 {
				t.Fatalf("%s: %d messages on %s", name, len(msgs), key)
			}
			e := event.Decoder{}.Decode("9-0", msgs[0].Payload)
			if e.Err != nil || e.Key != "AAPL" || e.Schema != "market.Quote" || e.Headers()["venue"] != "XNAS" || e.CheckHash() != nil ||
				msgs[0].Metadata.Get("original_id") != "telemetry.feedback/1795556890500-3" {
				t.Errorf("%s: published %s %v", name, msgs[0].Payload, msgs[0].Metadata)
			}
		}
	}
	b, _, _ := reached(t, "      - route: {to: {ops.never: payload.bid > 11}, otherwise: ops.rest, format: same}\n", quote)
	if msgs := b.outbox.messages["mdp:mdp.ops.rest"]; len(msgs) != 1 || string(msgs[0].Payload) != quote {
		t.Errorf("published %v, want the bytes that were received", b.outbox.messages)
	}
}

func TestRouteFailures(t *testing.T) {
	b := start(t, Builtin(), "      - route: {to: {ops.a: true, ops.b: true}}\n", nil)
	failure := errors.New("no room")
	b.outbox.failWith(failure)
	if r := b.send("1-0", quote); !errors.Is(r.err, failure) || IsPermanent(r.err) || r.stage != "route" {
		t.Errorf("result %+v, want the publisher's error", r)
	}
	if b.count.of("published ops.a v2 error") != 1 || b.count.of("published ops.b v2 error") != 1 {
		t.Errorf("counts %v", b.count.counts)
	}
	b = start(t, Builtin(), "      - route: {to: {ops.a: true, ops.b: payload.sym > 1}}\n", nil)
	if r := b.send("1-0", quote); !IsPermanent(r.err) || len(b.outbox.messages) != 0 {
		t.Errorf("result %+v, published %v: want a permanent error and nothing published", r, b.outbox.messages)
	}
	for stage, want := range map[string]string{
		`{to: {}}`: "must not be empty",
		`{to: {telemetry.feedback: true}}`: `8:22: flow "feedback": stage 1 (route): topic "telemetry.feedback": the flow would ` +
			`read what it publishes`,
		`{to: {"a b": true}}`:                       `topic "a b": must be made of letters`,
		`{to: {ops.a: true}, keys: {ops.b: k}}`:     `"ops.b" must be among the topics`,
		`{to: {ops.a: true}, keys: {ops.a: "a b"}}`: `keys: ops.a: must be a key without spaces`,
		`{to: {ops.a: payload.x, ops.a: true}}`:     `duplicate key "ops.a"`,
		`{to: {ops.a: true}, otherwise: "a b"}`:     `topic "a b"`,
		`{to: {ops.a: key}}`:                        "must yield true or false",
	} {
		if _, d := resolve(t, Builtin(), file("      - route: "+stage+"\n")); !strings.Contains(d.String(), want) {
			t.Errorf("%s: diagnostics %q, want %q", stage, d, want)
		}
	}
}

func TestTap(t *testing.T) {
	lines := func(b *bench) []string {
		text := strings.TrimSpace(b.lines.String())
		if text == "" {
			return nil
		}
		return strings.Split(text, "\n")
	}
	b := start(t, Builtin(), "      - tap: {every: 3, per_second: 0, message: seen}\n", nil)
	for range 7 {
		b.send("1-0", quote)
	}
	got := lines(b)
	if len(got) != 3 || !strings.Contains(got[1], `msg=seen event_id=1-0 type=market.Quote key=AAPL track=v2 events=3`) {
		t.Errorf("lines %q", got)
	}
	if strings.Contains(b.lines.String(), "10.5") || strings.Contains(b.lines.String(), "XNAS") {
		t.Errorf("a line shows what was not asked for: %s", b.lines.String())
	}

	b = start(t, Builtin(), "      - tap: {per_second: 2, when: payload.bid > 1, log: {bid: payload.bid, bad: payload.sym > 1}}\n", nil)
	for range 10 {
		b.send("1-0", quote)
		b.clock.advance(100 * time.Millisecond)
	}
	got = lines(b)
	if len(got) != 2 || !strings.Contains(got[1], "events=5 bid=10 bad=\"error: expression at") {
		t.Errorf("lines %q", got)
	}

	b = start(t, Builtin(), "      - tap: {when: payload.sym > 1}\n      - tap: {log: {all: payload}, level: debug}\n", nil)
	if r := b.send("1-0", quote); r.err != nil || len(lines(b)) != 0 {
		t.Errorf("result %+v, lines %q", r, lines(b))
	}
	long := strings.Replace(quote, `"AAPL", "bid"`, `"`+strings.Repeat("é", 5000)+`", "bid"`, 1)
	b = start(t, Builtin(), "      - tap: {log: {sym: payload.sym}}\n", nil)
	if b.send("1-0", long); len(b.lines.String()) > 1000 {
		t.Errorf("a line of %d bytes", len(b.lines.String()))
	}
}

func TestThrottle(t *testing.T) {
	b := start(t, Builtin(), "      - throttle: {rate: 10, burst: 2, key: payload.sym}\n", nil)
	begun := b.clock.Now()
	for range 5 {
		if r := b.send("1-0", quote); r.err != nil || r.outcome != OutcomeSuccess {
			t.Fatalf("result %+v", r)
		}
	}
	if took := b.clock.Now().Sub(begun); took != 300*time.Millisecond {
		t.Errorf("5 events took %s, want 300ms", took)
	}
	b.send("1-0", strings.Replace(quote, `"sym": "AAPL"`, `"sym": "MSFT"`, 1))
	if took := b.clock.Now().Sub(begun); took != 300*time.Millisecond {
		t.Errorf("another key waited: %s", took)
	}

	b = start(t, Builtin(), "      - throttle: {rate: 10, over: drop}\n", nil)
	var got []Outcome
	for range 3 {
		got = append(got, b.send("1-0", quote).outcome)
	}
	if diff := cmp.Diff([]Outcome{OutcomeSuccess, OutcomeFiltered, OutcomeFiltered}, got); diff != "" {
		t.Error(diff)
	}
}

// What waits gives up when the flow stops, and its event is left to be delivered
// again.
func TestWaitingEndsWhenTheFlowStops(t *testing.T) {
	deps := Deps{Clock: SystemClock{}}
	stopping, stop := context.WithCancel(context.Background())
	deps.Stopping = stopping
	failed := make(chan error)
	go func() { failed <- deps.wait(&Delivery{Context: context.Background()}, time.Hour) }()
	stop()
	if err := <-failed; err == nil || IsPermanent(err) {
		t.Errorf("error %v, want one that is not permanent", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	deps.Stopping = nil
	go func() { failed <- deps.wait(&Delivery{Context: ctx}, time.Hour) }()
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}

func TestDelay(t *testing.T) {
	for stage, want := range map[string]time.Duration{
		`{for: 1s, since: arrival}`: time.Second,
		`{for: 1s}`:                 0, // the event is 20 s old
		`{for: 25s}`:                5 * time.Second,
	} {
		b := start(t, Builtin(), "      - delay: "+stage+"\n", nil)
		begun := b.clock.Now()
		if r := b.send("1-0", quote); r.err != nil {
			t.Errorf("%s: %v", stage, r.err)
		}
		if got := b.clock.Now().Sub(begun); got != want {
			t.Errorf("%s: held for %s, want %s", stage, got, want)
		}
	}
	b := start(t, Builtin(), "      - delay: {for: 1s}\n", nil)
	begun := b.clock.Now()
	b.send("1-0", strings.Replace(quote, `"ts": 1795556880`, `"ts": 9e9`, 1))
	if got := b.clock.Now().Sub(begun); got != time.Second {
		t.Errorf("an event of the future was held for %s, want 1s", got)
	}
}

func TestTimeout(t *testing.T) {
	b := start(t, Builtin(), "      - timeout: {after: 1ms}\n", func(msg *message.Message) error {
		<-msg.Context().Done()
		return msg.Context().Err()
	})
	r := b.send("1-0", quote)
	if r.err == nil || IsPermanent(r.err) || ErrorKind(r.err) != KindTimeout || !errors.Is(r.err, context.DeadlineExceeded) ||
		!strings.Contains(r.err.Error(), "timed out after 1ms") {
		t.Errorf("error %v, want a timeout", r.err)
	}
	if err := b.last.Load().Err(); err != nil {
		t.Errorf("the event's own context has ended: %v", err)
	}
	failure := errors.New("its own")
	b = start(t, Builtin(), "      - timeout: {after: 1h}\n", func(*message.Message) error { return failure })
	if r := b.send("1-0", quote); !errors.Is(r.err, failure) || ErrorKind(r.err) != KindError {
		t.Errorf("error %v, want the stage's own", r.err)
	}
}

// Stages that were not validated are refused, not run without their expressions.
func TestBuildNeedsValidation(t *testing.T) {
	for _, c := range []Config{
		&FilterConfig{When: "true"}, &MapConfig{Key: "key"}, &TapConfig{When: "true"}, &ThrottleConfig{Rate: 1, Key: "key"},
	} {
		if _, err := c.Build(Deps{Clock: newTestClock(), Limiters: limiters}); !errors.Is(err, errNotValidated) {
			t.Errorf("%T: %v", c, err)
		}
	}
}
