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
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// two is a file with a flow to be changed, by its retry and what else is given, and one
// that stays.
func two(retry, dedupe, more string) string {
	return fmt.Sprintf(`
version: 1
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages:
      - dedupe: {%s}
      - handle: {with: test}
    retry: {max: %s, initial: 1ms, max_interval: 2ms}
  other:
    from: {stream: other}
    stages: [handle: {with: test}]
%s`, dedupe, retry, more)
}

func nothing(*router.Plan) error { return nil }

// apply makes the router run another file, as a reload does.
func (r *running) apply(src string, handler stages.Handler) router.Change {
	r.t.Helper()
	change, err := r.router.Apply(plan(r.t, src, handler), nothing)
	if err != nil {
		r.t.Fatal(err)
	}
	return change
}

// numbers collects which events were handled, and whether any was twice at once.
type numbers struct {
	mu      sync.Mutex
	runs    map[string]int
	at      map[string]bool
	overlap []string
	hold    chan struct{} // nil holds nobody
}

func newNumbers() *numbers { return &numbers{runs: map[string]int{}, at: map[string]bool{}} }

func (n *numbers) handle(ctx context.Context, d *stages.Delivery, _ stages.HandleConfig, _ stages.Deps) error {
	id := d.Event.ID
	n.mu.Lock()
	if n.at[id] {
		n.overlap = append(n.overlap, id)
	}
	n.at[id] = true
	hold := n.hold
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.at, id)
	}()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.runs[id]++
	return nil
}

func (n *numbers) handled() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.runs)
}

func TestCompare(t *testing.T) {
	base := two("3", "capacity: 100", "")
	for _, tt := range []struct {
		name, next string
		want       string
	}{
		{"the same", base, "no flow changed"},
		{"a default spelled out", two("3", "capacity: 100, ttl: 10m, key: id", ""), "no flow changed"},
		{"another place", strings.Replace(base, "flows:", "# a comment\n\nflows:", 1), "no flow changed"},
		{"a stage's setting", two("3", "capacity: 101", ""), "changed feedback"},
		{"a retry", two("4", "capacity: 100", ""), "changed feedback"},
		{"a dead letter", strings.Replace(base, "from: {stream: other}", "from: {stream: other}\n    dead_letter: {stream: lost}", 1), "changed other"},
		{"a lane", strings.Replace(base, "version: 1", "version: 1\nbus: {lanes: 3}", 1), "changed feedback, other"},
		{"a namespace", strings.Replace(base, "version: 1", "version: 1\nbus: {namespace: x}", 1), "changed feedback, other"},
		{
			"added and removed", strings.Replace(base, "  other:", "  third:", 1), "added third; removed other",
		},
		{"switched off", strings.Replace(base, "from: {stream: other}", "enabled: false\n    from: {stream: other}", 1), "removed other"},
		{"all switched off", strings.Replace(base, "version: 1", "version: 1\nenabled: false", 1), "removed feedback, other"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNumbers()
			before, next := plan(t, base, n.handle), plan(t, tt.next, n.handle)
			if got := router.Compare(before.Flows, next.Flows).String(); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// A flow that changed goes on with what it has handled; one that did not is not touched,
// not even an event that it is at.
func TestApplyKeepsWhatIsKnown(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		n := newNumbers()
		run := start(t, l, two("3", "capacity: 100", ""), n.handle, nil)
		for i := range 50 {
			run.put(fmt.Sprint("1-", i), feedback("c", "ok", i))
		}
		run.settled(50)
		for _, dedupe := range []string{"capacity: 100", "capacity: 60", "capacity: 1000, ttl: 1h"} {
			change := run.apply(two("5", dedupe, ""), n.handle)
			if diff := cmp.Diff([]string{"other"}, change.Unchanged); diff != "" {
				t.Error(diff)
			}
			before := run.count.of("duplicate")
			for i := range 50 {
				run.put(fmt.Sprint("1-", i), feedback("c", "ok", i))
			}
			run.eventually("all to be known", func() bool { return run.count.of("duplicate") == before+50 })
			run.apply(two("3", dedupe, ""), n.handle)
		}
		if status := run.router.Status()[0]; status.Success != 50 || status.Duplicate != 150 {
			t.Errorf("counts %+v did not go on", status)
		}
		// Another key means another thing: nothing is known by it.
		run.apply(two("3", "key: payload", ""), n.handle)
		for i := range 50 {
			run.put(fmt.Sprint("1-", i), feedback("c", "ok", i))
		}
		run.eventually("all to run again", func() bool { return run.router.Status()[0].Success == 100 })
	})
}

func TestApplyLeavesUnchangedFlowsAlone(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		n, held := newNumbers(), newNumbers()
		held.hold = make(chan struct{})
		handler := func(ctx context.Context, d *stages.Delivery, c stages.HandleConfig, deps stages.Deps) error {
			if deps.Flow == "feedback" {
				return held.handle(ctx, d, c, deps)
			}
			return n.handle(ctx, d, c, deps)
		}
		base := two("3", "capacity: 100", "")
		run := start(t, l, base, handler, nil)
		run.put("1-1", feedback("c", "ok", 1))
		run.eventually("it to be at work", func() bool {
			held.mu.Lock()
			defer held.mu.Unlock()
			return held.at["1-1"]
		})
		for range 5 { // it would not end if it had to drain the flow
			run.apply(strings.Replace(base, "from: {stream: other}", "lanes: 2\n    from: {stream: other}", 1), handler)
			run.apply(base, handler)
		}
		close(held.hold)
		run.eventually("it to be done", func() bool { return run.count.of("success") == 1 && l.pending() == 0 })
		if held.runs["1-1"] != 1 {
			t.Errorf("ran %d times", held.runs["1-1"])
		}
	})
}

// What is queued or in flight for a flow that is swapped is handled, once, in its key's
// order, while events come in all the time.
func TestApplyUnderLoad(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		n := newNumbers()
		run := start(t, l, two("3", "capacity: 100000", ""), n.handle, nil)
		stop, fed := make(chan struct{}), make(chan int)
		go func() {
			i := 0
			for {
				select {
				case <-stop:
					fed <- i
					return
				default:
				}
				if err := l.put(fmt.Sprint("1-", i), map[string]string{"data": feedback(fmt.Sprint("c", i%7), "ok", i)}); err != nil {
					t.Errorf("put: %v", err)
				}
				i++
			}
		}()
		for i := range 20 {
			run.apply(two(fmt.Sprint(i), "capacity: 100000", ""), n.handle)
		}
		close(stop)
		total := <-fed
		run.eventually("all to be handled", func() bool { return n.handled() == total && l.pending() == 0 })
		again := 0
		for _, runs := range n.runs {
			again += runs - 1
		}
		if again != 0 || len(n.overlap) != 0 {
			t.Errorf("%d events: %d ran again, twice at once: %v", total, again, n.overlap)
		}
		t.Logf("%d events over 20 swaps", total)
	})
}

// A drain that runs out of time hands on what is queued.
func TestApplyHandsTheQueueOn(t *testing.T) {
	m, err := bus.NewInMemory(bus.InMemoryConfig{DrainTimeout: 50 * time.Millisecond, Lanes: 1})
	if err != nil {
		t.Fatal(err)
	}
	l := openMemory(t)
	l.transport = m
	t.Cleanup(func() { _ = m.Close(context.Background()) })
	n := newNumbers()
	n.hold = make(chan struct{})
	run := start(t, l, two("3", "capacity: 1000", ""), n.handle, nil)
	for i := range 200 {
		msg := message.NewMessage(fmt.Sprint("1-", i), []byte(feedback("c", "ok", i)))
		if err := m.Publish(source, msg); err != nil {
			t.Fatal(err)
		}
	}
	run.apply(two("4", "capacity: 1000", ""), n.handle)
	if n.handled() != 0 {
		t.Fatal("handled although held")
	}
	n.mu.Lock()
	close(n.hold)
	n.mu.Unlock()
	run.eventually("all to be handled", func() bool { return n.handled() == 200 })
	if s := run.router.Status()[0]; s.Lost != 0 {
		t.Errorf("%d lost", s.Lost)
	}
}

func TestApplyAddsAndRemoves(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		n := newNumbers()
		only := "\nversion: 1\nflows:\n  feedback:\n    from: {stream: telemetry.feedback}\n    stages: [dedupe, handle: {with: test}]\n"
		run := start(t, l, only, n.handle, nil)
		run.put("1-1", feedback("c", "ok", 1))
		run.settled(1)
		change := run.apply(only+"  fresh:\n    from: {stream: fresh, start: oldest}\n    stages: [handle: {with: test}]\n", n.handle)
		if diff := cmp.Diff([]string{"fresh"}, change.Added); diff != "" {
			t.Error(diff)
		}
		if err := l.transport.Publisher().Publish("mdp:mdp.fresh", message.NewMessage("2-1", []byte(feedback("c", "ok", 2)))); err != nil {
			t.Fatal(err)
		}
		run.eventually("the new flow to handle it", func() bool { return run.count.of("success") == 2 })
		// Under another name it is the same flow to its stream.
		change = run.apply(strings.Replace(only, "  feedback:", "  renamed:", 1), n.handle)
		if got := change.String(); got != "added renamed; removed feedback, fresh" {
			t.Error(got)
		}
		run.put("1-1", feedback("c", "ok", 1))
		run.eventually("the event to be known", func() bool { return run.count.of("duplicate") == 1 })
		if got := len(run.router.Status()); got != 1 {
			t.Errorf("%d flows in the status", got)
		}
		// Nobody is refused for want of the flow that is gone.
		if err := l.transport.Publisher().Publish("mdp:mdp.fresh", message.NewMessage("2-2", []byte("{}"))); err != nil {
			t.Error(err)
		}
	})
}

// failing is a transport whose subscribers of a stream fail to subscribe, while it says so.
type failing struct {
	router.Transport
	stream string
	now    *atomic.Bool
}

func (f failing) Subscriber(stream, group, start string, lanes int) (message.Subscriber, error) {
	s, err := f.Transport.Subscriber(stream, group, start, lanes)
	if err != nil || stream != f.stream {
		return s, err
	}
	return failingSubscriber{s, f.now}, nil
}

type failingSubscriber struct {
	message.Subscriber
	now *atomic.Bool
}

func (s failingSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if s.now.Load() {
		return nil, errors.New("no more subscriptions")
	}
	return s.Subscriber.Subscribe(ctx, topic)
}

func TestApplyRollsBack(t *testing.T) {
	for _, tt := range []struct {
		name    string
		between bool // what fails: between, or starting the second flow
	}{{"between", true}, {"start", false}} {
		t.Run(tt.name, func(t *testing.T) {
			onBothBuses(t, func(t *testing.T, l *line) {
				n := newNumbers()
				var broken atomic.Bool
				run := start(t, l, two("3", "capacity: 100", ""), n.handle, func(inner router.Transport) router.Transport {
					return failing{inner, "mdp:mdp.bad", &broken}
				})
				run.put("1-1", feedback("c", "ok", 1))
				run.settled(1)
				broken.Store(!tt.between)
				var plans []*router.Plan
				next := plan(t, two("4", "capacity: 50", "  bad:\n    from: {stream: bad}\n    stages: [handle: {with: test}]\n"), n.handle)
				_, err := run.router.Apply(next, func(p *router.Plan) error {
					if plans = append(plans, p); tt.between && p == next {
						return errors.New("no rates")
					}
					return nil
				})
				if _, ok := errors.AsType[*router.RolledBackError](err); !ok {
					t.Fatalf("%v, want it rolled back", err)
				}
				if len(plans) != 2 || plans[0] != next || plans[1] == next {
					t.Errorf("between was called with %d plans", len(plans))
				}
				run.put("1-1", feedback("c", "ok", 1))
				run.eventually("the event to be known", func() bool { return run.count.of("duplicate") == 1 })
				run.put("1-2", feedback("c", "ok", 2))
				run.eventually("the flow to run", func() bool { return run.count.of("success") == 2 })
				for _, s := range run.router.Status() {
					if s.State != router.StateRunning || s.Name == "bad" {
						t.Errorf("status %+v", s)
					}
				}
				// The same plan runs once there is nothing in its way.
				broken.Store(false)
				if _, err := run.router.Apply(next, nothing); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestApplyThatCannotBeBuiltTouchesNothing(t *testing.T) {
	n := newNumbers()
	l := openMemory(t)
	run := start(t, l, two("3", "capacity: 100", ""), n.handle, nil)
	before := run.router.Status()
	next := plan(t, two("4", "capacity: 100", ""), n.handle)
	next.Flows[1].Group = "" // which no subscriber can be made of
	_, err := run.router.Apply(next, func(*router.Plan) error { t.Error("between was called"); return nil })
	if _, ok := errors.AsType[*router.BuildError](err); !ok {
		t.Fatalf("%v", err)
	}
	if diff := cmp.Diff(before, run.router.Status()); diff != "" {
		t.Error(diff)
	}
	run.put("1-1", feedback("c", "ok", 1))
	run.settled(1)
}

// A shutdown while a reload drains ends both.
func TestApplyGivesUpAtShutdown(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		n := newNumbers()
		n.hold = make(chan struct{})
		run := start(t, l, two("3", "capacity: 100", ""), n.handle, nil)
		run.put("1-1", feedback("c", "ok", 1))
		run.eventually("it to be at work", func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.at["1-1"]
		})
		next, applied := plan(t, two("4", "capacity: 100", ""), n.handle), make(chan error, 1)
		go func() {
			_, err := run.router.Apply(next, nothing)
			applied <- err
		}()
		time.Sleep(20 * time.Millisecond) // it drains by now, or will not begin to
		run.cancel()
		run.eventually("the router to stop", func() bool { return run.router.Status()[0].State == router.StateStopping })
		close(n.hold)
		run.stop()
		if err := <-applied; !errors.Is(err, router.ErrNotRunning) {
			t.Errorf("%v", err)
		}
		if n.handled() != 1 {
			t.Error("the event in flight was not finished")
		}
		if _, err := run.router.Apply(next, nothing); !errors.Is(err, router.ErrNotRunning) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// The new subscription is the same consumer, also when a name before its own has become
// free, and runs what is pending under it first.
func TestApplyHandsTheConsumerOn(t *testing.T) {
	l := openRedis(t)
	client := l.server.Client(t)
	ctx := context.Background()
	r, err := bus.NewRedis(bus.RedisConfig{URL: l.server.URL(), Consumer: "worker", Lease: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(ctx) })
	// Another process has the first name, for now.
	lease := "{" + source + "}:pulseflow:lease:" + group + ":worker"
	if err := client.Set(ctx, lease, "another", 0).Err(); err != nil {
		t.Fatal(err)
	}
	l.transport = r
	l.put = func(id string, fields map[string]string) error {
		_, err := r.Put(ctx, source, []byte(fields["data"]), map[string]string{"original_id": id})
		return err
	}
	n := newNumbers()
	run := start(t, l, two("3", "capacity: 100", ""), n.handle, nil)
	run.put("1-1", feedback("c", "ok", 1))
	run.settled(1)
	client.Del(ctx, lease)
	for i := range 5 {
		run.apply(two(fmt.Sprint(4+i), "capacity: 100", ""), n.handle)
		run.put(fmt.Sprint("2-", i), feedback("c", "ok", 2+i))
		run.settled(2 + i)
	}
	var names []string
	for _, c := range client.XInfoConsumers(ctx, source, group).Val() {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"worker-2"}, names); diff != "" {
		t.Errorf("consumers (-want +got):\n%s", diff)
	}
	run.stop()
	if n := client.Exists(ctx, "{"+source+"}:pulseflow:lease:"+group+":worker-2").Val(); n != 0 {
		t.Error("the lease was not given up at the end")
	}
}
