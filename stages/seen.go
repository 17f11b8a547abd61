package stages

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
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
type MemoryStore struct {
	clock    Clock
	ttl      time.Duration
	capacity int

	mu   sync.Mutex
	done *simplelru.LRU[string, time.Time]
	// reserved are the keys in progress. The channel is made by the first who has to
	// wait for one, since almost none is ever waited for.
	reserved map[string]chan struct{}
}

// NewMemoryStore returns a store of at most capacity keys, each kept for ttl
// after its commit; a ttl of zero keeps it until it is
// evicted. A capacity below 1 is an error.
func NewMemoryStore(capacity int, ttl time.Duration, clock Clock) (*MemoryStore, error) {
	lru, err := simplelru.NewLRU[string, time.Time](capacity, nil)
	if err != nil {
		return nil, err
	}
	return &MemoryStore{clock: clock, ttl: ttl, capacity: capacity, done: lru, reserved: make(map[string]chan struct{})}, nil
}

// Reserve implements SeenStore.
func (s *MemoryStore) Reserve(ctx context.Context, key string) (bool, error) {
	for {
		s.mu.Lock()
		wait, busy := s.reserved[key]
		if !busy {
			fresh := !s.seen(key)
			if fresh {
				s.reserved[key] = nil
			}
			s.mu.Unlock()
			return fresh, nil
		}
		if wait == nil {
			wait = make(chan struct{})
			s.reserved[key] = wait
		}
		s.mu.Unlock()
		if err := s.await(ctx, wait); err != nil {
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

// seen looks key up, which makes it the most recently used, and forgets it when
// its time is over. The caller holds mu.
func (s *MemoryStore) seen(key string) bool {
	at, ok := s.done.Get(key)
	if !ok {
		return false
	}
	if s.ttl > 0 && s.clock.Now().Sub(at) >= s.ttl {
		s.done.Remove(key)
		return false
	}
	return true
}

// Commit implements SeenStore; its error is always nil.
func (s *MemoryStore) Commit(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done.Add(key, s.clock.Now())
	s.end(key)
	return nil
}

// Release implements SeenStore.
func (s *MemoryStore) Release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(key)
}

// Len is the number of committed keys held.
func (s *MemoryStore) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done.Len()
}

func (s *MemoryStore) end(key string) {
	if wait, ok := s.reserved[key]; ok {
		delete(s.reserved, key)
		if wait != nil {
			close(wait)
		}
	}
}
