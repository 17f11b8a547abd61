package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// ErrNoEntry is returned by Delete for an entry that the stream does not hold.
var ErrNoEntry = errors.New("no such entry")

// Delete removes an entry from a stream. It returns ErrNoEntry when the stream
// does not hold it.
func (r *Redis) Delete(ctx context.Context, stream, id string) error {
	n, err := r.client.XDel(ctx, stream, id).Result()
	switch {
	case err != nil:
		return describe("XDEL", stream, err)
	case n == 0:
		return fmt.Errorf("stream %s: %w", stream, ErrNoEntry)
	}
	return nil
}

// Delete removes an entry from a stream whose entries are kept
// (RetainDeadLetters). It returns ErrNoEntry when the stream does not hold it.
func (m *InMemory) Delete(_ context.Context, stream, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[stream]; s == nil || s.letters == nil || !s.letters.remove(id) {
		return fmt.Errorf("stream %s: %w", stream, ErrNoEntry)
	}
	return nil
}

// remove deletes an entry and reports whether it was there. The ring is put in
// order first, oldest entry first, so that it may grow again.
func (l *letters) remove(id string) bool {
	i := slices.IndexFunc(l.ring, func(e Entry) bool { return e.ID == id })
	if i < 0 {
		return false
	}
	ordered := make([]Entry, 0, len(l.ring))
	for k := range l.ring {
		if at := (l.next + k) % len(l.ring); at != i {
			ordered = append(ordered, l.ring[at])
		}
	}
	l.ring, l.next = ordered, 0
	return true
}
