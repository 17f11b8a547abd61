package rate

import (
	"cmp"
	"container/heap"
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
)

// maxName bounds what one coordinator's name may cost in memory.
const maxName = 256

// nameOf returns the name under which a coordinator is kept: its own, or a
// digest of an overlong one.
func nameOf(coordinator string) string {
	if len(coordinator) <= maxName {
		return coordinator
	}
	sum := sha256.Sum256([]byte(coordinator))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// signal is what an event said and when. Of two signals of one coordinator the
// newer counts, and of two of the same time the worse, whichever came first.
type signal struct {
	level Level
	time  time.Time
}

func (s signal) compare(o signal) int {
	if order := s.time.Compare(o.time); order != 0 {
		return order
	}
	return cmp.Compare(s.level, o.level)
}

// held is the last signal of one coordinator.
type held struct {
	name string
	signal
	force Level     // the level in force: signal.level, or less after silence
	due   time.Time // when force changes next; zero for never
	slots [2]int    // positions in the heaps, by heap.slot
}

// holdings are the levels that one provider's coordinators hold. Their size is
// bounded: beyond limit a coordinator is evicted, and of those evicted or
// forgotten the last limit ones are remembered by their last signal, so that a
// late or repeated event does not bring them back. It is not safe for
// concurrent use.
type holdings struct {
	limit     int
	aggregate Aggregate
	silence   Silence

	byName  map[string]*held
	byAge   [levels]heldHeap // by level in force, oldest signal first
	byDue   heldHeap         // those that silence will release, soonest first
	newest  *held            // kept for AggregateLast only
	gone    map[string]*list.Element
	goneLog list.List // of departed, longest gone first
	evicted uint64
	journal *journal // nil keeps none
}

type departed struct {
	name string
	signal
}

func newHoldings(limit int, aggregate Aggregate, silence Silence) *holdings {
	h := &holdings{
		limit:     limit,
		aggregate: aggregate,
		silence:   silence,
		byName:    make(map[string]*held),
		byDue:     heldHeap{slot: 1, order: func(a, b *held) int { return a.due.Compare(b.due) }},
		gone:      make(map[string]*list.Element),
	}
	for l := range h.byAge {
		h.byAge[l] = heldHeap{slot: 0, order: func(a, b *held) int {
			if order := a.time.Compare(b.time); order != 0 {
				return order
			}
			return cmp.Compare(a.name, b.name)
		}}
	}
	return h
}

// apply takes a signal in and reports whether it was stale: superseded by one
// that came before it. A repeated signal changes nothing and is not stale.
func (h *holdings) apply(coordinator string, s signal, now time.Time) (stale bool) {
	name := nameOf(coordinator)
	e, known := h.byName[name]
	switch {
	case known:
		if order := s.compare(e.signal); order <= 0 {
			return order < 0
		}
		h.unplace(e)
	case h.departedSince(name, s):
		return true
	default:
		h.journal.change(h.hold(name, s, now).name)
		return false
	}
	e.signal = s
	h.place(e, now)
	h.followNewest(e)
	h.journal.change(e.name)
	return false
}

// hold takes in a coordinator that was not known, and evicts one when there are too
// many.
func (h *holdings) hold(name string, s signal, now time.Time) *held {
	// A copy, since the caller's string may be part of a whole payload.
	e := &held{name: strings.Clone(name), signal: s}
	h.byName[e.name] = e
	h.place(e, now)
	h.followNewest(e)
	if len(h.byName) > h.limit {
		h.drop(h.victim())
		h.evicted++
	}
	return e
}

// followNewest notes e when its signal is the newest.
func (h *holdings) followNewest(e *held) {
	if h.aggregate == AggregateLast && (h.newest == nil || h.newest.compare(e.signal) < 0) {
		h.newest = e
	}
}

// departedSince reports whether a coordinator that is gone had already said
// this or something that supersedes it. If not, it is no longer gone.
func (h *holdings) departedSince(name string, s signal) bool {
	mark, ok := h.gone[name]
	if !ok {
		return false
	}
	if s.compare(mark.Value.(departed).signal) <= 0 {
		return true
	}
	h.goneLog.Remove(mark)
	delete(h.gone, name)
	return false
}

// forget drops a coordinator's level and reports whether it held one.
func (h *holdings) forget(coordinator string) bool {
	e, ok := h.byName[nameOf(coordinator)]
	if ok {
		h.drop(e)
	}
	return ok
}

// victim returns the coordinator to evict. Under AggregateWorst it is one with
// the least level in force, and of these the one with the oldest signal: an ok
// before a soft before a hard. Since no other then holds a lesser level, an
// eviction never changes the provider's level; dropping a hard while an ok is
// kept would release it. Under AggregateLast only the newest signal counts, so
// it is the oldest of all.
func (h *holdings) victim() *held {
	var victim *held
	for l := range h.byAge {
		e := h.byAge[l].first()
		if e == nil {
			continue
		}
		if h.aggregate == AggregateWorst {
			return e
		}
		if victim == nil || e.compare(victim.signal) < 0 {
			victim = e
		}
	}
	return victim
}

// drop makes a coordinator one that is gone, by this process's own decision.
func (h *holdings) drop(e *held) {
	h.depart(e)
	if _, remembered := h.gone[e.name]; remembered {
		h.journal.change(e.name)
	}
}

func (h *holdings) depart(e *held) {
	h.unplace(e)
	delete(h.byName, e.name)
	if h.newest == e {
		h.newest = nil
		for _, o := range h.byName {
			if h.newest == nil || h.newest.compare(o.signal) < 0 {
				h.newest = o
			}
		}
	}
	h.remember(departed{e.name, e.signal})
}

func (h *holdings) place(e *held, now time.Time) {
	e.force, e.due = h.silence.level(e.level, e.time, now)
	heap.Push(&h.byAge[e.force], e)
	if !e.due.IsZero() {
		heap.Push(&h.byDue, e)
	}
}

func (h *holdings) unplace(e *held) {
	heap.Remove(&h.byAge[e.force], e.slots[h.byAge[e.force].slot])
	if !e.due.IsZero() {
		heap.Remove(&h.byDue, e.slots[h.byDue.slot])
	}
}

// due returns when silence releases a level next; false for never.
func (h *holdings) due() (time.Time, bool) {
	e := h.byDue.first()
	if e == nil {
		return time.Time{}, false
	}
	return e.due, true
}

// release lowers the levels whose coordinators have been silent for too long.
func (h *holdings) release(now time.Time) {
	for e := h.byDue.first(); e != nil && !now.Before(e.due); e = h.byDue.first() {
		h.unplace(e)
		h.place(e, now)
	}
}

// level returns the provider's level and the time of the signal that it rests
// on, the oldest where several do. Without coordinators it is OK since the
// zero time.
func (h *holdings) level() (Level, time.Time) {
	if h.aggregate == AggregateLast {
		if h.newest == nil {
			return OK, time.Time{}
		}
		return h.newest.force, h.newest.time
	}
	for l := len(h.byAge) - 1; l >= 0; l-- {
		if e := h.byAge[l].first(); e != nil {
			return Level(l), e.time
		}
	}
	return OK, time.Time{}
}

// heldHeap is a heap.Interface whose elements know their place in it.
type heldHeap struct {
	items []*held
	slot  int
	order func(a, b *held) int
}

func (h *heldHeap) first() *held {
	if len(h.items) == 0 {
		return nil
	}
	return h.items[0]
}

func (h *heldHeap) Len() int           { return len(h.items) }
func (h *heldHeap) Less(i, j int) bool { return h.order(h.items[i], h.items[j]) < 0 }

func (h *heldHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].slots[h.slot] = i
	h.items[j].slots[h.slot] = j
}

func (h *heldHeap) Push(x any) {
	e := x.(*held)
	e.slots[h.slot] = len(h.items)
	h.items = append(h.items, e)
}

func (h *heldHeap) Pop() any {
	last := len(h.items) - 1
	e := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	return e
}
