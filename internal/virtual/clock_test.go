package virtual

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/stages"
)

var (
	_ stages.Clock = (*Clock)(nil)
	_ rate.Clock   = (*Clock)(nil)
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// journal notes what fires and at which time of its clock.
type journal struct {
	clock *Clock
	lines []string
}

func newJournal() *journal { return &journal{clock: New(start)} }

func (j *journal) note(name string) func() {
	return func() { j.lines = append(j.lines, fmt.Sprint(name, " ", j.clock.Now().Sub(start))) }
}

func (j *journal) expect(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, j.lines); diff != "" {
		t.Errorf("fired (-want +got):\n%s", diff)
	}
	j.lines = nil
}

func TestTimersFireInOrderAtTheirTime(t *testing.T) {
	j := newJournal()
	j.clock.AfterFunc(3*time.Second, j.note("late"))
	j.clock.AfterFunc(time.Second, j.note("first"))
	j.clock.AfterFunc(time.Second, j.note("second"))
	j.clock.AfterFunc(time.Second, j.note("third"))
	j.clock.Advance(2 * time.Second)
	j.expect(t, "first 1s", "second 1s", "third 1s")
	if got := j.clock.Now(); !got.Equal(start.Add(2 * time.Second)) {
		t.Errorf("now %v", got)
	}
	j.clock.AdvanceTo(start.Add(3 * time.Second))
	j.expect(t, "late 3s")
	j.clock.Advance(time.Hour)
	j.expect(t)
}

func TestWhatIsSetMeanwhileFiresToo(t *testing.T) {
	j := newJournal()
	j.clock.AfterFunc(time.Second, func() {
		j.note("outer")()
		j.clock.AfterFunc(time.Second, j.note("inner"))
		j.clock.AfterFunc(0, j.note("at once"))
		j.clock.AfterFunc(time.Minute, j.note("too late"))
	})
	j.clock.AfterFunc(1500*time.Millisecond, j.note("between"))
	j.clock.Advance(10 * time.Second)
	j.expect(t, "outer 1s", "at once 1s", "between 1.5s", "inner 2s")
}

func TestNothingFiresWithoutAdvance(t *testing.T) {
	j := newJournal()
	for _, d := range []time.Duration{0, -time.Second} {
		timer := j.clock.AfterFunc(d, j.note("due"))
		j.expect(t)
		j.clock.Advance(0)
		j.expect(t, "due 0s")
		if timer.Reset(d) {
			t.Error("a fired timer was pending")
		}
		j.expect(t)
		j.clock.Advance(0)
		j.expect(t, "due 0s")
	}
}

func TestResetAndStop(t *testing.T) {
	j := newJournal()
	a := j.clock.AfterFunc(time.Second, j.note("a"))
	b := j.clock.AfterFunc(time.Second, j.note("b"))
	c := j.clock.AfterFunc(time.Second, j.note("c"))
	if !a.Reset(time.Second) || !b.Stop() || b.Stop() {
		t.Error("wrong about what was pending")
	}
	j.clock.Advance(time.Second)
	j.expect(t, "c 1s", "a 1s")
	if a.Stop() || c.Stop() {
		t.Error("a fired timer was pending")
	}
	if b.Reset(time.Second) {
		t.Error("a stopped timer was pending")
	}
	j.clock.Advance(time.Second)
	j.expect(t, "b 2s")
}

func TestTimeDoesNotGoBack(t *testing.T) {
	j := newJournal()
	j.clock.Advance(time.Minute)
	j.clock.AfterFunc(0, j.note("due"))
	j.clock.AdvanceTo(start)
	j.expect(t, "due 1m0s")
	j.clock.Advance(-time.Hour)
	if got := j.clock.Now(); !got.Equal(start.Add(time.Minute)) {
		t.Errorf("now %v", got)
	}
}

func TestNext(t *testing.T) {
	clock := New(start)
	expect := func(want time.Duration, pending bool) {
		t.Helper()
		if at, ok := clock.Next(); ok != pending || ok && at.Sub(start) != want {
			t.Errorf("next %v, %v; want %v, %v", at, ok, want, pending)
		}
	}
	expect(0, false)
	clock.AfterFunc(2*time.Second, func() {})
	first := clock.AfterFunc(time.Second, func() {})
	expect(time.Second, true)
	first.Stop()
	expect(2*time.Second, true)
	clock.Advance(2 * time.Second)
	expect(0, false)
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := New(start)
		woken := make(chan error, 1)
		go func() { woken <- clock.Sleep(t.Context(), time.Minute) }()
		synctest.Wait()
		if at, ok := clock.Next(); !ok || !at.Equal(start.Add(time.Minute)) {
			t.Errorf("next %v, %v", at, ok)
		}
		clock.Advance(time.Minute - 1)
		synctest.Wait()
		select {
		case err := <-woken:
			t.Fatalf("woken early: %v", err)
		default:
		}
		clock.Advance(1)
		if err := <-woken; err != nil {
			t.Error(err)
		}
	})
}

func TestSleepEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := New(start)
		ctx, cancel := context.WithCancel(t.Context())
		woken := make(chan error, 1)
		go func() { woken <- clock.Sleep(ctx, time.Minute) }()
		synctest.Wait()
		cancel()
		if err := <-woken; !errors.Is(err, context.Canceled) {
			t.Errorf("sleep: %v", err)
		}
		if at, ok := clock.Next(); ok {
			t.Errorf("the sleeper left a timer at %v", at)
		}
		if err := clock.Sleep(ctx, time.Minute); !errors.Is(err, context.Canceled) {
			t.Errorf("sleep: %v", err)
		}
		if err := clock.Sleep(t.Context(), 0); err != nil {
			t.Errorf("sleep: %v", err)
		}
	})
}

// The coordinator asks for the time while it holds the lock that its alarms
// need, and sets alarms within alarms.
func TestCoordinatorOnTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := New(start)
		c, err := rate.NewCoordinator(rate.Config{
			Clock:     clock,
			Providers: []rate.ProviderConfig{{Name: "p", Rate: 10, Burst: 1}},
		})
		if err != nil {
			t.Fatal(err)
		}
		granted := make(chan time.Duration, 3)
		for range cap(granted) {
			go func() {
				if err := c.Acquire(t.Context(), "p", 1); err != nil {
					t.Error(err)
				}
				granted <- clock.Now().Sub(start)
			}()
		}
		synctest.Wait()
		for _, want := range []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond} {
			clock.AdvanceTo(start.Add(want))
			if got := <-granted; got != want {
				t.Errorf("granted at %v, want %v", got, want)
			}
		}
	})
}
