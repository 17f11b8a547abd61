package stages

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// SeenStore remembers which keys have been handled. A key is reserved while its
// event runs, committed when it succeeded, released when it did not.
type SeenStore interface {
	// Reserve claims key and reports true when it is new. False means that key was
	// committed before: a duplicate. While another holder has it reserved, Reserve
	// waits; it returns ctx.Err() when ctx ends first.
	Reserve(ctx context.Context, key string) (bool, error)
	// Commit records a reserved key as handled.
	Commit(ctx context.Context, key string) error
	// Release gives a reserved key back, as if it had never been seen.
	Release(key string)
}

// MemoryStore is a SeenStore in this process: the least recently used key goes
// first when it is full, and a key is forgotten once its time to live is over.
//
// A key has one mark from its reservation on, so that an event costs the table as few
// lookups as can be (docs/adr/0005-libraries.md).
type MemoryStore struct {
	clock    Clock
	ttl      time.Duration
	capacity int

	mu    sync.Mutex
	marks map[string]*mark // reserved and committed
	// recent is the ring of committed marks and no mark itself: recent.next was used last,
	// recent.previous longest ago.
	recent    *mark
	committed int
	spare     *mark // an evicted one, for the next key
}

// mark is what is known of a key: it is reserved, or committed when it is in the ring.
type mark struct {
	key            string
	next, previous *mark     // nil while reserved
	at             time.Time // of the commit
	// ended is made by the first who has to wait for the reservation's end, since almost
	// none is ever waited for.
	ended chan struct{}
}

// NewMemoryStore returns a store of at most capacity keys, each kept for ttl
// after its commit; a ttl of zero keeps it until it is
// evicted. A capacity below 1 is an error.
func NewMemoryStore(capacity int, ttl time.Duration, clock Clock) (*MemoryStore, error) {
	if capacity < 1 {
		return nil, fmt.Errorf("dedupe store: capacity %d must be at least 1", capacity)
	}
	s := &MemoryStore{clock: clock, ttl: ttl, capacity: capacity, marks: make(map[string]*mark), recent: new(mark)}
	s.recent.next, s.recent.previous = s.recent, s.recent
	return s, nil
}

// Reserve implements SeenStore.
func (s *MemoryStore) Reserve(ctx context.Context, key string) (bool, error) {
	for {
		s.mu.Lock()
		m, known := s.marks[key]
		if !known {
			s.reserve(key)
			s.mu.Unlock()
			return true, nil
		}
		if m.next != nil {
			fresh := s.expired(m)
			s.unlink(m)
			if !fresh {
				s.link(m)
			}
			s.mu.Unlock()
			return fresh, nil
		}
		if m.ended == nil {
			m.ended = make(chan struct{})
		}
		ended := m.ended
		s.mu.Unlock()
		if err := s.await(ctx, ended); err != nil {
			return false, err
		}
	}
}

// await waits until ready is closed, or ctx ends.
func (s *MemoryStore) await(ctx context.Context, ready <-chan struct{}) error {
	if w, ok := s.clock.(Waiter); ok {
		return w.Wait(ctx, ready)
	}
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Commit implements SeenStore; its error is always nil.
func (s *MemoryStore) Commit(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, known := s.marks[key]
	if !known {
		m = s.reserve(key)
	}
	s.commit(m, s.clock.Now())
	return nil
}

// commit makes m the most recently used, and evicts the least recently used when there
// are too many. The caller holds mu, as for the methods below.
func (s *MemoryStore) commit(m *mark, at time.Time) {
	if m.next != nil {
		s.unlink(m)
	}
	m.at = at
	s.link(m)
	m.end()
	if s.committed > s.capacity {
		oldest := s.recent.previous
		s.unlink(oldest)
		delete(s.marks, oldest.key)
		*oldest = mark{}
		s.spare = oldest
	}
}

// Release implements SeenStore.
func (s *MemoryStore) Release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, known := s.marks[key]; known && m.next == nil {
		delete(s.marks, key)
		m.end()
	}
}

// Len is the number of committed keys held.
func (s *MemoryStore) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.committed
}

func (s *MemoryStore) expired(m *mark) bool { return s.ttl > 0 && s.clock.Now().Sub(m.at) >= s.ttl }

// reserve takes in a key that is not known.
func (s *MemoryStore) reserve(key string) *mark {
	m := s.spare
	if m == nil {
		m = new(mark)
	}
	s.spare = nil
	m.key = key
	s.marks[key] = m
	return m
}

// link puts m first in the ring.
func (s *MemoryStore) link(m *mark) {
	m.previous, m.next = s.recent, s.recent.next
	m.previous.next, m.next.previous = m, m
	s.committed++
}

// unlink takes m out of the ring, and so makes it a reserved one.
func (s *MemoryStore) unlink(m *mark) {
	m.previous.next, m.next.previous = m.next, m.previous
	m.previous, m.next = nil, nil
	s.committed--
}

// end tells those who wait for the reservation's end.
func (m *mark) end() {
	if m.ended != nil {
		close(m.ended)
		m.ended = nil
	}
}
