package stages

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

const (
	outStream = "mdp:mdp.telemetry.rate_adjustment"
	adjusting = "      - handle: {with: feedback}\n      - rate-apply: {publish: telemetry.rate_adjustment, when: %s}\n"
)

// announcements decodes what was published.
func (b *bench) announcements() []event.RateAdjustment {
	b.t.Helper()
	b.outbox.mu.Lock()
	defer b.outbox.mu.Unlock()
	var list []event.RateAdjustment
	for _, msg := range b.outbox.messages[outStream] {
		e := event.Decoder{}.Decode("1-0", msg.Payload)
		a, err := e.RateAdjustment()
		if e.Err != nil || err != nil {
			b.t.Fatalf("published entry does not decode: %v, %v", e.Err, err)
		}
		if e.Schema != event.SchemaRateAdjustment || e.Dialect != event.DialectCanonical || e.Key != a.Provider {
			b.t.Errorf("published schema %s, dialect %s, key %q", e.Schema, e.Dialect, e.Key)
		}
		if err := e.CheckHash(); err != nil || e.Hash == "" {
			b.t.Errorf("published hash %q: %v", e.Hash, err)
		}
		list = append(list, a)
	}
	return list
}

func TestRateApplyAnnouncesTheAggregate(t *testing.T) {
	sent := []struct {
		coordinator, level string
		ts                 float64
	}{
		{"a", "ok", at},
		{"a", "hard", at + 1},
		{"b", "ok", at + 2},
		{"b", "soft", at + 3},
		{"a", "soft", at + 0.5}, // older than a's hard: stale
		{"a", "ok", at + 4},
		{"b", "ok", at + 5},
	}
	hard := event.RateAdjustment{Provider: "ibkr", Scale: 0, Reason: event.LevelHard}
	soft := event.RateAdjustment{Provider: "ibkr", Scale: 0.5, Reason: event.LevelSoft}
	ok := event.RateAdjustment{Provider: "ibkr", Scale: 1, Reason: event.LevelOK}
	timed := func(a event.RateAdjustment, ts float64) event.RateAdjustment { a.Time = ts; return a }
	for when, want := range map[string][]event.RateAdjustment{
		"change": {timed(ok, at), timed(hard, at+1), timed(soft, at+4), timed(ok, at+5)},
		"always": {
			timed(ok, at), timed(hard, at+1), timed(hard, at+2), timed(hard, at+3), timed(hard, at+0.5),
			timed(soft, at+4), timed(ok, at+5),
		},
	} {
		t.Run(when, func(t *testing.T) {
			b := start(t, Builtin(), fmt.Sprintf(adjusting, when), nil)
			for i, s := range sent {
				if r := b.send(fmt.Sprintf("%d-0", i), feedback(s.coordinator, s.level, s.ts)); r.err != nil {
					t.Fatal(r.err)
				}
			}
			if diff := cmp.Diff(want, b.announcements()); diff != "" {
				t.Errorf("announced (-want +got):\n%s", diff)
			}
			if n := b.count.of("published telemetry.rate_adjustment v1 success"); n != len(want) {
				t.Errorf("counted %d published, want %d", n, len(want))
			}
			if n := b.count.of("stale ibkr"); n != 1 {
				t.Errorf("counted %d stale, want 1", n)
			}
		})
	}
}

func TestRateApplyMakesAFailedPublishGood(t *testing.T) {
	down := errors.New("bus is down")
	b := start(t, Builtin(), fmt.Sprintf(adjusting, "change"), nil)
	b.send("1-0", feedback("a", "ok", at))
	b.outbox.failWith(down)
	r := b.send("2-0", feedback("a", "hard", at+1))
	if !errors.Is(r.err, down) || IsPermanent(r.err) || r.stage != "rate-apply" {
		t.Fatalf("result %+v, want a failure of rate-apply that can be retried", r)
	}
	if s, _ := b.rates.RateState("ibkr"); s.Level != event.LevelHard {
		t.Fatalf("level %v, want hard: the adjustment came before the publish", s.Level)
	}
	b.outbox.failWith(nil)
	for name, send := range map[string]func() result{
		"its retry":      func() result { return b.send("2-0", feedback("a", "hard", at+1)) },
		"the next event": func() result { return b.send("3-0", feedback("b", "ok", at+2)) },
	} {
		if r := send(); r.err != nil {
			t.Fatalf("%s: %v", name, r.err)
		}
	}
	got := b.announcements()
	if len(got) != 2 || got[1].Reason != event.LevelHard || got[1].Scale != 0 {
		t.Errorf("announced %+v, want ok and then hard once", got)
	}
	if n := b.count.of("published telemetry.rate_adjustment v1 error"); n != 1 {
		t.Errorf("counted %d failed publishes, want 1", n)
	}
}

// Whatever the lanes do, what is announced are aggregates over all coordinators
// that stood, in the order in which they stood, and the last is the one that stands.
func TestRateApplyAnnouncesInOrder(t *testing.T) {
	b := start(t, Builtin(), fmt.Sprintf(adjusting, "change"), nil)
	levels := []string{"ok", "soft", "hard"}
	const n = 300
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			if r := <-b.results; r.err != nil {
				t.Error(r.err)
			}
		}
	})
	for i := range n {
		b.post(fmt.Sprintf("%d-0", i), feedback(fmt.Sprintf("c%d", i%7), levels[i%3], at+float64(i)))
	}
	wg.Wait()
	got := b.announcements()
	s, _ := b.rates.RateState("ibkr")
	stood := b.rates.stood
	for i, a := range got {
		at := slices.IndexFunc(stood, func(s RateState) bool { return s.Scale == a.Scale && s.Level == a.Reason })
		if at < 0 {
			t.Fatalf("announcement %d, %+v, is no state that stood after the one announced before", i, a)
		}
		stood = stood[at:]
	}
	if last := got[len(got)-1]; last.Scale != s.Scale || last.Reason != s.Level {
		t.Errorf("last announced %+v, the state is %+v", last, s)
	}
	for i := 1; i < len(got); i++ {
		if got[i].Reason == got[i-1].Reason && got[i].Scale == got[i-1].Scale {
			t.Errorf("announcement %d repeats the one before: %+v", i, got[i])
		}
	}
}

// Two flows that announce on one stream know of each other's announcements, and a stage
// that takes the place of another of what that one announced.
func TestRateApplyKnowsWhatOthersAnnounced(t *testing.T) {
	rates, out, common := newLedger(), newOutbox(), new(Announcements)
	build := func(track string, common *Announcements) func(level event.Level, ts float64) {
		c := &RateApplyConfig{Publish: "out", When: whenChange, Track: track, key: outStream}
		stage, err := c.Build(Deps{
			Clock: newTestClock(), Rates: rates, Publisher: out, Observer: newCounters(), Announcements: common,
		})
		if err != nil {
			t.Fatal(err)
		}
		handle := stage.Middleware(func(*message.Message) ([]*message.Message, error) { return nil, nil })
		return func(level event.Level, ts float64) {
			t.Helper()
			msg := message.NewMessage("", nil)
			msg.SetContext(&Delivery{Context: t.Context(), Adjustment: &Adjustment{
				Provider: "ibkr", Coordinator: "a", Level: level, Policy: Policy{OK: 1, Soft: 0.5}, Time: ts,
			}})
			if _, err := handle(msg); err != nil {
				t.Error(err)
			}
		}
	}
	one, other := build(event.TrackV1, common), build(event.TrackV1, common)
	one(event.LevelHard, at)
	other(event.LevelOK, at+1)
	one(event.LevelHard, at+2)
	other(event.LevelHard, at+3)
	build(event.TrackV1, common)(event.LevelHard, at+4)
	build(event.TrackV2, common)(event.LevelHard, at+5) // for those who read only that
	build(event.TrackV2, new(Announcements))(event.LevelHard, at+6)
	var got []string
	for _, a := range (&bench{t: t, outbox: out}).announcements() {
		got = append(got, fmt.Sprint(a.Reason, " ", a.Time-at))
	}
	if diff := cmp.Diff([]string{"hard 0", "ok 1", "hard 2", "hard 5", "hard 6"}, got); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
}

// unsureWriter is an Enqueuer that writes one after another, in order, and fails now and
// then, also with what it has written.
type unsureWriter struct {
	outbox
	order chan func()
	rng   *rand.Rand
}

func (w *unsureWriter) Enqueue(topic string, msg *message.Message) func() error {
	result := make(chan error, 1)
	w.order <- func() {
		switch w.rng.IntN(6) {
		case 0:
			result <- errors.New("not written")
		case 1:
			_ = w.Publish(topic, msg)
			result <- errors.New("no answer")
		default:
			result <- w.Publish(topic, msg)
		}
	}
	return func() error { return <-result }
}

// Whatever fails, and whoever changes the state, the last that was written is the state
// that stands once all events were handled.
func TestRateApplyTellsTheLastState(t *testing.T) {
	for seed := range uint64(40) {
		rates, common := newLedger(), new(Announcements)
		w := &unsureWriter{outbox: outbox{messages: make(map[string][]*message.Message)}, order: make(chan func(), 1000), rng: rand.New(rand.NewPCG(seed, 1))}
		var writing sync.WaitGroup
		writing.Go(func() {
			for write := range w.order {
				runtime.Gosched()
				write()
			}
		})
		var handlers []message.HandlerFunc
		for range 2 { // flows
			c := &RateApplyConfig{Publish: "out", When: whenChange, Track: event.TrackV1, key: outStream}
			stage, err := c.Build(Deps{
				Clock: newTestClock(), Rates: rates, Publisher: w, Observer: newCounters(), Announcements: common,
			})
			if err != nil {
				t.Fatal(err)
			}
			handlers = append(handlers, stage.Middleware(func(*message.Message) ([]*message.Message, error) { return nil, nil }))
		}
		insist := func(attempt func() error) {
			for attempt() != nil {
				runtime.Gosched()
			}
		}
		var working sync.WaitGroup
		for lane := range 8 {
			rng := rand.New(rand.NewPCG(seed, uint64(2+lane)))
			working.Go(func() {
				for i := range 30 {
					a := Adjustment{
						Provider: "ibkr", Coordinator: fmt.Sprint(lane % 4), Level: event.Level(rng.IntN(3)),
						Policy: Policy{OK: 1, Soft: 0.5}, Time: at + float64(i),
					}
					if lane == 7 { // another process
						_, _ = rates.Apply(t.Context(), a)
						insist(func() error { return errors.Join(rates.others[0]("ibkr"), rates.others[1]("ibkr")) })
						continue
					}
					insist(func() error {
						msg := message.NewMessage("", nil)
						msg.SetContext(&Delivery{Context: t.Context(), Adjustment: &a})
						_, err := handlers[lane%2](msg)
						return err
					})
				}
			})
		}
		working.Wait()
		close(w.order)
		writing.Wait()
		got := (&bench{t: t, outbox: &w.outbox}).announcements()
		s, _ := rates.RateState("ibkr")
		if last := got[len(got)-1]; last.Scale != s.Scale || last.Reason != s.Level {
			t.Fatalf("seed %d: last announced %+v, the state is %+v", seed, last, s)
		}
	}
}

func TestRateApplyWithoutPublish(t *testing.T) {
	b := start(t, Builtin(), "      - handle: {with: feedback}\n      - rate-apply\n", nil)
	if r := b.send("1-0", feedback("a", "hard", at)); r.err != nil {
		t.Fatal(r.err)
	}
	if len(b.outbox.messages) != 0 {
		t.Errorf("published %v", b.outbox.messages)
	}
	if s, _ := b.rates.RateState("ibkr"); s.Level != event.LevelHard {
		t.Errorf("level %v, want hard", s.Level)
	}
}

func TestRateApplyPassesOnAnAdjustmentsError(t *testing.T) {
	b := start(t, Builtin(), fmt.Sprintf(adjusting, "change"), nil)
	b.rates.fail = PermanentKind(KindSkew, errors.New("too far ahead"))
	r := b.send("1-0", feedback("a", "hard", at))
	if !IsPermanent(r.err) || ErrorKind(r.err) != KindSkew {
		t.Errorf("error %v, want the coordinator's verdict", r.err)
	}
}

// A handler of another kind may decide nothing.
func TestRateApplyWithoutAnAdjustment(t *testing.T) {
	reg := Builtin()
	if err := reg.AddHandler("none", func(context.Context, *Delivery, HandleConfig, Deps) error { return nil }); err != nil {
		t.Fatal(err)
	}
	b := start(t, reg, "      - handle: {with: none}\n      - rate-apply\n", nil)
	if r := b.send("1-0", feedback("a", "hard", at)); !IsPermanent(r.err) {
		t.Errorf("error %v, want a permanent one", r.err)
	}
}

func TestRateApplyDiagnostics(t *testing.T) {
	for list, want := range map[string]string{
		"      - rate-apply\n": "a handle stage must stand before it",
		"      - rate-apply\n      - handle: {with: feedback}\n":                                "a handle stage must stand before it",
		"      - handle: {with: feedback}\n      - rate-apply: {publish: telemetry.feedback}\n": "would read what it publishes",
		"      - handle: {with: feedback}\n      - rate-apply: {publish_key: a}\n":              "needs publish",
	} {
		_, d := resolve(t, Builtin(), file(list))
		if !strings.Contains(d.String(), want) {
			t.Errorf("%s: %q, want it to contain %q", strings.TrimSpace(list), d, want)
		}
	}
}

func TestRateApplyFullKey(t *testing.T) {
	b := start(t, Builtin(), "      - handle: {with: feedback}\n"+
		"      - rate-apply: {publish: telemetry.rate_adjustment, publish_key: \"mdp:prod.out\"}\n", nil)
	if r := b.send("1-0", feedback("a", "hard", at)); r.err != nil {
		t.Fatal(r.err)
	}
	if len(b.outbox.messages["mdp:prod.out"]) != 1 {
		t.Errorf("published to %v", b.outbox.messages)
	}
}

var _ message.Publisher = (*outbox)(nil)

// What another process has changed is announced where it contradicts what was last
// announced here, and only there.
func TestRateApplyFollowsOthers(t *testing.T) {
	b := start(t, Builtin(), fmt.Sprintf(adjusting, "change"), nil)
	others := func(coordinator string, level event.Level, ts float64) error {
		t.Helper()
		if _, err := b.rates.Apply(context.Background(), Adjustment{
			Provider: "ibkr", Coordinator: coordinator, Level: level, Policy: Policy{OK: 1, Soft: 0.5}, Time: ts,
		}); err != nil {
			t.Fatal(err)
		}
		return b.rates.others[0]("ibkr")
	}
	if err := others("x", event.LevelSoft, at); err != nil || len(b.announcements()) != 0 {
		t.Errorf("announced before anything was said here: %v, %v", b.announcements(), err)
	}
	if r := b.send("1-0", feedback("a", "hard", at)); r.err != nil {
		t.Fatal(r.err)
	}
	down := errors.New("bus is down")
	b.outbox.failWith(down)
	if err := others("a", event.LevelOK, at+1); !errors.Is(err, down) {
		t.Errorf("got %v, want the publisher's error, to be told again", err)
	}
	b.outbox.failWith(nil)
	for range 2 {
		if err := others("a", event.LevelOK, at+1); err != nil {
			t.Error(err)
		}
	}
	var reasons []event.Level
	for _, a := range b.announcements() {
		reasons = append(reasons, a.Reason)
	}
	if diff := cmp.Diff([]event.Level{event.LevelHard, event.LevelSoft}, reasons); diff != "" {
		t.Errorf("announced (-want +got):\n%s", diff)
	}
}
