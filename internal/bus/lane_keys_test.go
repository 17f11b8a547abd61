package bus

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

// Events of a key share a lane as long as there are any, and no key shares one with
// another while a lane is free.
func TestLaneKeys(t *testing.T) {
	for _, lanes := range []int{1, 3, 8} {
		t.Run(strconv.Itoa(lanes), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, uint64(lanes)))
			k := newLaneKeys(lanes)
			var open []*laneKey // an entry for each event
			in := func(of func(*laneKey) bool) (n int) {
				for _, one := range open {
					if of(one) {
						n++
					}
				}
				return n
			}
			for range 5000 {
				if len(open) > 0 && rng.IntN(20) >= 9 {
					i := rng.IntN(len(open))
					one := open[i]
					open[i] = open[len(open)-1]
					open = open[:len(open)-1]
					k.done(one)
					continue
				}
				key := ""
				if n := rng.IntN(12); n > 0 {
					key = strconv.Itoa(n)
				}
				busy := make(map[int]bool)
				for _, one := range open {
					busy[one.lane] = true
				}
				before := -1
				for _, one := range open {
					if key != "" && one.key == key {
						before = one.lane
					}
				}
				one := k.take(key)
				switch {
				case one.key != key || one.lane < 0 || one.lane >= lanes:
					t.Fatalf("key %q: %+v", key, *one)
				case before >= 0 && one.lane != before:
					t.Fatalf("key %q: lane %d, and events in lane %d", key, one.lane, before)
				case before < 0 && busy[one.lane] && len(busy) < lanes:
					t.Fatalf("key %q: lane %d is busy and others are free", key, one.lane)
				}
				open = append(open, one)
			}
			for i, load := range k.load {
				if n := in(func(one *laneKey) bool { return one.lane == i }); n != load {
					t.Errorf("lane %d: load %d, and %d events", i, load, n)
				}
			}
			for _, one := range open {
				k.done(one)
			}
			if len(k.byKey) != 0 || len(k.free) != lanes {
				t.Errorf("%d keys are left, %d lanes free", len(k.byKey), len(k.free))
			}
		})
	}
}

// Where all lanes are taken, keys spread.
func TestLaneKeysSpread(t *testing.T) {
	const lanes, keys = 32, 32 * 50
	k := newLaneKeys(lanes)
	for i := range keys {
		k.take(strconv.Itoa(i))
	}
	for i, load := range k.load {
		if load > 2*keys/lanes {
			t.Errorf("lane %d has %d of %d keys", i, load, keys)
		}
	}
}

// An event that hangs draws no more than its lane's share of the others behind it, however many come.
func TestLaneKeysAvoidALaneThatHangs(t *testing.T) {
	const lanes, inFlight = 8, 400
	k := newLaneKeys(lanes)
	hangs := k.take("hangs").lane
	var open []*laneKey // an entry for each event that will be handled, the oldest first
	behind := 0
	for i := range 100 * inFlight {
		if len(open)+behind == inFlight {
			if len(open) == 0 {
				break
			}
			k.done(open[0])
			open = open[1:]
		}
		if one := k.take(strconv.Itoa(i)); one.lane == hangs {
			behind++
		} else {
			open = append(open, one)
		}
	}
	if behind > 2*inFlight/lanes {
		t.Errorf("%d of %d events wait behind the one that hangs", behind, inFlight)
	}
}
