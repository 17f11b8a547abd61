package rate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// at is a time some seconds after epoch.
func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

// outcome is all that the order of events must not change. What is counted on
// the way (stale ones, evictions) is not part of it.
type outcome struct {
	State        State
	Coordinators []CoordinatorState
}

func outcomeOf(t testing.TB, c *Coordinator) outcome {
	t.Helper()
	all, err := c.Coordinators("p")
	if err != nil {
		t.Fatal(err)
	}
	s := mustState(t, c)
	s.Stale, s.Evicted = 0, 0
	return outcome{s, all}
}

// Any order of a set of events, with any of them repeated, ends in the same
// state, and that is the one that the rules give when applied to the whole set.
func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	const sets, orders = 10_000, 3
	policies := []Policy{DefaultPolicy(), {OK: 1, Soft: 0.25, Hard: 0.125}, {OK: 0.75, Soft: 0.5, Hard: 0}}
	for seed := range uint64(sets) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		config := ProviderConfig{Rate: 64, Burst: 8, MinRate: float64(rnd.IntN(2)), Aggregate: Aggregate(rnd.IntN(2))}
		if rnd.IntN(2) == 0 {
			config.OnSilence = Silence{After: 3 * time.Second, Step: rnd.IntN(2) == 0}
		}
		// Few names and times, so that many events meet.
		events := make([]Adjustment, 1+rnd.IntN(16))
		for i := range events {
			events[i] = Adjustment{
				Provider: "p", Coordinator: string(rune('a' + rnd.IntN(4))), Level: Level(rnd.IntN(levels)),
				Policy: policies[rnd.IntN(len(policies))], Time: at(rnd.IntN(8)),
			}
		}
		forget := rnd.IntN(3) == 0
		later := time.Duration(rnd.IntN(9)) * time.Second

		// run applies the events, sometimes forgets one coordinator, and then
		// repeats some of them: those came no later than what was forgotten.
		run := func(events []Adjustment) *Coordinator {
			clock := newStillClock()
			clock.move(8 * time.Second)
			c := newTestCoordinator(t, clock, config)
			apply := func(a Adjustment) {
				if _, err := c.Apply(a); err != nil {
					t.Fatal(err)
				}
			}
			for _, a := range events {
				apply(a)
			}
			if forget {
				if _, err := c.Forget("p", "a"); err != nil {
					t.Fatal(err)
				}
			}
			for range rnd.IntN(4) {
				apply(events[rnd.IntN(len(events))])
			}
			clock.move(later)
			return c
		}
		want := outcomeOf(t, run(events))
		if level, scale := expected(events, config, forget, at(8).Add(later)); want.State.Level != level ||
			want.State.Scale != scale {
			t.Fatalf("seed %d: %v at scale %v, want %v at %v\nof %+v", seed,
				want.State.Level, want.State.Scale, level, scale, events)
		}
		for range orders {
			shuffled := slices.Clone(events)
			rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			// Tokens may differ: a pause clears them when it comes, not when it ends.
			if diff := cmp.Diff(want, outcomeOf(t, run(shuffled)), cmpopts.IgnoreFields(State{}, "Tokens")); diff != "" {
				t.Fatalf("seed %d: another order ends differently (-first +other):\n%s\nof %+v", seed, diff, events)
			}
		}
	}
}

// expected computes level and scale from a whole set of events, with no regard
// to the way there.
func expected(events []Adjustment, config ProviderConfig, forget bool, now time.Time) (Level, float64) {
	newer := func(a, b Adjustment) bool {
		return a.Time.After(b.Time) || a.Time.Equal(b.Time) && a.Level > b.Level
	}
	last := map[string]Adjustment{}
	policy := events[0]
	for _, e := range events {
		if known, ok := last[e.Coordinator]; !ok || newer(e, known) {
			last[e.Coordinator] = e
		}
		if e.Time.After(policy.Time) || e.Time.Equal(policy.Time) && e.Policy.compare(policy.Policy) < 0 {
			policy = e
		}
	}
	if forget {
		delete(last, "a")
	}
	var newest Adjustment
	var level Level
	for _, e := range last {
		force, _ := config.OnSilence.level(e.Level, e.Time, now)
		switch {
		case config.Aggregate == AggregateWorst:
			level = max(level, force)
		case newest.Time.IsZero() || newer(e, newest):
			newest, level = e, force
		}
	}
	return level, policy.Policy.Scale(level)
}

func TestApplyOrdersByEventTime(t *testing.T) {
	type event struct {
		coordinator string
		level       Level
		at          int
		stale       bool
	}
	tests := []struct {
		name   string
		config ProviderConfig
		events []event
		want   Level
		stale  uint64
	}{
		{name: "nothing said", want: OK},
		{
			name:   "late hard does not override a newer ok",
			events: []event{{"a", OK, 2, false}, {"a", Hard, 1, true}},
			want:   OK, stale: 1,
		},
		{
			name:   "one coordinator's ok does not clear another's hard",
			events: []event{{"a", Hard, 1, false}, {"b", OK, 2, false}},
			want:   Hard,
		},
		{
			name:   "but it does when the last one counts",
			config: ProviderConfig{Aggregate: AggregateLast},
			events: []event{{"a", Hard, 1, false}, {"b", OK, 2, false}},
			want:   OK,
		},
		{
			name:   "the last one by event time",
			config: ProviderConfig{Aggregate: AggregateLast},
			events: []event{{"b", OK, 2, false}, {"a", Hard, 1, false}},
			want:   OK,
		},
		{
			name:   "worse wins at the same time",
			events: []event{{"a", Soft, 1, false}, {"a", Hard, 1, false}, {"a", OK, 1, true}},
			want:   Hard, stale: 1,
		},
		{
			name:   "a repeated event is not stale",
			events: []event{{"a", Soft, 1, false}, {"a", Soft, 1, false}},
			want:   Soft,
		},
		{
			name:   "the empty name is a coordinator",
			events: []event{{"", Soft, 1, false}, {"a", OK, 2, false}},
			want:   Soft,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.config.Rate = 60
			c := newTestCoordinator(t, newStillClock(), tt.config)
			for _, e := range tt.events {
				if got := mustApply(t, c, e.coordinator, e.level, at(e.at)).Stale; got != e.stale {
					t.Errorf("%+v: stale is %v", e, got)
				}
			}
			s := mustState(t, c)
			if s.Level != tt.want || s.Stale != tt.stale {
				t.Errorf("level %v with %d stale, want %v with %d", s.Level, s.Stale, tt.want, tt.stale)
			}
		})
	}
}

func TestEvictionOrder(t *testing.T) {
	type event struct {
		coordinator string
		level       Level
		at          int
	}
	tests := []struct {
		name      string
		aggregate Aggregate
		limit     int
		events    []event
		kept      []string // worst first
		level     Level
	}{
		{
			name: "ok before pressure", limit: 2,
			events: []event{{"a", Hard, 1}, {"b", OK, 5}, {"c", Soft, 2}},
			kept:   []string{"a", "c"}, level: Hard,
		},
		{
			name: "the oldest ok", limit: 2,
			events: []event{{"a", OK, 3}, {"b", OK, 1}, {"c", OK, 2}},
			kept:   []string{"c", "a"}, level: OK,
		},
		{
			name: "soft before hard, though newer", limit: 2,
			events: []event{{"a", Hard, 1}, {"b", Soft, 5}, {"c", Hard, 2}},
			kept:   []string{"a", "c"}, level: Hard,
		},
		{
			name: "the oldest when all are hard", limit: 2,
			events: []event{{"a", Hard, 2}, {"b", Hard, 1}, {"c", Hard, 3}},
			kept:   []string{"a", "c"}, level: Hard,
		},
		{
			name: "the newcomer itself", limit: 1,
			events: []event{{"a", Hard, 1}, {"b", OK, 2}},
			kept:   []string{"a"}, level: Hard,
		},
		{
			name: "an evicted one's older event does not bring it back", limit: 1,
			events: []event{{"a", OK, 2}, {"b", OK, 3}, {"a", Hard, 1}},
			kept:   []string{"b"}, level: OK,
		},
		{
			name: "an evicted one's newer event does", limit: 1,
			events: []event{{"a", OK, 2}, {"b", OK, 3}, {"a", Hard, 4}},
			kept:   []string{"a"}, level: Hard,
		},
		{
			name: "an evicted one's worse event of the same time does", limit: 1,
			events: []event{{"a", OK, 2}, {"b", OK, 3}, {"a", Hard, 2}},
			kept:   []string{"a"}, level: Hard,
		},
		{
			name: "only the newest matters when the last one counts", limit: 1, aggregate: AggregateLast,
			events: []event{{"a", Hard, 1}, {"b", OK, 2}},
			kept:   []string{"b"}, level: OK,
		},
		{
			name: "an older newcomer when the last one counts", limit: 1, aggregate: AggregateLast,
			events: []event{{"b", OK, 2}, {"a", Hard, 1}},
			kept:   []string{"b"}, level: OK,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newTestCoordinator(t, newStillClock(), ProviderConfig{
				Rate: 60, MaxCoordinators: tt.limit, Aggregate: tt.aggregate,
			})
			for _, e := range tt.events {
				mustApply(t, c, e.coordinator, e.level, at(e.at))
			}
			got := outcomeOf(t, c)
			var kept []string
			for _, s := range got.Coordinators {
				kept = append(kept, s.Coordinator)
			}
			if diff := cmp.Diff(tt.kept, kept); diff != "" {
				t.Errorf("kept (-want +got):\n%s", diff)
			}
			if got.State.Level != tt.level {
				t.Errorf("level is %v, want %v", got.State.Level, tt.level)
			}
		})
	}
}

// Evictions are counted and bounded, and never change the provider's level.
func TestManyCoordinators(t *testing.T) {
	const coordinators = 100_000
	for _, aggregate := range []Aggregate{AggregateWorst, AggregateLast} {
		t.Run(aggregate.String(), func(t *testing.T) {
			clock := newStillClock()
			c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60, Aggregate: aggregate})
			p := c.roster.Load().byName["p"]
			rnd := rand.New(rand.NewPCG(3, 4))
			worst, hards := OK, 0
			for i := range coordinators {
				clock.move(time.Millisecond)
				level := OK
				switch {
				case i%1000 == 0:
					level = Hard
					hards++
				case rnd.IntN(2) == 0:
					level = Soft
				}
				worst = max(worst, level)
				s := mustApply(t, c, fmt.Sprint(i), level, clock.now).State
				if want := map[Aggregate]Level{AggregateWorst: worst, AggregateLast: level}[aggregate]; s.Level != want {
					t.Fatalf("after %d: level %v, want %v", i, s.Level, want)
				}
				if s.Coordinators > DefaultMaxCoordinators || len(p.holdings.gone) > DefaultMaxCoordinators {
					t.Fatalf("after %d: %d held, %d remembered", i, s.Coordinators, len(p.holdings.gone))
				}
			}
			s := mustState(t, c)
			if s.Coordinators != DefaultMaxCoordinators || s.Evicted != coordinators-DefaultMaxCoordinators {
				t.Errorf("%d held, %d evicted", s.Coordinators, s.Evicted)
			}
			if got := len(p.holdings.byAge[Hard].items); aggregate == AggregateWorst && got != hards {
				t.Errorf("%d of %d hard ones are held", got, hards)
			}
		})
	}
}

func TestForget(t *testing.T) {
	for _, aggregate := range []Aggregate{AggregateWorst, AggregateLast} {
		t.Run(aggregate.String(), func(t *testing.T) {
			c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60, Aggregate: aggregate})
			forget := func(name string, want bool) {
				t.Helper()
				if got, err := c.Forget("p", name); got != want || err != nil {
					t.Fatalf("forget %q: %v, %v, want %v", name, got, err, want)
				}
			}
			level := func(want Level) {
				t.Helper()
				if got := mustState(t, c).Level; got != want {
					t.Fatalf("level is %v, want %v", got, want)
				}
			}
			forget("a", false)
			mustApply(t, c, "b", Soft, at(1))
			mustApply(t, c, "a", Hard, at(5))
			level(Hard)
			forget("a", true)
			level(Soft)
			forget("a", false)
			for _, s := range []signal{{Hard, at(5)}, {OK, at(5)}, {Hard, at(4)}} {
				if !mustApply(t, c, "a", s.level, s.time).Stale {
					t.Errorf("%v at %v is not stale", s.level, s.time)
				}
				level(Soft)
			}
			if r := mustApply(t, c, "a", Hard, at(6)); r.Stale || !r.Changed {
				t.Errorf("a newer event of a forgotten coordinator: %+v", r)
			}
			level(Hard)
		})
	}
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60, MaxCoordinators: 2})
	for i := range 100 {
		name := fmt.Sprint(i)
		mustApply(t, c, name, Soft, at(i-200))
		if _, err := c.Forget("p", name); err != nil {
			t.Fatal(err)
		}
	}
	if h := c.roster.Load().byName["p"].holdings; len(h.gone) != 2 || h.goneLog.Len() != 2 {
		t.Errorf("%d and %d forgotten ones remembered, want 2", len(h.gone), h.goneLog.Len())
	}
}

func TestLongNamesAreBounded(t *testing.T) {
	c := newTestCoordinator(t, newStillClock(), ProviderConfig{Rate: 60})
	fits, long := strings.Repeat("n", maxName), strings.Repeat("n", 1<<20)
	mustApply(t, c, fits, Soft, at(1))
	mustApply(t, c, long, Hard, at(1))
	mustApply(t, c, long+"!", Hard, at(1))
	all := outcomeOf(t, c).Coordinators
	if len(all) != 3 || all[2].Coordinator != fits {
		t.Fatalf("%d coordinators, want 3 and the short name as it is", len(all))
	}
	listed := all[0].Coordinator
	if len(listed) > maxName {
		t.Errorf("a name of %d bytes is kept", len(listed))
	}
	if ok, err := c.Forget("p", listed); !ok || err != nil {
		t.Errorf("forget by the listed name: %v, %v", ok, err)
	}
	for _, name := range []string{long, long + "!"} {
		if _, err := c.Forget("p", name); err != nil {
			t.Fatal(err)
		}
	}
	if s := mustState(t, c); s.Level != Soft {
		t.Errorf("level is %v after forgetting the hard ones by name", s.Level)
	}
}
