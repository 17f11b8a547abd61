package simulate

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

// The Store's rules: soft and hard once each, ok only at the low watermark, and
// no soft on the way down from hard.
func TestQueueSignalsTransitionsOnly(t *testing.T) {
	var got []string
	q := newQueue(QueueConfig{Capacity: 10, High: 8, Low: 5}, 1, func(l event.Level, depth int) {
		got = append(got, fmt.Sprintf("%v at %d", l, depth))
	})
	expect := func(what string, depth int, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" || q.depth != depth {
			t.Errorf("%s: depth %d, want %d; signals (-want +got):\n%s", what, q.depth, depth, diff)
		}
		got = nil
	}
	q.put(5, 0)
	expect("up to the low watermark", 5)
	q.put(1, 0)
	expect("above it", 6, "soft at 6")
	q.put(1, 0)
	expect("further up", 7)
	q.put(1, 0)
	expect("at the high one", 8, "hard at 8")
	q.drain(2 * time.Second)
	expect("below it", 6)
	q.put(3, 2*time.Second)
	expect("over it again", 9)
	if at, ok := q.recovers(); !ok || at != 6*time.Second {
		t.Errorf("recovers at %v, %v", at, ok)
	}
	q.drain(6*time.Second - 1)
	expect("almost recovered", 6)
	q.drain(6 * time.Second)
	expect("recovered", 5, "ok at 5")
	if at, ok := q.recovers(); ok {
		t.Errorf("recovers at %v", at)
	}
	q.put(7, 6*time.Second)
	expect("all at once", 10, "soft at 6", "hard at 8")
	if q.overflow != 2 || q.drained != 6 {
		t.Errorf("overflow %d, drained %d", q.overflow, q.drained)
	}
}

func TestQueueDrainsAtItsRate(t *testing.T) {
	q := newQueue(QueueConfig{Capacity: 1000, High: 800, Low: 500}, 3, func(event.Level, int) {})
	q.put(100, 0)
	q.drain(333_333_332)
	if q.depth != 100 {
		t.Errorf("depth %d before the first is done", q.depth)
	}
	for i := 1; i <= 30; i++ { // in steps, or at once
		q.drain(time.Duration(i) * time.Second / 3)
	}
	q.drain(10 * time.Second)
	if q.depth != 70 {
		t.Errorf("depth %d after 10s", q.depth)
	}
	q.setRate(0, 10*time.Second)
	q.drain(time.Hour)
	if q.depth != 70 {
		t.Errorf("depth %d of a drain that stands", q.depth)
	}
	q.setRate(1000, time.Hour)
	q.drain(2 * time.Hour)
	q.put(1, 2*time.Hour) // the drain was idle: nothing is saved up
	if q.depth != 1 || q.drained != 100 {
		t.Errorf("depth %d, drained %d", q.depth, q.drained)
	}
	q.drain(2*time.Hour + time.Millisecond)
	if q.depth != 0 {
		t.Errorf("depth %d", q.depth)
	}
}

func TestParseLoss(t *testing.T) {
	for text, want := range map[string]Loss{
		"ok":         {Level: event.LevelOK, Nth: 1},
		"hard:2":     {Level: event.LevelHard, Nth: 2},
		"7":          {Any: true, Nth: 7},
		"soft@90s":   {Level: event.LevelSoft, Nth: 1, From: 90 * time.Second},
		"ok:3@1m30s": {Level: event.LevelOK, Nth: 3, From: 90 * time.Second},
		"1@0s":       {Any: true, Nth: 1},
	} {
		if got, err := ParseLoss(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "okay", "0", "-1", "ok:", "ok:0", "ok:x", "x:1", "ok@", "ok@90", "ok@-1s", "@1s", "1.5"} {
		if got, err := ParseLoss(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestLossLasts(t *testing.T) {
	l := loss{Loss: Loss{Level: event.LevelOK, Nth: 2, From: time.Second}}
	for i, step := range []struct {
		level event.Level
		at    time.Duration
		lost  bool
	}{
		{event.LevelOK, 0, false}, // too early to count
		{event.LevelOK, 1 * time.Second, false},
		{event.LevelSoft, 2 * time.Second, false},
		{event.LevelOK, 3 * time.Second, true},
		{event.LevelSoft, 4 * time.Second, false},
		{event.LevelOK, 5 * time.Second, true},
		{event.LevelOK, 8 * time.Second, false},
	} {
		if got := l.takes(step.level, step.at, 5*time.Second); got != step.lost {
			t.Errorf("step %d: lost %v", i, got)
		}
	}
}
