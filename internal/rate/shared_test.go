package rate

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// mergeAll exchanges all that two coordinators know.
func mergeAll(t *testing.T, to, from *Coordinator) {
	t.Helper()
	records, err := from.Records("p")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.Merge("p", records); err != nil {
		t.Fatal(err)
	}
}

// Events that several coordinators share out in any way, with coordinators forgotten
// on the way, end in one state once the coordinators have exchanged what they know,
// in any order and more than once. Without forgetting that is the state of one that
// got them all.
func TestMergesConverge(t *testing.T) {
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		config := ProviderConfig{Rate: 64, Burst: 8, MinRate: 1, Aggregate: Aggregate(rnd.IntN(2))}
		if rnd.IntN(2) == 0 {
			config.OnSilence = Silence{After: 3 * time.Second, Step: rnd.IntN(2) == 0}
		}
		clock := newStillClock()
		clock.move(8 * time.Second)
		whole := newTestCoordinator(t, clock, config)
		parts := make([]*Coordinator, 2+rnd.IntN(2))
		for i := range parts {
			parts[i] = newTestCoordinator(t, clock, config)
		}
		forgets := rnd.IntN(2) == 0
		for range 1 + rnd.IntN(24) {
			name, level, when := string(rune('a'+rnd.IntN(4))), Level(rnd.IntN(levels)), at(rnd.IntN(8))
			part := parts[rnd.IntN(len(parts))]
			mustApply(t, part, name, level, when)
			mustApply(t, whole, name, level, when)
			if rnd.IntN(3) == 0 {
				mergeAll(t, parts[rnd.IntN(len(parts))], part)
			}
			if forgets && rnd.IntN(4) == 0 {
				if _, err := part.Forget("p", name); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 2 {
			for _, i := range rnd.Perm(len(parts)) {
				for _, j := range rnd.Perm(len(parts)) {
					mergeAll(t, parts[i], parts[j])
				}
			}
		}
		want := outcomeOf(t, parts[0])
		if !forgets {
			want = outcomeOf(t, whole)
		}
		for i, p := range parts {
			if diff := cmp.Diff(want, outcomeOf(t, p)); diff != "" {
				t.Fatalf("seed %d, part %d (-want +got):\n%s", seed, i, diff)
			}
		}
	}
}

// A coordinator that is forgotten in one place does not come back from another that
// still held it, nor with a repeated event; a newer event brings it back everywhere.
func TestMergeDoesNotBringBackTheForgotten(t *testing.T) {
	clock := newStillClock()
	a, b := newTestCoordinator(t, clock, ProviderConfig{Rate: 8}), newTestCoordinator(t, clock, ProviderConfig{Rate: 8})
	mustApply(t, a, "x", Hard, at(0))
	mergeAll(t, b, a)
	if held, err := a.Forget("p", "x"); !held || err != nil {
		t.Fatal(held, err)
	}
	mergeAll(t, a, b)
	if s := mustState(t, a); s.Level != OK {
		t.Errorf("forgotten, and back at %v", s.Level)
	}
	mergeAll(t, b, a)
	if s := mustState(t, b); s.Level != OK || s.Coordinators != 0 {
		t.Errorf("forgotten elsewhere, and still %+v", s)
	}
	if r := mustApply(t, b, "x", Hard, at(0)); !r.Stale || r.State.Level != OK {
		t.Errorf("a repeated event: %+v", r)
	}
	mustApply(t, b, "x", Soft, at(1))
	mergeAll(t, a, b)
	if s := mustState(t, a); s.Level != Soft {
		t.Errorf("a newer event: %v, want soft", s.Level)
	}
}

func TestChangesFollowWhatIsKnown(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 8, MaxCoordinators: 2})
	take := func(n int) []Record {
		t.Helper()
		list, err := c.Changes("p", n)
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(list, func(a, b Record) int { return strings.Compare(a.Coordinator, b.Coordinator) })
		return list
	}
	expect := func(what string, got []Record, want ...Record) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	mustApply(t, c, "early", Hard, at(0))
	if c.Changed() || len(take(-1)) != 0 {
		t.Error("a change without a journal")
	}
	c.Journal()
	for i := range 5 { // folded: only the last one is told
		mustApply(t, c, "a", Level(i%2), at(i))
	}
	if !c.Changed() {
		t.Error("not changed")
	}
	first := take(-1)
	expect("many events of one", first, Record{Coordinator: "a", Level: OK, Time: at(4)})
	if c.Changed() {
		t.Error("changed after all was taken")
	}
	mustApply(t, c, "a", Soft, at(9))
	if err := c.PutBack("p", first); err != nil {
		t.Fatal(err)
	}
	expect("put back, and changed since", take(-1), Record{Coordinator: "a", Level: Soft, Time: at(9)})
	mustApply(t, c, "a", Hard, at(9))
	mustApply(t, c, "b", Soft, at(9)) // the third
	expect("an eviction", take(-1),
		Record{Coordinator: "a", Level: Hard, Time: at(9)}, Record{Coordinator: "b", Level: Soft, Time: at(9), Gone: true})
	for i := range 3 {
		mustApply(t, c, fmt.Sprint("c", i), OK, at(i))
	}
	expect("the longest gone is dropped", take(-1),
		Record{Coordinator: "b", Level: Soft, Time: at(9), Gone: true, Dropped: true},
		Record{Coordinator: "c0", Level: OK, Time: at(0), Gone: true, Dropped: true},
		Record{Coordinator: "c1", Level: OK, Time: at(1), Gone: true},
		Record{Coordinator: "c2", Level: OK, Time: at(2), Gone: true})
	mustApply(t, c, "a", OK, at(20))
	if n := len(take(0)); n != 0 {
		t.Errorf("%d of none", n)
	}
	if _, err := c.Merge("p", []Record{{Coordinator: "a", Level: Soft, Time: at(30)}}); err != nil {
		t.Fatal(err)
	}
	if c.Changed() {
		t.Error("what came from outside is told to it")
	}
	if _, err := c.Merge("p", []Record{{Coordinator: "z", Level: levels, Time: at(90)}, {Coordinator: "z"}}); err != nil || mustState(t, c).Coordinators != 2 {
		t.Error("a record that is none was merged", err)
	}
}

// However many coordinators come, what is known and what is journalled stay bounded.
func TestMergeIsBounded(t *testing.T) {
	const limit = 10
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 8, MaxCoordinators: limit})
	c.Journal()
	for i := range 1000 {
		if _, err := c.Merge("p", []Record{
			{Coordinator: fmt.Sprint("x", i), Level: Level(i % levels), Time: at(i)},
			{Coordinator: fmt.Sprint("y", i), Time: at(i), Gone: true},
		}); err != nil {
			t.Fatal(err)
		}
	}
	records, err := c.Records("p")
	if err != nil || len(records) > 2*limit {
		t.Errorf("%d records, %v", len(records), err)
	}
	changes, err := c.Changes("p", -1)
	if err != nil || len(changes) > 4*limit {
		t.Errorf("%d changes, %v", len(changes), err)
	}
	if s := mustState(t, c); s.Level != Hard || s.Coordinators != limit {
		t.Errorf("%+v", s)
	}
}

// Nothing is granted during a hold; then who waits is served in the order of calls,
// at the rate that was restored.
func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCoordinator(t, nil, ProviderConfig{Rate: 1, Burst: 3})
		c.Hold()
		if ok, after, err := c.TryAcquire("p", 1); ok || after <= 0 || err != nil {
			t.Errorf("try: %v, %v, %v", ok, after, err)
		}
		begin := time.Now()
		got := make(chan int, 3)
		for i := range 3 {
			go func() {
				if err := c.Acquire(context.Background(), "p", 1); err != nil {
					t.Error(err)
				}
				got <- i
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := c.Acquire(ctx, "p", 1); err == nil {
			t.Error("granted on hold")
		}
		time.Sleep(time.Hour)
		if len(got) != 0 || !mustState(t, c).OnHold {
			t.Error("granted on hold")
		}
		if _, err := c.Merge("p", []Record{{Coordinator: "a", Level: Hard, Time: begin}}); err != nil {
			t.Fatal(err)
		}
		c.Release()
		synctest.Wait()
		if len(got) != 0 {
			t.Errorf("%d granted at a restored hard", len(got))
		}
		mustApply(t, c, "a", OK, time.Now())
		for i := range 3 {
			if n := <-got; n != i {
				t.Errorf("%d served in place %d", n, i)
			}
		}
		if took := time.Since(begin); took != time.Hour+time.Second+3*time.Second {
			t.Errorf("served after %v", took)
		}
	})
}

// A burst of old events never lowers the rate when it ends well, and lowers it once
// when it does not; a fresh event takes effect at once.
func TestFolding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := NewCoordinator(Config{
			Providers: []ProviderConfig{{Name: "p", Rate: 8}}, Folding: Folding{Older: time.Second, Within: 20 * time.Millisecond},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var rates []float64
		done := make(chan struct{})
		go func() {
			defer close(done)
			for s := range c.Watch(ctx) {
				rates = append(rates, s.EffectiveRate)
			}
		}()
		synctest.Wait()
		long := time.Now().Add(-time.Hour)
		for i := range 100 {
			r := mustApply(t, c, "a", Level(2-i%3), long.Add(time.Duration(i)*time.Second))
			if want := DefaultPolicy().Scale(Level(2 - i%3)); r.State.Scale != want {
				t.Fatalf("scale %v, want %v", r.State.Scale, want)
			}
			synctest.Wait()
		}
		mustApply(t, c, "a", OK, long.Add(time.Minute*50))
		time.Sleep(time.Second)
		synctest.Wait()
		mustApply(t, c, "a", Hard, long.Add(time.Minute*51))
		time.Sleep(time.Second)
		synctest.Wait()
		mustApply(t, c, "b", Soft, time.Now())
		mustApply(t, c, "a", OK, time.Now())
		synctest.Wait()
		cancel()
		<-done
		if diff := cmp.Diff([]float64{8, 0, 4}, rates); diff != "" {
			t.Errorf("rates (-want +got):\n%s", diff)
		}
	})
}
