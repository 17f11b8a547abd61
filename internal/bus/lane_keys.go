package bus

import (
	"math/rand/v2"
	"sync"
)

// laneKeys says which lane an event goes through. Events of a key share a lane as long as any of them is queued or being
// handled, and so keep their order; a key that begins takes a lane that is free, so that no key waits for another as
// long as there is one. (A lane drawn by the key's hash would leave some idle while others have three keys to serve.)
type laneKeys struct {
	mu    sync.Mutex
	byKey map[string]*laneKey
	load  []int // by lane: its events
	free  []int // the lanes without any; the last to become free is first to be taken
	alone []laneKey
}

// laneKey is a key with events in a lane.
type laneKey struct {
	key    string // empty: of events without one, which are not kept in order
	lane   int
	events int
}

func newLaneKeys(lanes int) *laneKeys {
	k := &laneKeys{
		byKey: make(map[string]*laneKey), load: make([]int, lanes), free: make([]int, lanes), alone: make([]laneKey, lanes),
	}
	for i := range lanes {
		k.free[i] = lanes - 1 - i
		k.alone[i].lane = i
	}
	return k
}

// take returns where the next event of a key goes; done is to be called once it is handled.
func (k *laneKeys) take(key string) *laneKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key == "" {
		one := &k.alone[k.choose()]
		k.load[one.lane]++
		return one
	}
	one, ok := k.byKey[key]
	if !ok {
		one = &laneKey{key: key, lane: k.choose()}
		k.byKey[key] = one
	}
	one.events++
	k.load[one.lane]++
	return one
}

// choose returns a free lane, or else the less loaded of two.
func (k *laneKeys) choose() int {
	if last := len(k.free) - 1; last >= 0 {
		lane := k.free[last]
		k.free = k.free[:last]
		return lane
	}
	if len(k.load) == 1 {
		return 0
	}
	// Two that differ: with one drawn twice, a lane that hangs would take in more and more, however loaded it is.
	a, b := rand.IntN(len(k.load)), rand.IntN(len(k.load)-1)
	if b >= a {
		b++
	}
	if k.load[b] < k.load[a] {
		return b
	}
	return a
}

// done is told of an event that was handled.
func (k *laneKeys) done(one *laneKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if one.key != "" {
		if one.events--; one.events == 0 {
			delete(k.byKey, one.key)
		}
	}
	if k.load[one.lane]--; k.load[one.lane] == 0 {
		k.free = append(k.free, one.lane)
	}
}
