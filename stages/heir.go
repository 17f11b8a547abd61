package stages

// Heir is implemented by a Stage that can go on with what another of its kind knows:
// that of the flow which it takes the place of when a new file is loaded.
type Heir interface {
	// Inherit takes over the state of former, a stage of the same kind whose flow has
	// ended, and reports whether it could: not where its settings make that state mean
	// something else. It is called before the first event; after a reload that failed it may
	// be called for several, of which the later ones know what is newer.
	Inherit(former Stage) bool
}

// Inherit hands the state of a flow's former stages on to those that take their place:
// to each one with the same settings, wherever that stood, or else the first of its kind,
// in the order of the file, that it can use and no other has.
func Inherit(built, former []Named) {
	taken, served := make([]bool, len(former)), make([]bool, len(built))
	for _, fits := range []func(a, b Named) bool{sameStage, sameKind} {
		for i, n := range built {
			heir, ok := n.Stage.(Heir)
			if !ok || served[i] {
				continue
			}
			for j, f := range former {
				if !taken[j] && fits(n, f) && heir.Inherit(f.Stage) {
					taken[j], served[i] = true, true
					break
				}
			}
		}
	}
}

func sameKind(a, b Named) bool { return a.Kind == b.Kind }

func sameStage(a, b Named) bool {
	return sameKind(a, b) && a.Config != nil && b.Config != nil && a.Config.Fields().Same(b.Config.Fields())
}

// File is a file that a stage's Config has read.
type File struct {
	Path string
	// Digest tells two contents apart, as [flows.Digest] does; "" is that of a file that could not be read.
	Digest string
}

// ReadsFiles is implemented by a Config that reads files in Validate. When one of them
// has another content, a flow is not what it was although its own file is.
type ReadsFiles interface{ Files() []File }

// Inherit implements Heir: keys mean the same where the key setting does.
func (s *dedupe) Inherit(former Stage) bool {
	f, ok := former.(*dedupe)
	if !ok || f.template != s.template {
		return false
	}
	mine, ok := s.seen.(*MemoryStore)
	theirs, too := f.seen.(*MemoryStore)
	if ok && too {
		mine.inherit(theirs)
	}
	return ok && too
}

// inherit takes over the keys of former, which is used no more, as many as fit, beside
// those it has. How long each is kept is this store's ttl, from its own commit on.
func (s *MemoryStore) inherit(former *MemoryStore) {
	former.mu.Lock()
	defer former.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if former.capacity == s.capacity && s.committed == 0 {
		// As it is, since there may be many. What is reserved stays with the former: handlers
		// that outlived their flow's end.
		if len(former.marks) > former.committed {
			for key, m := range former.marks {
				if m.next == nil {
					s.marks[key] = m
					delete(former.marks, key)
				}
			}
		}
		s.marks, former.marks = former.marks, s.marks
		s.recent, former.recent = former.recent, s.recent
		s.committed, former.committed = former.committed, s.committed
		return
	}
	for m := former.recent.previous; m != former.recent; m = m.previous { // the least recently used first
		own, known := s.marks[m.key]
		if !known {
			own = s.reserve(m.key)
		}
		s.commit(own, m.at)
	}
}

// Inherit implements Heir: the buckets go on where they are filled at the same rate.
func (s *throttle) Inherit(former Stage) bool {
	f, ok := former.(*throttle)
	if !ok || f.config.Rate != s.config.Rate || f.config.Burst != s.config.Burst || f.config.Key != s.config.Key ||
		f.config.Keys != s.config.Keys {
		return false
	}
	s.limiter = f.limiter
	return true
}
