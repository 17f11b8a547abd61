package router_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/router"
)

// A flow that could not be started again after a swap failed is started by the next
// Apply, whatever its plan, and knows what it knew.
func TestApplyStartsWhatIsDown(t *testing.T) {
	base := two("3", "capacity: 100", "")
	for _, tt := range []struct{ name, next, want string }{
		{"the plan from before", base, "added feedback"},
		{"the one that failed", two("4", "capacity: 100", ""), "added feedback"},
		{"one without it", strings.Replace(base, "  feedback:\n", "  feedback:\n    enabled: false\n", 1), "no flow changed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onBothBuses(t, func(t *testing.T, l *line) {
				n := newNumbers()
				run := start(t, l, base, n.handle, nil)
				run.put("1-1", feedback("c", "ok", 1))
				run.settled(1)
				_, err := run.router.Apply(plan(t, two("4", "capacity: 100", ""), n.handle), func(*router.Plan) error {
					return errors.New("no rates")
				})
				if _, back := errors.AsType[*router.RolledBackError](err); err == nil || back {
					t.Fatalf("%v, want one that was not rolled back", err)
				}
				if s := run.router.Status(); s[0].State != router.StateDegraded || s[0].Success != 1 || s[1].State != router.StateRunning {
					t.Fatalf("after the failure %+v", s)
				}
				change := run.apply(tt.next, n.handle)
				if got := change.String(); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
				if change.String() == "no flow changed" {
					if s := run.router.Status()[0]; s.State != router.StateDisabled {
						t.Errorf("%+v", s)
					}
					return
				}
				if diff := cmp.Diff([]string{"other"}, change.Unchanged); diff != "" {
					t.Error(diff)
				}
				run.put("1-1", feedback("c", "ok", 1))
				run.put("1-2", feedback("c", "ok", 2))
				run.eventually("the flow to run, and to know its event", func() bool {
					s := run.router.Status()[0]
					return s.State == router.StateRunning && s.Success == 2 && s.Duplicate == 1
				})
			})
		})
	}
}

// ending is a transport whose subscription of a stream ends by itself, when told to.
type ending struct {
	router.Transport
	stream string
	end    chan struct{}
}

func (e ending) Subscriber(stream, group, start string, lanes int) (message.Subscriber, error) {
	s, err := e.Transport.Subscriber(stream, group, start, lanes)
	if err == nil && stream == e.stream {
		s = endingSubscriber{s, e.end}
	}
	return s, err
}

type endingSubscriber struct {
	message.Subscriber
	end chan struct{}
}

func (s endingSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := s.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		for {
			select {
			case msg, ok := <-in:
				if !ok {
					return
				}
				out <- msg
			case <-s.end:
				_ = s.Close()
				return
			}
		}
	}()
	return out, nil
}

// A flow that has ended by itself is not one that runs.
func TestApplyStartsWhatHasEnded(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		n, base := newNumbers(), two("3", "capacity: 100", "")
		end := make(chan struct{})
		run := start(t, l, base, n.handle, func(inner router.Transport) router.Transport {
			return ending{inner, source, end}
		})
		run.put("1-1", feedback("c", "ok", 1))
		run.settled(1)
		end <- struct{}{}
		run.eventually("the flow to end", func() bool { return run.router.Status()[0].State == router.StateDegraded })
		if got := run.apply(base, n.handle).String(); got != "added feedback" {
			t.Error(got)
		}
		run.put("1-1", feedback("c", "ok", 1))
		run.eventually("the flow to know its event", func() bool { return run.router.Status()[0].Duplicate == 1 })
	})
}

// reading is a flow of a dedupe on the stream of the tests.
func reading(name, group, dedupe string) string {
	return fmt.Sprintf("  %s:\n    from: {stream: telemetry.feedback, group: %s}\n    stages: [%s, handle: {with: test}]\n", name, group, dedupe)
}

// What is known stays with its flow, whatever else comes into the file and wherever.
func TestApplyKeepsStateWithItsFlow(t *testing.T) {
	const id = "dedupe: {key: id}"
	for _, tt := range []struct {
		name   string
		files  []string       // one after the other
		knows  map[string]int // flows that know the event in the end, by the duplicates they count
		forget []string       // those that do not
	}{
		{
			name:   "a new flow listed first, in a group of its own",
			files:  []string{reading("a", "one", id), reading("new", "two", id) + reading("a", "one", id+", tap: {}")},
			knows:  map[string]int{"a": 1},
			forget: []string{"new"},
		},
		{
			name:  "renamed",
			files: []string{reading("a", "one", id), reading("b", "one", id)},
			knows: map[string]int{"b": 1},
		},
		{
			name:  "in another group",
			files: []string{reading("a", "one", id), reading("a", "two", id)},
			knows: map[string]int{"a": 1},
		},
		{
			name:   "another flow takes its group over",
			files:  []string{reading("a", "one", id), reading("b", "one", id) + reading("a", "two", id)},
			knows:  map[string]int{"b": 1},
			forget: []string{"a"},
		},
		{
			name:   "another flow takes its group over, listed last",
			files:  []string{reading("a", "one", id), reading("a", "two", id) + reading("b", "one", id)},
			knows:  map[string]int{"b": 1},
			forget: []string{"a"},
		},
		{
			name:  "two that swap their groups",
			files: []string{reading("a", "one", id) + reading("b", "two", id), reading("a", "two", id) + reading("b", "one", id)},
			knows: map[string]int{"a": 1, "b": 1},
		},
		{
			name:   "removed and added again",
			files:  []string{reading("a", "one", id), reading("b", "two", id), reading("b", "two", id) + reading("a", "one", id)},
			forget: []string{"a"},
		},
		{
			name:   "switched off and on again",
			files:  []string{reading("a", "one", id), strings.Replace(reading("a", "one", id), "a:", "a:\n    enabled: false", 1), reading("a", "one", id)},
			forget: []string{"a"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, n := openMemory(t), newNumbers()
			const head = "\nversion: 1\nflows:\n"
			run := start(t, l, head+tt.files[0], n.handle, nil)
			run.put("1-1", feedback("c", "ok", 1))
			run.eventually("the flows to handle it", func() bool {
				return run.count.of("success") == len(run.router.Status()) && l.transport.(interface{ Idle() bool }).Idle()
			})
			for _, file := range tt.files[1:] {
				run.apply(head+file, n.handle)
			}
			run.put("1-1", feedback("c", "ok", 1))
			run.eventually("the bus to be idle", func() bool { return l.transport.(interface{ Idle() bool }).Idle() })
			for _, s := range run.router.Status() {
				if int(s.Duplicate) != tt.knows[s.Name] {
					t.Errorf("flow %s counts %d duplicates, want %d: %+v", s.Name, s.Duplicate, tt.knows[s.Name], s)
				}
			}
			for _, name := range tt.forget {
				for _, s := range run.router.Status() {
					if s.Name == name && s.Success == 0 {
						t.Errorf("flow %s did not handle the event: %+v", name, s)
					}
				}
			}
		})
	}
}

// A swap to a smaller dedupe that is rolled back has forgotten nothing.
func TestApplyThatIsRolledBackForgetsNothing(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		n := newNumbers()
		var broken atomic.Bool
		run := start(t, l, two("3", "capacity: 100", ""), n.handle, func(inner router.Transport) router.Transport {
			return failing{inner, "mdp:mdp.bad", &broken}
		})
		for i := range 50 {
			run.put(fmt.Sprint("1-", i), feedback("c", "ok", i))
		}
		run.settled(50)
		broken.Store(true)
		next := plan(t, two("3", "capacity: 5", "  bad:\n    from: {stream: bad}\n    stages: [handle: {with: test}]\n"), n.handle)
		if _, err := run.router.Apply(next, nothing); err == nil {
			t.Fatal("it was not rolled back")
		}
		for i := range 50 {
			run.put(fmt.Sprint("1-", i), feedback("c", "ok", i))
		}
		run.eventually("all to be known", func() bool { return run.router.Status()[0].Duplicate == 50 })
	})
}
