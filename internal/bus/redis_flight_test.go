package bus

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
)

// flownEvents returns n events and their IDs, to put in flight.
func flownEvents(n int) ([]streamID, []delivery) {
	ids, events := make([]streamID, n), make([]delivery, n)
	for i := range ids {
		ids[i], events[i] = streamID{1, uint64(i)}, delivery{event: &event.Event{}}
	}
	return ids, events
}

// A reader makes do with fewer places than a batch needs also while entries leave all the time: it does not wait until
// nothing is left in flight.
func TestFlightRoomWhileEntriesLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		f := newFlight(n)
		ids, events := flownEvents(n)
		f.add(ids, events, time.Now(), make([]bool, n))
		var leaving sync.WaitGroup
		defer leaving.Wait()
		leaving.Go(func() {
			for i := range ids {
				time.Sleep(roomWait / 2)
				f.remove(ids[i : i+1])
			}
		})
		start := time.Now()
		if got := f.room(t.Context(), n); got == 0 || got > 4 {
			t.Errorf("room for %d after %v, want a few", got, time.Since(start))
		}
	})
}

// A reader that waits for a whole batch when a hold begins takes nothing until that ends.
func TestFlightRoomUnderAHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 10
		f := newFlight(n)
		ids, events := flownEvents(n - 1)
		f.add(ids, events, time.Now(), make([]bool, n))
		start := time.Now()
		var holding sync.WaitGroup
		defer holding.Wait()
		holding.Go(func() {
			time.Sleep(roomWait / 2)
			release := f.hold()
			time.Sleep(10 * roomWait)
			release()
		})
		if got := f.room(t.Context(), n); got != 1 || time.Since(start) < 10*roomWait {
			t.Errorf("room for %d after %v, want 1 after the hold", got, time.Since(start))
		}
	})
}
