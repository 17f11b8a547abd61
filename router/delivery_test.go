package router_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// The table of docs/delivery.md, row by row.
func TestDelivery(t *testing.T) {
	failure := errors.New("downstream is out")
	for _, tt := range []struct {
		name string
		// handle is called with the number of the run, from 1.
		handle func(run int64) error
		counts map[string]int
		// attempts and kind are the dead letter's; "" is none.
		attempts, kind, stage string
	}{
		{
			"nil is a success", func(int64) error { return nil },
			map[string]int{"success": 1},
			"", "", "",
		},
		{
			"permanent goes to the dead letters at once",
			func(int64) error { return stages.Permanent(failure) },
			map[string]int{"error": 1, "dead letter error": 1},
			"1", "error", "handle",
		},
		{
			"fails once and then succeeds", func(run int64) error {
				if run == 1 {
					return failure
				}
				return nil
			},
			map[string]int{"success": 1, "retried": 1},
			"", "", "",
		},
		{
			"always fails", func(int64) error { return failure },
			map[string]int{"error": 1, "retried": 3, "dead letter error": 1},
			"4", "error", "handle",
		},
		{
			"always panics", func(int64) error { panic("boom") },
			map[string]int{"error": 1, "retried": 3, "dead letter panic": 1},
			"4", "panic", "handle",
		},
		{
			"panics once and then succeeds", func(run int64) error {
				if run == 1 {
					panic("boom")
				}
				return nil
			},
			map[string]int{"success": 1, "retried": 1},
			"", "", "",
		},
		{
			"a cancelled call of the handler's own is an ordinary failure",
			func(int64) error { return fmt.Errorf("query: %w", context.Canceled) },
			map[string]int{"error": 1, "retried": 3, "dead letter error": 1},
			"4", "error", "handle",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			onBothBuses(t, func(t *testing.T, l *line) {
				var runs atomic.Int64
				r := start(t, l, standard, func(context.Context, *stages.Delivery, stages.HandleConfig, stages.Deps) error {
					return tt.handle(runs.Add(1))
				}, nil)
				data := feedback("bars_1", "soft", 0)
				r.put("7-1", data)
				r.settled(1)
				got := maps.Clone(r.count.counts)
				delete(got, "lag")
				if diff := cmp.Diff(tt.counts, got); diff != "" {
					t.Errorf("counts (-want +got):\n%s", diff)
				}
				letters := r.letters()
				if tt.kind == "" {
					if len(letters) != 0 {
						t.Errorf("dead letters %v, want none", letters)
					}
					return
				}
				if len(letters) != 1 {
					t.Fatalf("%d dead letters, want 1", len(letters))
				}
				want := map[string]string{
					"data": data, "original_id": "7-1", "flow": "feedback", "stage": tt.stage, "attempts": tt.attempts,
					"error_kind": tt.kind, "stream": "telemetry.feedback", "group": "pipeline",
					"topic_poisoned": source, "handler_poisoned": "feedback",
				}
				for k, v := range want {
					if letters[0][k] != v {
						t.Errorf("dead letter: %s is %q, want %q", k, letters[0][k], v)
					}
				}
				for _, k := range []string{"reason", "failed_at", "reason_poisoned", "subscriber_poisoned"} {
					if letters[0][k] == "" {
						t.Errorf("dead letter: %s is missing", k)
					}
				}
			})
		})
	}
}

func TestDuplicateIsAcknowledged(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		r := start(t, l, standard, accept, nil)
		for range 2 {
			for i := range 10 {
				r.put(fmt.Sprintf("7-%d", i), feedback("bars_1", "ok", i))
			}
		}
		r.settled(20)
		if r.count.of("success") != 10 || r.count.of("duplicate") != 10 {
			t.Errorf("counts %v, want 10 success and 10 duplicate", r.count.counts)
		}
	})
}

func accept(context.Context, *stages.Delivery, stages.HandleConfig, stages.Deps) error { return nil }

// brokenLetters fails the first writes to the dead letters.
type brokenLetters struct {
	router.Transport
	left atomic.Int64
}

func (b *brokenLetters) Publisher() message.Publisher {
	return brokenPublisher{b.Transport.Publisher(), b}
}

type brokenPublisher struct {
	message.Publisher
	letters *brokenLetters
}

func (p brokenPublisher) Publish(stream string, msgs ...*message.Message) error {
	if stream == deadLetter && p.letters.left.Add(-1) >= 0 {
		return errors.New("no room")
	}
	return p.Publisher.Publish(stream, msgs...)
}

func TestDeadLetterThatCannotBeWritten(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		broken := &brokenLetters{Transport: l.transport}
		broken.left.Store(3)
		var runs atomic.Int64
		r := start(t, l, standard, func(context.Context, *stages.Delivery, stages.HandleConfig, stages.Deps) error {
			runs.Add(1)
			return stages.Permanent(errors.New("no"))
		}, func(router.Transport) router.Transport { return broken })
		r.put("7-1", feedback("bars_1", "soft", 0))
		r.eventually("a failed write", func() bool { return r.count.of("dead letter failed") >= 1 })
		if r.count.of("error") == 0 && r.line.pending() == 0 {
			t.Error("the event was acknowledged before its dead letter was written")
		}
		r.settled(1)
		if n := r.count.of("dead letter failed"); n != 3 {
			t.Errorf("%d failed writes, want 3", n)
		}
		if n := len(r.letters()); n != 1 || runs.Load() != 1 {
			t.Errorf("%d dead letters after %d runs, want 1 after 1", n, runs.Load())
		}
	})
}

func TestStopLeavesWhatItInterrupted(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		src := strings.Replace(standard, "initial: 1ms, max_interval: 2ms", "initial: 1h, max_interval: 1h", 1)
		var down atomic.Bool
		down.Store(true)
		handle := func(context.Context, *stages.Delivery, stages.HandleConfig, stages.Deps) error {
			if down.Load() {
				return errors.New("downstream is out")
			}
			return nil
		}
		r := start(t, l, src, handle, nil)
		r.put("7-1", feedback("bars_1", "soft", 0))
		r.eventually("the first retry", func() bool { return r.count.of("retried") == 1 })
		begun := time.Now()
		r.stop()
		if took := time.Since(begun); took > patience {
			t.Errorf("stopping took %s", took)
		}
		if len(r.letters()) != 0 || r.count.of("error")+r.count.of("success") != 0 {
			t.Errorf("the stop settled the event: counts %v, dead letters %v", r.count.counts, r.letters())
		}
		if l.reopen == nil {
			if lost := r.router.Status()[0].Lost; lost != 1 {
				t.Errorf("%d events reported lost, want 1", lost)
			}
			return
		}
		if n := l.pending(); n != 1 {
			t.Errorf("%d pending, want 1: it must be delivered again", n)
		}
		if err := l.transport.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		down.Store(false)
		l.reopen()
		r = start(t, l, src, handle, nil)
		r.settled(1)
		if r.count.of("success") != 1 {
			t.Errorf("counts %v, want a success after the restart", r.count.counts)
		}
	})
}

func TestStopFinishesWhatIsInFlight(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		started, finish := make(chan struct{}), make(chan struct{})
		r := start(t, l, standard, func(ctx context.Context, _ *stages.Delivery, _ stages.HandleConfig, _ stages.Deps) error {
			close(started)
			select {
			case <-finish:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, nil)
		r.put("7-1", feedback("bars_1", "soft", 0))
		<-started
		r.cancel()
		r.eventually("the flow to stop", func() bool { return r.router.Status()[0].State == router.StateStopping })
		close(finish)
		r.stop()
		if r.count.of("success") != 1 || l.pending() != 0 || r.router.Status()[0].Lost != 0 {
			t.Errorf("counts %v, pending %d, lost %d; want the event finished and acknowledged",
				r.count.counts, l.pending(), r.router.Status()[0].Lost)
		}
	})
}

// Neither a handler that waits for the end of its context nor one that ignores it
// keeps the router from ending.
func TestStopGivesUpAfterTheTimeout(t *testing.T) {
	for name, obeys := range map[string]bool{"obedient": true, "deaf": false} {
		t.Run(name, func(t *testing.T) {
			onBothBuses(t, func(t *testing.T, l *line) {
				started, release := make(chan struct{}), make(chan struct{})
				t.Cleanup(func() { close(release) })
				r := start(t, l, standard, func(ctx context.Context, _ *stages.Delivery, _ stages.HandleConfig, _ stages.Deps) error {
					close(started)
					if obeys {
						<-ctx.Done() // cancelled when the drain's time is over
						return ctx.Err()
					}
					<-release
					return nil
				}, nil)
				r.put("7-1", feedback("bars_1", "soft", 0))
				<-started
				r.cancel()
				select {
				case err := <-r.done:
					r.done = nil
					if err != nil {
						t.Errorf("run: %v", err)
					}
				case <-time.After(patience):
					t.Fatal("the router does not end")
				}
				if len(r.letters()) != 0 || r.count.of("success")+r.count.of("error") != 0 {
					t.Errorf("counts %v, dead letters %v; want the event left alone", r.count.counts, r.letters())
				}
			})
		})
	}
}

// A stage that ends its goroutine fails like any other as far as the event goes: it
// comes again.
func TestStageThatEndsItsGoroutine(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		var runs atomic.Int64
		r := start(t, l, standard, func(context.Context, *stages.Delivery, stages.HandleConfig, stages.Deps) error {
			if runs.Add(1) == 1 {
				runtime.Goexit()
			}
			return nil
		}, nil)
		r.put("7-1", feedback("bars_1", "soft", 0))
		r.settled(1)
		if runs.Load() != 2 || r.count.of("success") != 1 {
			t.Errorf("%d runs, counts %v; want 2 and a success", runs.Load(), r.count.counts)
		}
	})
}

// A failure of the bus itself does not use up the event's retries.
type outage struct{ error }

func (outage) Unavailable() bool { return true }

func TestOutagesDoNotCountAsAttempts(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		var runs atomic.Int64
		r := start(t, l, standard, func(context.Context, *stages.Delivery, stages.HandleConfig, stages.Deps) error {
			switch n := runs.Add(1); {
			case n <= 20:
				return fmt.Errorf("publish: %w", outage{errors.New("out of memory")})
			default:
				return errors.New("its own fault")
			}
		}, nil)
		r.put("7-1", feedback("bars_1", "soft", 0))
		r.settled(1)
		if runs.Load() != 24 || len(r.letters()) != 1 || r.letters()[0]["attempts"] != "24" {
			t.Errorf("%d runs, dead letters %v; want 20 that do not count, then 4", runs.Load(), r.letters())
		}
	})
}

// The entry's other fields do not become those of its dead letter.
func TestDeadLetterHasNoFieldsOfTheEntry(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		r := start(t, l, standard, accept, nil)
		if err := l.put("7-1", map[string]string{
			"data": "{}", "fields": `{"a":"b"}`, "replays": "many", "reason": "none", "mine": "x",
		}); err != nil {
			t.Fatal(err)
		}
		r.settled(1)
		letter := r.letters()[0]
		for _, name := range []string{"fields", "replays", "mine"} {
			if v, ok := letter[name]; ok {
				t.Errorf("%s is %q, want none", name, v)
			}
		}
		if letter["data"] != "{}" || letter["reason"] == "none" {
			t.Errorf("dead letter %v", letter)
		}
	})
}

func TestMalformedEntries(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		r := start(t, l, standard, accept, nil)
		list := captures(t, "malformed.jsonl")
		want := make(map[string]string) // id → expect
		for i, c := range list {
			id := fmt.Sprintf("9-%d", i)
			want[id] = c.Expect
			if err := l.put(id, c.Fields); err != nil {
				t.Fatal(err)
			}
			r.settled(i + 1) // one by one, so that each has its own verdict
		}
		got := make(map[string]map[string]string)
		for _, letter := range r.letters() {
			got[letter["original_id"]] = letter
		}
		for i, c := range list {
			letter, dead := got[fmt.Sprintf("9-%d", i)]
			if dead != (c.Expect == "dead_letter") {
				t.Errorf("%s: dead letter %v, want %s (%v)", c.Name, dead, c.Expect, letter)
				continue
			}
			if !dead {
				continue
			}
			if data, ok := c.Fields["data"]; letter["data"] != data {
				t.Errorf("%s: data is not byte for byte what was sent", c.Name)
			} else if _, kept := letter["data"]; kept != ok {
				t.Errorf("%s: data present %v, want %v", c.Name, kept, ok)
			}
			if _, ok := c.Fields["data"]; !ok && !strings.Contains(letter["fields"], `"payload":"x"`) {
				t.Errorf("%s: fields %q, want the whole entry", c.Name, letter["fields"])
			}
		}
		r.put("10-0", feedback("bars_1", "soft", 0))
		r.settled(len(list) + 1)
		applied := 1
		for _, expect := range want {
			if expect == "apply" {
				applied++
			}
		}
		if r.count.of("success") != applied || r.count.of("error") != len(list)+1-applied {
			t.Errorf("counts %v, want %d applied of %d", r.count.counts, applied, len(list)+1)
		}
	})
}

func TestRecordedEntries(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		src := strings.Replace(standard, "      - handle: {with: test}\n",
			"      - handle: {with: feedback}\n      - rate-apply: {publish: telemetry.rate_adjustment}\n", 1)
		r := start(t, l, src, nil, nil)
		list := captures(t, "feedback.jsonl")
		for range 2 {
			for _, c := range list {
				if err := l.put(c.ID, c.Fields); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.settled(2 * len(list))
		if r.count.of("success") != 10 || r.count.of("duplicate") != 10 || len(r.letters()) != 0 {
			t.Errorf("counts %v, dead letters %v; want 10 success, 10 duplicate", r.count.counts, r.letters())
		}
	})
}

func TestOrderOfAKeyHoldsThroughRetries(t *testing.T) {
	onBothBuses(t, func(t *testing.T, l *line) {
		var mu sync.Mutex
		last := make(map[string]float64)
		failed := make(map[string]bool)
		r := start(t, l, standard, func(_ context.Context, d *stages.Delivery, _ stages.HandleConfig, _ stages.Deps) error {
			mu.Lock()
			defer mu.Unlock()
			if d.Event.Time < last[d.Event.Key] {
				t.Errorf("%s: an older event after a newer one", d.Event.Key)
			}
			// Every third event fails once.
			if n := len(failed); !failed[d.Event.ID] && n%3 == 0 {
				failed[d.Event.ID] = true
				return errors.New("once")
			}
			failed[d.Event.ID] = true
			last[d.Event.Key] = d.Event.Time
			return nil
		}, nil)
		const n = 400
		for i := range n {
			r.put(fmt.Sprintf("7-%d", i), feedback(fmt.Sprintf("c%d", i%16), "ok", i))
		}
		r.settled(n)
		if r.count.of("success") != n || r.count.of("retried") == 0 {
			t.Errorf("counts %v, want %d success with retries", r.count.counts, n)
		}
	})
}
