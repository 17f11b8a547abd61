package rate

import (
	"container/list"
	"strings"
	"time"
)

// Record is what is known of one coordinator of a provider, as it is kept outside
// of the process. Of two records the one with the newer time counts, of the same
// time the worse level, and of the same level the one that is gone. Merging any
// records in any order, again and again, therefore ends in one state.
type Record struct {
	Coordinator string
	// Level is what the coordinator's last event said, at Time.
	Level Level
	Time  time.Time
	// Gone says that the level is held no more: the coordinator was forgotten or
	// evicted. Its events up to this one stay without effect.
	Gone bool
	// Dropped says that a Gone record is to be remembered no more.
	Dropped bool
}

// journal has what changed in holdings since it was last taken. Its size is
// bounded as theirs is.
type journal struct {
	changed map[string]struct{} // held or gone now
	dropped map[string]signal   // neither
}

// keepJournal starts a journal.
func (h *holdings) keepJournal() {
	h.journal = &journal{changed: make(map[string]struct{}), dropped: make(map[string]signal)}
}

func (j *journal) change(name string) {
	if j != nil {
		j.changed[name] = struct{}{}
		delete(j.dropped, name)
	}
}

// drop notes that a record is gone for good. Beyond limit it is not noted: who
// reads all records again will come upon it.
func (j *journal) drop(d departed, limit int) {
	if j == nil {
		return
	}
	delete(j.changed, d.name)
	if len(j.dropped) < limit {
		j.dropped[d.name] = d.signal
	}
}

// takeChanges removes up to n records, all when n is negative, from the journal and
// returns them.
func (h *holdings) takeChanges(n int) []Record {
	j := h.journal
	if j == nil {
		return nil
	}
	var list []Record
	for name := range j.changed {
		if n >= 0 && len(list) == n {
			return list
		}
		delete(j.changed, name)
		list = append(list, h.record(name))
	}
	for name, s := range j.dropped {
		if n >= 0 && len(list) == n {
			return list
		}
		delete(j.dropped, name)
		list = append(list, Record{Coordinator: name, Level: s.level, Time: s.time, Gone: true, Dropped: true})
	}
	return list
}

// putBack notes records again whose keeping failed.
func (h *holdings) putBack(records []Record) {
	for _, r := range records {
		_, held := h.byName[r.Coordinator]
		_, gone := h.gone[r.Coordinator]
		switch {
		case held || gone:
			h.journal.change(r.Coordinator)
		case r.Dropped:
			h.journal.drop(departed{r.Coordinator, signal{r.Level, r.Time}}, h.limit)
		}
	}
}

// record returns what is known of a coordinator that is held or gone.
func (h *holdings) record(name string) Record {
	if e, ok := h.byName[name]; ok {
		return Record{Coordinator: name, Level: e.level, Time: e.time}
	}
	d := h.gone[name].Value.(departed)
	return Record{Coordinator: name, Level: d.level, Time: d.time, Gone: true}
}

// records returns all that is known: what is held in any order, then what is gone,
// longest gone first.
func (h *holdings) records() []Record {
	all := make([]Record, 0, len(h.byName)+len(h.gone))
	for name := range h.byName {
		all = append(all, h.record(name))
	}
	for mark := h.goneLog.Front(); mark != nil; mark = mark.Next() {
		all = append(all, h.record(mark.Value.(departed).name))
	}
	return all
}

// merge takes in a record from outside. What it changes is not journalled, since
// the outside knows it; what it evicts is.
func (h *holdings) merge(r Record, now time.Time) {
	name, s := nameOf(r.Coordinator), signal{r.Level, r.Time}
	if e, held := h.byName[name]; held {
		order := s.compare(e.signal)
		if order < 0 || order == 0 && !r.Gone {
			return
		}
		h.settled(name)
		h.unplace(e)
		e.signal = s
		h.place(e, now)
		if r.Gone {
			h.depart(e)
			return
		}
		h.followNewest(e)
		return
	}
	mark, departedBefore := h.gone[name]
	if departedBefore {
		if s.compare(mark.Value.(departed).signal) <= 0 {
			return
		}
		h.settled(name)
		h.goneLog.Remove(mark)
		delete(h.gone, name)
	}
	if r.Gone {
		h.remember(departed{strings.Clone(name), s})
		return
	}
	h.hold(name, s, now)
}

// settled takes a name out of the journal: what the outside says supersedes what
// was to be told to it.
func (h *holdings) settled(name string) {
	if h.journal != nil {
		delete(h.journal.changed, name)
	}
}

// remember keeps the last signal of one that is gone. It forgets the longest gone
// when there are too many.
func (h *holdings) remember(d departed) {
	h.gone[d.name] = h.goneLog.PushBack(d)
	if len(h.gone) > h.limit {
		h.dropOldest(h.goneLog.Front())
	}
}

func (h *holdings) dropOldest(mark *list.Element) {
	oldest := h.goneLog.Remove(mark).(departed)
	delete(h.gone, oldest.name)
	h.journal.drop(oldest, h.limit)
}
