package bus

import (
	"context"
	"sync"
	"time"
)

// roomWait is how long a reader waits for a whole batch of free places before it makes do with fewer.
const roomWait = 5 * time.Millisecond

// flight is what a subscription has taken from Redis and not yet acknowledged to it: events that wait in a lane, that
// are being handled, and that are handled but whose acknowledgement is still to be sent. An entry that Redis gives out
// again while it is in here is not run again.
type flight struct {
	mu      sync.Mutex
	max     int
	bytes   int // of what is in flight
	entries map[streamID]flown
	holds   int           // readers are kept waiting while it is not zero
	changed chan struct{} // closed and replaced whenever entries leave or a hold ends
}

// flown is an entry in flight.
type flown struct {
	since   time.Time // dispatched
	touched time.Time // Redis last heard that it is being handled
	size    int       // in bytes
}

// size is how large an entry is, nearly, in bytes.
func (d delivery) size() int {
	n := len(d.event.Data)
	for name, value := range d.meta {
		n += len(name) + len(value)
	}
	return n
}

// flightBytes is how much data may be in flight before nothing more is taken: so many entries of 1 MiB need less memory
// than max_in_flight would allow. An entry that is larger flies alone.
const flightBytes = 128 << 20

func newFlight(limit int) *flight {
	return &flight{max: limit, entries: make(map[streamID]flown, limit), changed: make(chan struct{})}
}

// add takes entries, with their IDs, in and returns how many are in flight then. fresh tells which of them were not already.
func (f *flight) add(ids []streamID, events []delivery, now time.Time, fresh []bool) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, id := range ids {
		if _, ok := f.entries[id]; !ok {
			size := events[i].size()
			f.entries[id] = flown{since: now, touched: now, size: size}
			f.bytes += size
			fresh[i] = true
		}
	}
	return len(f.entries)
}

// remove lets entries go. It returns when each was dispatched, zero for one that was not in flight, and how many are
// left.
func (f *flight) remove(ids []streamID) (since []time.Time, left int) {
	since = make([]time.Time, len(ids))
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, id := range ids {
		e := f.entries[id]
		since[i] = e.since
		f.bytes -= e.size
		delete(f.entries, id)
	}
	f.signal()
	return since, len(f.entries)
}

func (f *flight) signal() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *flight) has(id streamID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.entries[id]
	return ok
}

func (f *flight) len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries)
}

// room waits until want more entries may be taken, or fewer for want of a whole batch, and returns how many. Zero means
// that ctx ended.
func (f *flight) room(ctx context.Context, want int) int {
	want = min(want, f.max)
	var late <-chan time.Time // since there were fewer, and not since the last that left
	waited := false
	for {
		f.mu.Lock()
		free, changed := f.max-len(f.entries), f.changed
		if f.holds > 0 || f.bytes >= flightBytes {
			free = 0
		}
		f.mu.Unlock()
		if free >= want || free > 0 && waited {
			return min(free, want)
		}
		if free > 0 && late == nil {
			late = time.After(roomWait)
		}
		select {
		case <-changed:
		case <-late:
			waited = true
		case <-ctx.Done():
			return 0
		}
	}
}

// hold keeps readers from taking more until release is called.
func (f *flight) hold() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.holds--
		f.signal()
	}
}

// settle waits until nothing is in flight, for at most d.
func (f *flight) settle(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		f.mu.Lock()
		n, changed := len(f.entries), f.changed
		f.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// stale returns the entries that Redis has not heard of since before.
func (f *flight) stale(before time.Time) []streamID {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []streamID
	for id, e := range f.entries {
		if e.touched.Before(before) {
			ids = append(ids, id)
		}
	}
	return ids
}

// touched notes that Redis has heard of entries that are still in flight.
func (f *flight) touched(ids []streamID, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		if e, ok := f.entries[id]; ok {
			e.touched = at
			f.entries[id] = e
		}
	}
}
