package bus

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

// laneRig is a set of lanes with a record of what they settled.
type laneRig struct {
	*lanes
	out    chan *message.Message
	cancel context.CancelFunc

	mu      sync.Mutex
	settled []string
}

func newLaneRig(n int) *laneRig {
	r := &laneRig{out: make(chan *message.Message)}
	base, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.lanes = newLanes(base, n, r.out, func(e *event.Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.settled = append(r.settled, e.ID)
	})
	return r
}

// newLanes starts lanes that differ from the usual in nothing but their number.
func newLanes(base context.Context, n int, out chan<- *message.Message, settled func(*event.Event)) *lanes {
	return startLanes(laneConfig{base: base, n: n, out: out, settled: settled})
}

// dispatch is enqueue for an event without metadata, close for events alone.
func (r *laneRig) dispatch(e *event.Event) { r.enqueue(delivery{event: e}) }

func (r *laneRig) close(finish bool) []*event.Event {
	var left []*event.Event
	for _, d := range r.lanes.close(finish) {
		left = append(left, d.event)
	}
	return left
}

func (r *laneRig) settledIDs() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.settled)
}

func keyed(key, id string) *event.Event {
	return &event.Event{ID: id, EntryID: id, Key: key, Data: []byte(id)}
}

func eventIDs(events []*event.Event) []string {
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	return ids
}

func TestLanesMessage(t *testing.T) {
	r := newLaneRig(3)
	defer r.cancel()
	e := &event.Event{ID: "inner", EntryID: "1-0", Key: "k", Data: []byte(`{"a":1}`)}
	r.dispatch(e)
	msg := <-r.out
	msg.Ack()
	if left := r.close(true); len(left) != 0 {
		t.Errorf("close left %v", eventIDs(left))
	}
	if msg.UUID != "inner" || string(msg.Payload) != `{"a":1}` || msg.Metadata == nil || len(msg.Metadata) != 0 {
		t.Errorf("message %q %q %v", msg.UUID, msg.Payload, msg.Metadata)
	}
	if event.FromContext(msg.Context()) != e {
		t.Error("the message's context does not carry its event")
	}
	if err := msg.Context().Err(); err != nil {
		t.Errorf("context after a drain: %v", err)
	}
	r.cancel()
	if msg.Context().Err() == nil {
		t.Error("the message's context outlives the base context")
	}
}

// Events of one key come in order, one at a time, whatever is refused.
func TestLanesOrderByKeyUnderNacks(t *testing.T) {
	const keys, each = 32, 60
	for _, n := range []int{1, 2, 8, 64} {
		t.Run(strconv.Itoa(n)+" lanes", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newLaneRig(n)
				defer r.cancel()

				var mu sync.Mutex
				handled := map[string][]int{}
				inFlight := map[string]bool{}
				most := 0
				var wg sync.WaitGroup
				readerDone := make(chan struct{})
				go func() {
					defer close(readerDone)
					rng := rand.New(rand.NewPCG(1, uint64(n)))
					for msg := range r.out {
						refuse, took := rng.IntN(8) == 0, time.Duration(rng.IntN(1000))
						wg.Go(func() {
							e := event.FromContext(msg.Context())
							seq, _ := strconv.Atoi(string(e.Data))
							mu.Lock()
							if inFlight[e.Key] {
								t.Errorf("key %s: two in flight", e.Key)
							}
							inFlight[e.Key] = true
							most = max(most, len(inFlight))
							mu.Unlock()
							time.Sleep(took)
							mu.Lock()
							delete(inFlight, e.Key)
							if !refuse {
								handled[e.Key] = append(handled[e.Key], seq)
							}
							mu.Unlock()
							if refuse {
								msg.Nack()
							} else {
								msg.Ack()
							}
						})
					}
				}()
				for i := range each {
					for k := range keys {
						e := keyed(fmt.Sprint("key-", k), strconv.Itoa(i))
						r.dispatch(e)
					}
				}
				// Wait for all of them: closing while events are refused would end lanes.
				for len(r.settledIDs()) < keys*each {
					time.Sleep(time.Second)
				}
				if left := r.close(true); len(left) != 0 {
					t.Errorf("%d left", len(left))
				}
				close(r.out)
				<-readerDone
				wg.Wait()

				want := make([]int, each)
				for i := range want {
					want[i] = i
				}
				for k := range keys {
					if diff := gocmp.Diff(want, handled[fmt.Sprint("key-", k)]); diff != "" {
						t.Errorf("key %d (-want +got):\n%s", k, diff)
					}
				}
				if most > n || n > 1 && most < 2 {
					t.Errorf("%d events in flight at most, with %d lanes", most, n)
				}
			})
		})
	}
}

// Events without a key must neither be ordered nor share one lane.
func TestLanesSpreadKeyless(t *testing.T) {
	r := newLaneRig(16)
	for i := range 200 {
		r.dispatch(keyed("", fmt.Sprint(i)))
	}
	// All held at once: more than one lane is at work.
	first, second := <-r.out, <-r.out
	if first.UUID == second.UUID {
		t.Errorf("%s was offered twice", first.UUID)
	}
	r.cancel()
	if left := r.close(true); len(left) != 200 {
		t.Errorf("%d left, want 200", len(left))
	}
}

// A held key stops neither other keys nor dispatch.
func TestLanesHeldKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const lanes, others = 8, 64
		r := newLaneRig(lanes)
		defer r.cancel()
		r.dispatch(keyed("held", "held-0"))
		held := <-r.out
		for i := range others {
			r.dispatch(keyed(fmt.Sprint("other-", i), fmt.Sprint("other-", i)))
		}
		// What shares the held key's lane waits; everything else is handled.
		passed := 0
		for offered := true; offered; {
			synctest.Wait()
			select {
			case msg := <-r.out:
				msg.Ack()
				passed++
			default:
				offered = false
			}
		}
		if passed == 0 || passed > others {
			t.Errorf("%d of %d other keys were handled while one was held", passed, others)
		}
		done := make(chan []*event.Event)
		go func() { done <- r.close(true) }()
		held.Ack()
		for range others - passed {
			(<-r.out).Ack()
		}
		if left := <-done; len(left) != 0 {
			t.Errorf("left %v", eventIDs(left))
		}
		if got := len(r.settledIDs()); got != others+1 {
			t.Errorf("%d settled, want %d", got, others+1)
		}
	})
}

// Metadata reaches every delivery as a copy of its own.
func TestLanesMetadata(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLaneRig(2)
		defer r.cancel()
		want := message.Metadata{"test": "a"}
		r.enqueue(delivery{event: keyed("k", "1"), meta: want})
		for range 3 {
			msg := <-r.out
			if diff := gocmp.Diff(want, msg.Metadata); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			msg.Metadata.Set("test", "changed by the reader")
			msg.Nack()
		}
		left := r.lanes.close(false)
		if diff := gocmp.Diff(message.Metadata{"test": "a"}, left[0].meta); diff != "" {
			t.Errorf("metadata of what is left (-want +got):\n%s", diff)
		}
	})
}

func TestLanesBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newLaneRig(4)
		defer r.cancel()
		r.dispatch(keyed("k", "a"))
		r.dispatch(keyed("k", "b"))

		ceiling := redeliverFirst
		msg := <-r.out
		for i := range 12 {
			refused := time.Now()
			msg.Nack()
			msg = <-r.out
			waited := time.Since(refused)
			if msg.UUID != "a" {
				t.Fatalf("after nack %d: got %s before a was acknowledged", i, msg.UUID)
			}
			if waited < ceiling/2 || waited > ceiling {
				t.Errorf("nack %d: offered again after %v, want %v to %v", i, waited, ceiling/2, ceiling)
			}
			ceiling = min(2*ceiling, redeliverCap)
		}
		if ceiling != redeliverCap {
			t.Errorf("the backoff reached %v, not its cap", ceiling)
		}
		acked := time.Now()
		msg.Ack()
		msg = <-r.out
		if msg.UUID != "b" || time.Since(acked) != 0 {
			t.Errorf("got %s after %v, want b at once", msg.UUID, time.Since(acked))
		}
		// The backoff starts anew for another event.
		refused := time.Now()
		msg.Nack()
		msg = <-r.out
		if waited := time.Since(refused); waited > redeliverFirst {
			t.Errorf("first redelivery of another event after %v", waited)
		}
		msg.Ack()
		if left := r.close(true); len(left) != 0 {
			t.Errorf("left %v", eventIDs(left))
		}
	})
}

func TestLanesClose(t *testing.T) {
	type step func(t *testing.T, r *laneRig) []*event.Event
	dispatchAll := func(r *laneRig, ids ...string) {
		for _, id := range ids {
			r.dispatch(keyed("k", id))
		}
	}
	closing := func(r *laneRig, finish bool) chan []*event.Event {
		done := make(chan []*event.Event, 1)
		go func() { done <- r.close(finish) }()
		synctest.Wait()
		return done
	}
	for _, tc := range []struct {
		name    string
		steps   step
		settled []string
		left    []string
		took    time.Duration
	}{
		{
			name:  "idle",
			steps: func(_ *testing.T, r *laneRig) []*event.Event { return r.close(true) },
		},
		{
			name: "finish runs what is queued",
			steps: func(_ *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a", "b", "c")
				done := closing(r, true)
				for range 3 {
					(<-r.out).Ack()
				}
				return <-done
			},
			settled: []string{"a", "b", "c"},
		},
		{
			name: "without finish nothing offered is waited for",
			steps: func(_ *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a", "b")
				synctest.Wait() // blocked offering a
				return r.close(false)
			},
			left: []string{"a", "b"},
		},
		{
			name: "without finish what the reader holds is waited for",
			steps: func(t *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a", "b")
				held := <-r.out
				done := closing(r, false)
				select {
				case <-done:
					t.Error("close did not wait for the event in flight")
				default:
				}
				held.Ack()
				return <-done
			},
			settled: []string{"a"}, left: []string{"b"},
		},
		{
			name: "without finish a backoff ends",
			steps: func(_ *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a", "b")
				(<-r.out).Nack()
				synctest.Wait()
				return r.close(false)
			},
			left: []string{"a", "b"},
		},
		{
			name: "finish gives a backoff one last try",
			steps: func(_ *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a", "b")
				(<-r.out).Nack()
				synctest.Wait()
				done := closing(r, true)
				(<-r.out).Ack()
				(<-r.out).Ack()
				return <-done
			},
			settled: []string{"a", "b"},
		},
		{
			name: "a refusal while finishing ends the lane",
			steps: func(_ *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a", "b")
				done := closing(r, true)
				(<-r.out).Nack()
				return <-done
			},
			left: []string{"a", "b"},
		},
		{
			name: "finish is cut short by close without",
			steps: func(_ *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a", "b")
				done := closing(r, true)
				left := r.close(false)
				return append(left, <-done...)
			},
			left: []string{"a", "b"},
		},
		{
			name: "finish is cut short by the base context",
			steps: func(_ *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a", "b", "c")
				done := closing(r, true)
				(<-r.out).Ack()
				held := <-r.out
				time.AfterFunc(time.Minute, r.cancel)
				left := <-done
				held.Ack()
				return left
			},
			settled: []string{"a"}, left: []string{"b", "c"}, took: time.Minute,
		},
		{
			name: "the base context ends a backoff",
			steps: func(_ *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a")
				(<-r.out).Nack()
				synctest.Wait()
				r.cancel()
				return r.close(true)
			},
			left: []string{"a"},
		},
		{
			name: "twice",
			steps: func(t *testing.T, r *laneRig) []*event.Event {
				dispatchAll(r, "a")
				synctest.Wait()
				left := r.close(false)
				if again := r.close(true); len(again) != 0 {
					t.Errorf("second close returned %v", eventIDs(again))
				}
				return left
			},
			left: []string{"a"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newLaneRig(4)
				defer r.cancel()
				start := time.Now()
				left := tc.steps(t, r)
				if diff := gocmp.Diff(tc.settled, r.settledIDs()); diff != "" {
					t.Errorf("settled (-want +got):\n%s", diff)
				}
				if diff := gocmp.Diff(tc.left, eventIDs(left), equateEmpty); diff != "" {
					t.Errorf("left (-want +got):\n%s", diff)
				}
				if took := time.Since(start); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
			})
		})
	}
}

// However a load is closed, each event is settled or left, once, and of a key what is left comes after what was settled.
func TestLanesCloseUnderLoad(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 0))
		const events = 400
		base, cancel := context.WithCancel(t.Context())
		out := make(chan *message.Message)
		var mu sync.Mutex
		settled := make(map[string][]int) // by key, in order
		total := 0
		l := startLanes(laneConfig{
			base: base, n: 1 + rng.IntN(8), out: out, first: time.Microsecond, most: time.Millisecond,
			settled: func(e *event.Event) {
				n, _ := strconv.Atoi(e.ID)
				mu.Lock()
				defer mu.Unlock()
				settled[e.Key] = append(settled[e.Key], n)
				total++
			},
		})
		ended := make(chan struct{})
		var readers sync.WaitGroup
		for i := range 4 {
			answers := rand.New(rand.NewPCG(seed, uint64(i)))
			readers.Go(func() {
				for {
					select {
					case msg := <-out:
						runtime.Gosched()
						if answers.IntN(5) == 0 {
							msg.Nack()
						} else {
							msg.Ack()
						}
					case <-ended:
						return
					}
				}
			})
		}
		keys := 1 + rng.IntN(12)
		for i := range events {
			key := ""
			if n := rng.IntN(keys); n > 0 {
				key = strconv.Itoa(n)
			}
			l.enqueue(delivery{event: keyed(key, strconv.Itoa(i))})
		}
		left := make(chan []delivery, 3)
		var closing sync.WaitGroup
		for _, end := range [][]func(){
			{func() { left <- l.close(true) }},
			{func() { left <- l.close(false) }},
			{func() { left <- l.close(true) }, func() { left <- l.close(false) }},
			{func() { left <- l.close(true) }, cancel, func() { left <- l.close(true) }},
			{cancel, func() { left <- l.close(false) }},
		}[seed%5] {
			closing.Go(end)
		}
		closing.Wait()
		cancel()
		close(ended)
		readers.Wait()
		close(left)
		n := 0
		for part := range left {
			n += len(part)
			for _, d := range part {
				id, _ := strconv.Atoi(d.event.ID)
				settled[d.event.Key] = append(settled[d.event.Key], id)
			}
		}
		if total+n != events {
			t.Fatalf("seed %d: %d settled and %d left of %d", seed, total, n, events)
		}
		seen := make(map[int]bool)
		for key, ids := range settled {
			if key != "" && !slices.IsSorted(ids) {
				t.Errorf("seed %d: key %s: %v", seed, key, ids)
			}
			for _, id := range ids {
				if seen[id] {
					t.Errorf("seed %d: event %d twice", seed, id)
				}
				seen[id] = true
			}
		}
	}
}

var equateEmpty = gocmp.FilterValues(func(a, b []string) bool { return len(a) == 0 && len(b) == 0 },
	gocmp.Comparer(func(_, _ []string) bool { return true }))

// Nothing is offered once the base context is cancelled, even to a ready reader.
func TestLanesBaseCancelled(t *testing.T) {
	out := make(chan *message.Message, 100)
	base, cancel := context.WithCancel(context.Background())
	cancel()
	l := newLanes(base, 4, out, func(*event.Event) { t.Error("settled") })
	for i := range 100 {
		l.enqueue(delivery{event: keyed("", fmt.Sprint(i))})
	}
	if left := l.close(true); len(left) != 100 || len(out) != 0 {
		t.Errorf("%d left, %d offered", len(left), len(out))
	}
}

// An acknowledgement before the base context's end counts, whichever is seen
// first.
func TestLanesAckBeforeBaseCancelled(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			r := newLaneRig(1)
			r.dispatch(keyed("k", "a"))
			synctest.Wait() // the lane offers, and has yet to look for an answer
			msg := <-r.out
			msg.Ack()
			r.cancel()
			if left := r.close(true); len(left) != 0 {
				t.Fatal("an acknowledged event was not settled")
			}
		})
	}
}

// A lane's memory follows what is queued, not what has passed.
func TestLaneQueueCompacts(t *testing.T) {
	ln := &lane{wake: make(chan struct{}, 1)}
	const queued = 100
	push := func(i int) { ln.push(delivery{event: keyed("k", strconv.Itoa(i))}) }
	for i := range queued {
		push(i)
	}
	head := 0
	for ; head < 20_000; head++ {
		push(head + queued)
		d, ok := ln.peek()
		if !ok || d.event.ID != strconv.Itoa(head) {
			t.Fatalf("the head is %+v, want %d", d.event, head)
		}
		if d, ok = ln.next(); !ok || d.event.ID != strconv.Itoa(head+1) {
			t.Fatalf("the next head is %+v, want %d", d.event, head+1)
		}
	}
	if c := cap(ln.queue); c > 10*queued {
		t.Errorf("%d events queued in a slice of %d", queued, c)
	}
	left := ln.take()
	if len(left) != queued || left[0].event.ID != strconv.Itoa(head) {
		t.Errorf("took %d events", len(left))
	}
	if d, ok := ln.peek(); ok {
		t.Errorf("after take the head is %+v", d.event)
	}
}

func BenchmarkLanes(b *testing.B) {
	for _, n := range []int{1, 8, 32} {
		b.Run(strconv.Itoa(n)+" lanes", func(b *testing.B) {
			out := make(chan *message.Message)
			base, cancel := context.WithCancel(context.Background())
			defer cancel()
			bound := make(chan struct{}, 4096)
			l := newLanes(base, n, out, func(*event.Event) { <-bound })
			go func() {
				for msg := range out {
					msg.Ack()
				}
			}()
			events := make([]*event.Event, 256)
			for i := range events {
				events[i] = keyed(fmt.Sprint("key-", i), fmt.Sprint(i))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				bound <- struct{}{}
				l.enqueue(delivery{event: events[i%len(events)]})
			}
			l.close(true)
			close(out)
		})
	}
}
