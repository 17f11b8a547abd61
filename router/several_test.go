package router_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// seen collects the events that reach the handler test of a flow, by their flow.
type seen struct {
	mu     sync.Mutex
	events map[string][]*event.Event
}

func (s *seen) handle(_ context.Context, d *stages.Delivery, _ stages.HandleConfig, deps stages.Deps) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.events == nil {
		s.events = make(map[string][]*event.Event)
	}
	s.events[deps.Flow] = append(s.events[deps.Flow], d.Event)
	return nil
}

func (s *seen) of(flow string) []*event.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events[flow]
}

// Two groups on one stream each get every event; a chain hands the changed event on;
// a dead letter keeps what was received.
func TestFanOutAndChain(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		var got seen
		r := start(t, l, `
version: 1
flows:
  first:
    from: {stream: telemetry.feedback}
    stages:
      - dedupe
      - filter: {when: payload.level != "ok"}
      - map: {set: {used: payload.queue_size / payload.capacity}, schema: queue.Used}
    to: {stream: queue.used}
  beside:
    from: {stream: telemetry.feedback, group: audit}
    stages: [{handle: {with: test}}]
  second:
    from: {stream: queue.used}
    stages: [dedupe, {handle: {with: test}}]
`, got.handle, nil)
		for i, level := range []string{"soft", "ok", "hard", "soft"} {
			r.put(fmt.Sprintf("7-%d", i), feedback("bars_1", level, i))
		}
		r.eventually("the events of both groups and of the chain", func() bool {
			return len(got.of("beside")) == 4 && len(got.of("second")) == 3
		})
		e := got.of("second")[0]
		if e.Schema != "queue.Used" || !strings.Contains(string(e.Payload), `"used": 0.7`) || e.Key != "bars_1" || e.CheckHash() != nil ||
			!strings.HasPrefix(e.ID, "telemetry.feedback/7-") {
			t.Errorf("the chain got %s as %q", e.Data, e.ID)
		}
		r.eventually("the outcomes", func() bool { return r.count.of("filtered") == 1 && r.count.of("success") == 10 })
		for _, s := range r.router.Status() {
			if s.Name == "first" && (s.Filtered != 1 || s.Success != 3 || s.To != "mdp:mdp.queue.used") {
				t.Errorf("status %+v", s)
			}
		}
	})
}

// An event that was published before a later stage failed is not published again; one
// that comes twice is one event to a dedupe downstream.
func TestWhatIsPublishedTwiceIsOneEvent(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		var got seen
		var runs atomic.Int64
		r := start(t, l, `
version: 1
flows:
  first:
    from: {stream: telemetry.feedback}
    stages: [{route: {to: {queue.used: true}}}, {handle: {with: test}}]
    retry: {max: 3, initial: 1ms, max_interval: 2ms}
  second:
    from: {stream: queue.used}
    stages: [dedupe, {handle: {with: test}}]
`, func(ctx context.Context, d *stages.Delivery, c stages.HandleConfig, deps stages.Deps) error {
			if deps.Flow == "first" && runs.Add(1) == 1 {
				return errors.New("once")
			}
			return got.handle(ctx, d, c, deps)
		}, nil)
		r.put("7-1", feedback("bars_1", "soft", 0))
		r.eventually("both flows", func() bool { return r.count.of("success") == 2 })
		if r.count.of("published success") != 1 || r.count.of("retried") != 1 {
			t.Errorf("counts %v, want one publication in two runs", r.count.counts)
		}
		r.put("7-1", feedback("bars_1", "soft", 0))
		r.eventually("the duplicate", func() bool { return r.count.of("duplicate") == 1 })
		if n := len(got.of("second")); n != 1 || r.count.of("published success") != 2 {
			t.Errorf("%d events downstream, counts %v; want 1 of two publications", n, r.count.counts)
		}
	})
}

// refusing fails the first publications to a stream.
type refusing struct {
	router.Transport
	stream string
	left   atomic.Int64
	err    error
}

func (b *refusing) Publisher() message.Publisher {
	return refusingPublisher{b.Transport.Publisher(), b}
}

type refusingPublisher struct {
	message.Publisher
	by *refusing
}

func (p refusingPublisher) Publish(stream string, msgs ...*message.Message) error {
	if stream == p.by.stream && p.by.left.Add(-1) >= 0 {
		return p.by.err
	}
	return p.Publisher.Publish(stream, msgs...)
}

// A publication that fails is retried and dead-lettered like any failure; while the
// bus is unavailable it waits.
func TestToThatFails(t *testing.T) {
	const src = `
version: 1
flows:
  first:
    from: {stream: telemetry.feedback}
    stages: [{map: {set: {x: 1}}}]
    to: {stream: queue.used}
    retry: {max: 3, initial: 1ms, max_interval: 2ms}
`
	for name, tt := range map[string]struct {
		times int64
		err   error
		want  string
	}{
		"passes":      {2, errors.New("no"), "success"},
		"stays":       {100, errors.New("no"), "error"},
		"unavailable": {40, outage{errors.New("no")}, "success"},
	} {
		t.Run(name, func(t *testing.T) {
			onBothBuses(t, func(t *testing.T, l *line) {
				broken := &refusing{Transport: l.transport, stream: "mdp:mdp.queue.used", err: tt.err}
				broken.left.Store(tt.times)
				r := start(t, l, src, nil, func(router.Transport) router.Transport { return broken })
				data := feedback("bars_1", "soft", 0)
				r.put("7-1", data)
				r.settled(1)
				if r.count.of(tt.want) != 1 {
					t.Errorf("counts %v, want %s", r.count.counts, tt.want)
				}
				letters := r.letters()
				if tt.want == "success" {
					if len(letters) != 0 || r.count.of("published success") != 1 {
						t.Errorf("dead letters %v, counts %v", letters, r.count.counts)
					}
					return
				}
				if len(letters) != 1 || letters[0]["data"] != data || letters[0]["stage"] != "to" || letters[0]["attempts"] != "4" {
					t.Errorf("dead letters %v, want one of the entry as it was received", letters)
				}
			})
		})
	}
}

// The dead letter of an event that a stage has changed is the entry as it came.
func TestDeadLetterKeepsWhatWasReceived(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		r := start(t, l, `
version: 1
flows:
  first:
    from: {stream: telemetry.feedback}
    stages: [{map: {payload: "{}", key: '"other"', schema: x.Y}}, {filter: {when: payload.level > 1}}]
`, nil, nil)
		data := feedback("bars_1", "soft", 0)
		r.put("7-1", data)
		r.settled(1)
		letters := r.letters()
		if len(letters) != 1 || letters[0]["data"] != data || letters[0]["original_id"] != "7-1" ||
			letters[0]["error_kind"] != "expression" || letters[0]["stage"] != "filter" || letters[0]["attempts"] != "1" {
			t.Errorf("dead letters %v", letters)
		}
	})
}

// A flow whose events all fail, and one that hangs, leave the others alone.
func TestAFaultInOneFlowLeavesTheOthers(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		hang := make(chan struct{})
		t.Cleanup(func() { close(hang) })
		var good atomic.Int64
		r := start(t, l, `
version: 1
flows:
  broken: {from: {stream: telemetry.feedback, group: broken}, stages: [{handle: {with: test}}], retry: {max: 0}}
  hangs: {from: {stream: telemetry.feedback, group: hangs}, stages: [{handle: {with: test}}], lanes: 1}
  good: {from: {stream: telemetry.feedback, group: good}, stages: [{handle: {with: test}}]}
`, func(ctx context.Context, _ *stages.Delivery, _ stages.HandleConfig, deps stages.Deps) error {
			switch deps.Flow {
			case "broken":
				panic("always")
			case "hangs":
				select {
				case <-hang:
				case <-ctx.Done():
				}
			case "good":
				good.Add(1)
			}
			return nil
		}, nil)
		for i := range 50 {
			r.put(fmt.Sprintf("7-%d", i), feedback("bars_1", "soft", i))
		}
		r.eventually("the good flow", func() bool { return good.Load() == 50 })
		r.eventually("the broken flow", func() bool { return r.count.of("error") == 50 })
	})
}

// An event that waits in a stage does not hold up the end of its flow, and is left to
// be delivered again.
func TestStopEndsWaiting(t *testing.T) {
	for name, stage := range map[string]string{
		"throttle": "{throttle: {rate: 0.001, burst: 1}}", "delay": "{delay: {for: 1h, since: arrival}}",
	} {
		t.Run(name, func(t *testing.T) {
			onBothBuses(t, func(t *testing.T, l *line) {
				r := start(t, l, `
version: 1
flows:
  slow: {from: {stream: telemetry.feedback}, stages: [{handle: {with: test}}, `+stage+`], lanes: 1}
`, func(context.Context, *stages.Delivery, stages.HandleConfig, stages.Deps) error { return nil }, nil)
				r.put("7-1", feedback("bars_1", "soft", 0))
				r.put("7-2", feedback("bars_1", "soft", 1))
				time.Sleep(100 * time.Millisecond) // long enough for one of them to wait
				begun := time.Now()
				r.stop()
				if took := time.Since(begun); took > patience {
					t.Errorf("stopping took %s", took)
				}
				if n := len(r.letters()); n != 0 || r.count.of("error") != 0 {
					t.Errorf("%d dead letters, counts %v", n, r.count.counts)
				}
				if l.server != nil && l.pending() == 0 {
					t.Error("nothing is pending: the event that waited is lost")
				}
			})
		})
	}
}

func TestLoops(t *testing.T) {
	flow := func(name, from, stages, to string) string {
		return fmt.Sprintf("  %s: {from: {stream: %s}, stages: [%s], to: {stream: %s}}\n", name, from, stages, to)
	}
	const pass = "{tap: {}}"
	for name, tt := range map[string]struct{ flows, want string }{
		"chain": {flow("a", "s1", pass, "s2") + flow("b", "s2", pass, "s3"), ""},
		"two": {
			flow("a", "s1", pass, "s2") + flow("b", "s2", pass, "s1"),
			`flows.yaml:4:3: flows publish in a circle: a -> s2 -> b -> s1 -> a: each event would run in it for ever`,
		},
		"three, entered from outside": {
			flow("in", "s0", pass, "s1") + flow("a", "s1", pass, "s2") + flow("b", "s2", pass, "s3") + flow("c", "s3", pass, "s1"),
			`flows.yaml:5:3: flows publish in a circle: a -> s2 -> b -> s3 -> c -> s1 -> a: each`,
		},
		"filtered": {
			flow("a", "s1", "{filter: {when: true}}", "s2") + flow("b", "s2", pass, "s1"),
			`flows.yaml:4:3: warning: flows publish in a circle: a -> s2 -> b -> s1 -> a: an event runs in it until a stage stops ` +
				`it: allow it here if that is meant [flow-loop]`,
		},
		"routed": {
			flow("a", "s1", `{route: {to: {s2: key == \"x\"}}}`, "s9") + flow("b", "s2", pass, "s1"), `[flow-loop]`,
		},
		"switched off": {
			flow("a", "s1", pass, "s2") + "  b: {enabled: false, from: {stream: s2}, stages: [dedupe], to: {stream: s1}}\n", "",
		},
		"over two buses": {
			"  a: {from: {stream: s1}, stages: [dedupe], to: {bus: m, stream: s2}}\n" +
				"  b: {from: {bus: m, stream: s2}, stages: [{tap: {}}], to: {bus: default, stream: s1}}\n", "[flow-loop]",
		},
		"one key on two buses": {
			"  a: {from: {stream: s1}, stages: [{tap: {}}], to: {bus: m, stream: s2}}\n" +
				"  b: {from: {stream: s2}, stages: [{tap: {}}], to: {bus: m, stream: s1}}\n", "",
		},
		"two buses of one server": {
			"  a: {from: {bus: r1, stream: s1}, stages: [{tap: {}}], to: {bus: r2, stream: s2}}\n" +
				"  b: {from: {bus: r1, stream: s2}, stages: [{tap: {}}], to: {stream: s1}}\n",
			`flows.yaml:4:3: flows publish in a circle: a -> s2 -> b -> s1 -> a: each event would run in it for ever`,
		},
	} {
		src := "version: 1\nbuses: {m: {backend: inmem}, r1: {backend: redis}, r2: {backend: redis}}\nflows:\n" + strings.ReplaceAll(tt.flows, `key == \"x\"`, "deliveries > 1")
		f, d := flows.Parse("flows.yaml", []byte(src), nil)
		if d.HasErrors() {
			t.Fatal(d)
		}
		_, d = router.NewPlan(f, stages.Builtin())
		if tt.want == "" && len(d) > 0 || !strings.Contains(d.String(), tt.want) {
			t.Errorf("%s: diagnostics\n%s\nwant %q", name, d, tt.want)
		}
	}
}

// Flows that announce on the same stream leave no announcement standing that one of them
// has made untrue, and repeat none that stands, a reload between them or not.
func TestFlowsAnnounceTogether(t *testing.T) {
	const src = `
version: 1
providers: {ibkr: {rate: 60}}
flows:
  one:
    from: {stream: telemetry.feedback, start: oldest}
    stages: [handle: {with: feedback}, rate-apply: {publish: telemetry.rate_adjustment}]
  other:
    from: {stream: second, start: oldest}
    stages: [handle: {with: feedback}, rate-apply: {publish: telemetry.rate_adjustment}]
`
	l := openRedis(t)
	run := start(t, l, src, nil, nil)
	sent := 0
	send := func(stream, level string) {
		t.Helper()
		sent++
		msg := message.NewMessage(fmt.Sprint("1-", sent), []byte(feedback("c", level, sent)))
		if err := l.transport.Publisher().Publish("mdp:mdp."+stream, msg); err != nil {
			t.Fatal(err)
		}
		run.settled(sent)
	}
	send("telemetry.feedback", "hard")
	send("second", "ok")
	send("telemetry.feedback", "hard")
	send("second", "hard")
	run.apply(strings.ReplaceAll(src, "stages: [", "stages: [dedupe, "), nil)
	send("second", "hard")
	send("telemetry.feedback", "ok")
	entries, err := l.transport.Newest(context.Background(), adjustments, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries { // the newest first
		a, err := event.Decoder{}.Decode(e.ID, []byte(e.Fields["data"])).RateAdjustment()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.Reason.String())
	}
	if want := "ok hard ok hard"; strings.Join(got, " ") != want {
		t.Errorf("announced, the last first: %v, want %s", got, want)
	}
}
