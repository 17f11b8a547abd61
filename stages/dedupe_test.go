package stages

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
)

const at = 1795556873.5

func TestDedupeStopsWhatSucceeded(t *testing.T) {
	var ran atomic.Int64
	b := start(t, Builtin(), "      - dedupe\n", func(*message.Message) error { ran.Add(1); return nil })
	if r := b.send("1-0", feedback("a", "ok", at)); r.outcome != OutcomeSuccess || r.err != nil {
		t.Fatalf("first: %+v", r)
	}
	if r := b.send("1-0", feedback("a", "ok", at)); r.outcome != OutcomeDuplicate || r.err != nil {
		t.Fatalf("second: %+v", r)
	}
	if r := b.send("2-0", feedback("a", "ok", at)); r.outcome != OutcomeSuccess || r.err != nil {
		t.Fatalf("other id: %+v", r)
	}
	if ran.Load() != 2 {
		t.Errorf("handled %d times, want 2", ran.Load())
	}
}

func TestDedupeReleasesWhatFailed(t *testing.T) {
	failure := errors.New("downstream")
	for name, fail := range map[string]func() error{
		"error": func() error { return failure },
		"panic": func() error { panic("boom") },
	} {
		t.Run(name, func(t *testing.T) {
			first := true
			s, err := (&DedupeConfig{Key: "id", Capacity: 10}).Build(Deps{Clock: newTestClock()})
			if err != nil {
				t.Fatal(err)
			}
			h := s.Middleware(func(*message.Message) ([]*message.Message, error) {
				if first {
					first = false
					return nil, fail()
				}
				return nil, nil
			})
			deliver := func() (d *Delivery, err error) {
				msg := message.NewMessage("1-0", nil)
				d = &Delivery{Context: context.Background(), Event: &event.Event{ID: "1-0"}}
				msg.SetContext(d)
				defer func() {
					if recover() != nil {
						err = failure
					}
				}()
				_, err = h(msg)
				return d, err
			}
			if _, err := deliver(); !errors.Is(err, failure) {
				t.Fatalf("first delivery: %v, want the failure unchanged", err)
			}
			if d, err := deliver(); err != nil || d.Outcome != OutcomeSuccess {
				t.Fatalf("redelivery after a failure: outcome %v, %v; want success", d.Outcome, err)
			}
			if d, err := deliver(); err != nil || d.Outcome != OutcomeDuplicate {
				t.Fatalf("redelivery after a success: outcome %v, %v; want duplicate", d.Outcome, err)
			}
		})
	}
}

func TestDedupeForgetsAfterTTL(t *testing.T) {
	b := start(t, Builtin(), "      - dedupe: {ttl: 10m}\n", nil)
	b.send("1-0", feedback("a", "ok", at))
	b.clock.advance(10*time.Minute - time.Nanosecond)
	if r := b.send("1-0", feedback("a", "ok", at)); r.outcome != OutcomeDuplicate {
		t.Errorf("within the ttl: %v, want duplicate", r.outcome)
	}
	b.clock.advance(time.Nanosecond)
	if r := b.send("1-0", feedback("a", "ok", at)); r.outcome != OutcomeSuccess {
		t.Errorf("after the ttl: %v, want success", r.outcome)
	}
}

func TestDedupeKeys(t *testing.T) {
	hashed := func(hash string) string {
		return strings.Replace(feedback("a", "ok", at), `"hash": null`, `"hash": "`+hash+`"`, 1)
	}
	for _, tt := range []struct {
		name, key     string
		first, second [2]string // id, data
		same          bool
	}{
		{"id same", "id", [2]string{"1-0", feedback("a", "ok", at)}, [2]string{"1-0", feedback("b", "ok", at)}, true},
		{"id other", "id", [2]string{"1-0", feedback("a", "ok", at)}, [2]string{"1-1", feedback("a", "ok", at)}, false},
		{"hash same", "hash", [2]string{"1-0", hashed("aa")}, [2]string{"1-1", hashed("aa")}, true},
		{"hash other", "hash", [2]string{"1-0", hashed("aa")}, [2]string{"1-1", hashed("bb")}, false},
		{
			"no hash falls back to payload", "hash",
			[2]string{"1-0", feedback("a", "ok", at)},
			[2]string{"1-1", feedback("a", "soft", at)},
			false,
		},
		{"payload same", "payload", [2]string{"1-0", hashed("aa")}, [2]string{"1-1", hashed("bb")}, true},
		{
			"template same", `"{key}/{schema}/{track}/{header.reason}/{hash}"`,
			[2]string{"1-0", hashed("aa")},
			[2]string{"1-1", strings.Replace(hashed("aa"), `"ok"`, `"hard"`, 1)},
			true,
		},
		{
			"template other", `"{key}"`,
			[2]string{"1-0", feedback("a", "ok", at)},
			[2]string{"1-1", feedback("b", "ok", at)},
			false,
		},
		{
			"template id and ts", `"{id} {ts}"`,
			[2]string{"1-0", feedback("a", "ok", at)},
			[2]string{"1-0", feedback("a", "ok", at+1)},
			false,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := start(t, Builtin(), "      - dedupe: {key: "+tt.key+"}\n", nil)
			b.send(tt.first[0], tt.first[1])
			got := b.send(tt.second[0], tt.second[1]).outcome == OutcomeDuplicate
			if got != tt.same {
				t.Errorf("duplicate = %v, want %v", got, tt.same)
			}
		})
	}
}

func TestDedupeWithoutTheFieldsOfItsTemplate(t *testing.T) {
	b := start(t, Builtin(), "      - dedupe: {key: \"{header.request}\"}\n", nil)
	for i := range 3 {
		if r := b.send(fmt.Sprintf("%d-0", i), feedback("a", "ok", at)); r.outcome != OutcomeSuccess {
			t.Errorf("event %d: %v, want success: it has no request to be known by", i, r.outcome)
		}
	}
}

func TestDedupeKeyErrors(t *testing.T) {
	for key, want := range map[string]string{
		"ids":         "flows.yaml:8:23: flow \"feedback\": stage 1 (dedupe): key: must be id, hash, payload or a template",
		`"{idd}"`:     "unknown field {idd}; fields: hash, header.NAME, id, key, schema, track, ts",
		"payload.nr":  "such as {key}/{ts}; for a member of the payload, put a stage map: {key: payload.NAME} in front and write {key}",
		`"{nr}"`:      "key, schema, track, ts; for a member of the payload, put a stage map: {key: payload.NAME} in front and write {key}",
		`"{id"`:       "a brace is not closed",
		`"{}"`:        "unknown field {}",
		`"{header.}"`: "unknown field {header.}",
	} {
		_, d := resolve(t, Builtin(), file("      - dedupe: {key: "+key+"}\n"))
		if !strings.Contains(d.String(), want) {
			t.Errorf("key %s: %q, want it to contain %q", key, d, want)
		}
	}
}

func TestMemoryStoreEvictsLeastRecentlyUsed(t *testing.T) {
	ctx := context.Background()
	s, err := NewMemoryStore(2, 0, newTestClock())
	if err != nil {
		t.Fatal(err)
	}
	commit := func(key string) {
		t.Helper()
		if fresh, err := s.Reserve(ctx, key); err != nil || !fresh {
			t.Fatalf("reserve %s: %v, %v; want a new key", key, fresh, err)
		}
		if err := s.Commit(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	commit("a")
	commit("b")
	if fresh, _ := s.Reserve(ctx, "a"); fresh { // a is now the more recently used
		t.Fatal("a is forgotten")
	}
	commit("c")
	if fresh, _ := s.Reserve(ctx, "a"); fresh {
		t.Error("a was evicted, and b was the least recently used")
	}
	if fresh, _ := s.Reserve(ctx, "b"); !fresh {
		t.Error("b was kept beyond the capacity")
	}
	if n := s.Len(); n != 2 {
		t.Errorf("holds %d keys, want 2", n)
	}
}

func TestMemoryStoreWaitsForTheHolder(t *testing.T) {
	for _, tt := range []struct {
		name  string
		end   func(*MemoryStore)
		fresh bool
	}{
		{"committed", func(s *MemoryStore) { _ = s.Commit(context.Background(), "k") }, false},
		{"released", func(s *MemoryStore) { s.Release("k") }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, err := NewMemoryStore(10, 0, SystemClock{})
				if err != nil {
					t.Fatal(err)
				}
				if fresh, err := s.Reserve(t.Context(), "k"); !fresh || err != nil {
					t.Fatal("first reserve refused")
				}
				got := make(chan bool, 2)
				for range 2 {
					go func() {
						fresh, _ := s.Reserve(t.Context(), "k")
						got <- fresh
						if fresh {
							_ = s.Commit(t.Context(), "k")
						}
					}()
				}
				synctest.Wait()
				if len(got) != 0 {
					t.Fatal("reserve returned while the key was in progress")
				}
				tt.end(s)
				first, second := <-got, <-got
				if (first || second) != tt.fresh || first && second {
					t.Errorf("waiters got %v and %v; exactly one is fresh: %v", first, second, tt.fresh)
				}
			})
		})
	}
}

func TestMemoryStoreWaitEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewMemoryStore(10, 0, SystemClock{})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Reserve(t.Context(), "k")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Reserve(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want the context's", err)
		}
		s.Release("k")
	})
}

func TestMemoryStoreRefusesNoCapacity(t *testing.T) {
	if _, err := NewMemoryStore(0, 0, SystemClock{}); err == nil {
		t.Error("a store without capacity was made")
	}
}

// The keys of a flow go on in the one that takes its place; what a handler left behind
// still holds does not.
func TestMemoryStoreInherits(t *testing.T) {
	for _, capacity := range []int{3, 2, 5} { // as the former's, fewer, more
		t.Run(strconv.Itoa(capacity), func(t *testing.T) {
			ctx := context.Background()
			former, err := NewMemoryStore(3, 0, newTestClock())
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"1", "2", "3", "left"} {
				if fresh, err := former.Reserve(ctx, key); !fresh || err != nil {
					t.Fatalf("%s: fresh %t, %v", key, fresh, err)
				}
			}
			for _, key := range []string{"1", "2", "3"} {
				if err := former.Commit(ctx, key); err != nil {
					t.Fatal(err)
				}
			}
			s, err := NewMemoryStore(capacity, 0, newTestClock())
			if err != nil {
				t.Fatal(err)
			}
			s.inherit(former)
			if got, want := s.Len(), min(capacity, 3); got != want {
				t.Errorf("%d keys, want %d", got, want)
			}
			for _, key := range []string{"left", "2", "3"} {
				fresh, err := s.Reserve(ctx, key)
				if err != nil || fresh != (key == "left") {
					t.Errorf("%s: fresh %t, %v", key, fresh, err)
				}
			}
			former.Release("left")
			if err := former.Commit(ctx, "late"); err != nil {
				t.Fatal(err)
			}
			if fresh, err := s.Reserve(ctx, "late"); !fresh || err != nil {
				t.Errorf("what the former commits later is known: %v", err)
			}
		})
	}
}

// A store does what one does that keeps a list, whatever is asked of it in whatever order.
func TestMemoryStoreAgreesWithAModel(t *testing.T) {
	for _, capacity := range []int{1, 2, 5} {
		for _, ttl := range []time.Duration{0, 10 * time.Second} {
			t.Run(fmt.Sprintf("%d keys for %v", capacity, ttl), func(t *testing.T) {
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				rng, clock := rand.New(rand.NewPCG(uint64(capacity), uint64(ttl))), newTestClock()
				s, err := NewMemoryStore(capacity, ttl, clock)
				if err != nil {
					t.Fatal(err)
				}
				m := &modelStore{capacity: capacity, ttl: ttl, clock: clock, reserved: make(map[string]bool)}
				for i := range 20_000 {
					key := strconv.Itoa(rng.IntN(2 * (capacity + 1)))
					var did string
					switch n := rng.IntN(100); {
					case n < 50:
						did = "reserve " + key
						fresh, err := s.Reserve(ended, key)
						if wantFresh, waits := m.reserve(key); fresh != wantFresh || (err != nil) != waits {
							t.Fatalf("%d, %s: %t, %v; want %t, waits %t", i, did, fresh, err, wantFresh, waits)
						}
					case n < 75:
						did = "commit " + key // often one that nobody has reserved
						_ = s.Commit(ended, key)
						m.commit(key, clock.Now())
					case n < 95:
						did = "release " + key
						s.Release(key)
						delete(m.reserved, key)
					case n < 99:
						did = "wait"
						clock.advance(time.Duration(rng.IntN(5000)) * time.Millisecond)
					default:
						did = "inherit"
						heir, err := NewMemoryStore(1+rng.IntN(capacity+1), ttl, clock)
						if err != nil {
							t.Fatal(err)
						}
						heir.inherit(s)
						s.sound(t)
						m.inheritWith(heir.capacity)
						s = heir
					}
					s.sound(t)
					if s.Len() != len(m.committed) || len(s.marks) != len(m.committed)+len(m.reserved) {
						t.Fatalf("%d, %s: %d keys committed of %d, want %d of %d", i, did, s.Len(), len(s.marks),
							len(m.committed), len(m.committed)+len(m.reserved))
					}
				}
			})
		}
	}
}

// sound fails the test unless the ring and the table have the same committed marks.
func (s *MemoryStore) sound(t *testing.T) {
	t.Helper()
	n := 0
	for m := s.recent.next; m != s.recent; m = m.next {
		if n++; m.next.previous != m || s.marks[m.key] != m || m.ended != nil || n > s.committed {
			t.Fatalf("mark %d of %d, of key %q, is not as it should be: %+v", n, s.committed, m.key, *m)
		}
	}
	if n != s.committed || s.spare != nil && *s.spare != (mark{}) {
		t.Fatalf("%d marks of %d, spare %+v", n, s.committed, s.spare)
	}
}

// modelStore is a MemoryStore at its simplest.
type modelStore struct {
	capacity  int
	ttl       time.Duration
	clock     Clock
	reserved  map[string]bool
	committed []modelMark // the least recently used first
}

type modelMark struct {
	key string
	at  time.Time
}

// take removes a committed key.
func (m *modelStore) take(key string) (mark modelMark, ok bool) {
	i := slices.IndexFunc(m.committed, func(c modelMark) bool { return c.key == key })
	if i < 0 {
		return mark, false
	}
	mark = m.committed[i]
	m.committed = slices.Delete(m.committed, i, i+1)
	return mark, true
}

func (m *modelStore) reserve(key string) (fresh, waits bool) {
	if m.reserved[key] {
		return false, true
	}
	if mark, ok := m.take(key); ok && (m.ttl == 0 || m.clock.Now().Sub(mark.at) < m.ttl) {
		m.committed = append(m.committed, mark)
		return false, false
	}
	m.reserved[key] = true
	return true, false
}

func (m *modelStore) commit(key string, at time.Time) {
	delete(m.reserved, key)
	m.take(key)
	m.committed = append(m.committed, modelMark{key, at})
	m.trim()
}

func (m *modelStore) trim() { m.committed = m.committed[max(0, len(m.committed)-m.capacity):] }

// inheritWith makes it the store of another capacity that takes its place.
func (m *modelStore) inheritWith(capacity int) {
	m.capacity = capacity
	clear(m.reserved)
	m.trim()
}

// Many events of few keys at once: each key is handled by one at a time, and by none once it was.
func TestMemoryStoreManyAtOnce(t *testing.T) {
	const keys, each = 20, 50
	s, err := NewMemoryStore(keys, 0, SystemClock{})
	if err != nil {
		t.Fatal(err)
	}
	var running, handled [keys]atomic.Int32
	var wg sync.WaitGroup
	for i := range keys * each {
		wg.Go(func() {
			key := i % keys
			fresh, err := s.Reserve(t.Context(), strconv.Itoa(key))
			if err != nil {
				t.Error(err)
			}
			if !fresh {
				return
			}
			if running[key].Add(1) != 1 || handled[key].Load() != 0 {
				t.Errorf("key %d runs twice", key)
			}
			runtime.Gosched()
			running[key].Add(-1)
			if i/keys%3 != 0 { // else the last of them may have none to commit
				s.Release(strconv.Itoa(key))
				return
			}
			handled[key].Add(1)
			_ = s.Commit(t.Context(), strconv.Itoa(key))
		})
	}
	wg.Wait()
	s.sound(t)
	for key := range handled {
		if n := handled[key].Load(); n != 1 {
			t.Errorf("key %d was handled %d times", key, n)
		}
	}
}

// A key that a producer has made long costs as little memory as others, and is told from one that begins the same.
func TestDedupeKeepsDigestsOfLongKeys(t *testing.T) {
	stage, err := (&DedupeConfig{Key: "hash", Capacity: 10}).Build(Deps{Clock: newTestClock()})
	if err != nil {
		t.Fatal(err)
	}
	handle := stage.Middleware(func(*message.Message) ([]*message.Message, error) { return nil, nil })
	long := strings.Repeat("a", 100_000)
	for i, tt := range []struct {
		hash string
		want Outcome
	}{{long, OutcomeSuccess}, {long, OutcomeDuplicate}, {long + "b", OutcomeSuccess}, {"a", OutcomeSuccess}} {
		d := &Delivery{Context: t.Context(), Event: &event.Event{Hash: tt.hash}}
		msg := message.NewMessage("", nil)
		msg.SetContext(d)
		if _, err := handle(msg); err != nil || d.Outcome != tt.want {
			t.Errorf("event %d: %v, %v, want %v", i, d.Outcome, err, tt.want)
		}
	}
	for key := range stage.(*dedupe).seen.(*MemoryStore).marks {
		if len(key) > maxKey {
			t.Errorf("a key of %d bytes is kept", len(key))
		}
	}
}

// After a reload that failed there are two former stores, the newer of which knows less
// or more.
func TestMemoryStoreInheritsFromSeveral(t *testing.T) {
	for _, capacity := range []int{2, 4, 6} { // of the newer one, whose heir has room for four
		t.Run(strconv.Itoa(capacity), func(t *testing.T) {
			ctx := context.Background()
			stores := make([]*MemoryStore, 3)
			for i, c := range []int{4, capacity, 4} {
				var err error
				if stores[i], err = NewMemoryStore(c, 0, newTestClock()); err != nil {
					t.Fatal(err)
				}
			}
			commit := func(s *MemoryStore, keys ...string) {
				for _, key := range keys {
					if err := s.Commit(ctx, key); err != nil {
						t.Fatal(err)
					}
				}
			}
			commit(stores[0], "1", "2", "3", "4")
			stores[1].inherit(stores[0])
			commit(stores[1], "5", "3")
			stores[2].inherit(stores[0])
			stores[2].inherit(stores[1])
			commit(stores[2], "6")
			if got := stores[2].Len(); got != 4 {
				t.Errorf("%d keys, want 4", got)
			}
			for _, key := range []string{"4", "5", "3", "6"} {
				// 4 is one that the newer one had to forget, where it has room for two.
				if fresh, err := stores[2].Reserve(ctx, key); fresh || err != nil {
					t.Errorf("%s is not known: %v", key, err)
				}
			}
		})
	}
}

// A stage is known by its settings first, and then by its place among its kind.
func TestInheritFindsTheStage(t *testing.T) {
	build := func(settings ...string) []Named {
		var list []Named
		for _, s := range settings {
			ttl, key, _ := strings.Cut(s, " ")
			d, err := time.ParseDuration(ttl)
			if err != nil {
				t.Fatal(err)
			}
			config := &DedupeConfig{Key: cmp.Or(key, "id"), Capacity: 10, TTL: d, Store: "memory"}
			stage, err := config.Build(Deps{Clock: newTestClock()})
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, Named{Kind: "dedupe", Stage: stage, Config: config})
		}
		return list
	}
	for _, tt := range []struct {
		name          string
		former, built []string
		want          []string // what each knows: the former one's settings
	}{
		{"as they were", []string{"1m", "2m"}, []string{"1m", "2m"}, []string{"1m", "2m"}},
		{"reordered", []string{"1m", "2m"}, []string{"2m", "1m"}, []string{"2m", "1m"}},
		{"one before it", []string{"1m"}, []string{"5m", "1m"}, []string{"", "1m"}},
		{"one of two gone", []string{"1m", "2m"}, []string{"2m"}, []string{"2m"}},
		{"one changed", []string{"1m", "2m"}, []string{"1m", "5m"}, []string{"1m", "2m"}},
		{"reordered and changed", []string{"1m", "2m"}, []string{"2m", "5m"}, []string{"2m", "1m"}},
		{"other keys", []string{"1m", "2m hash"}, []string{"5m hash", "5m payload"}, []string{"2m hash", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			former, built := build(tt.former...), build(tt.built...)
			for i, f := range former {
				if err := f.Stage.(*dedupe).seen.Commit(context.Background(), tt.former[i]); err != nil {
					t.Fatal(err)
				}
			}
			Inherit(built, former)
			for i, n := range built {
				for _, f := range tt.former {
					fresh, err := n.Stage.(*dedupe).seen.Reserve(context.Background(), f)
					if err != nil || fresh == (f == tt.want[i]) {
						t.Errorf("stage %d (%s) knows of %s: %t, %v", i+1, tt.built[i], f, !fresh, err)
					}
				}
			}
		})
	}
}

func BenchmarkMemoryStore(b *testing.B) {
	s, err := NewMemoryStore(10_000, 10*time.Minute, SystemClock{})
	if err != nil {
		b.Fatal(err)
	}
	keys := make([]string, 50_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("1795556873490-%d", i)
	}
	ctx := context.Background()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		key := keys[i%len(keys)]
		if fresh, _ := s.Reserve(ctx, key); fresh {
			_ = s.Commit(ctx, key)
		}
	}
}
