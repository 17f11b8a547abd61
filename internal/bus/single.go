package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"
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

// index is where an entry is in the ring, -1 when it is not there.
func (l *letters) index(id string) int {
	return slices.IndexFunc(l.ring, func(e Entry) bool { return e.ID == id })
}

// remove deletes an entry and reports whether it was there. The ring is put in
// order first, oldest entry first, so that it may grow again.
func (l *letters) remove(id string) bool {
	i := l.index(id)
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

// Entry returns an entry of a stream. It returns ErrNoEntry when the stream does not
// hold it.
func (r *Redis) Entry(ctx context.Context, stream, id string) (Entry, error) {
	messages, err := r.client.XRangeN(ctx, stream, id, id, 1).Result()
	switch {
	case redis.HasErrorPrefix(err, "Invalid stream ID"):
		return Entry{}, fmt.Errorf("stream %s: %w", stream, ErrNoEntry)
	case err != nil:
		return Entry{}, describe("XRANGE", stream, err)
	case len(messages) == 0:
		return Entry{}, fmt.Errorf("stream %s: %w", stream, ErrNoEntry)
	}
	return entryOf(messages[0]), nil
}

// Entry returns an entry of a stream whose entries are kept (RetainDeadLetters). It
// returns ErrNoEntry when the stream does not hold it.
func (m *InMemory) Entry(_ context.Context, stream, id string) (Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[stream]; s != nil && s.letters != nil {
		if i := s.letters.index(id); i >= 0 {
			e := s.letters.ring[i]
			return Entry{ID: e.ID, Fields: maps.Clone(e.Fields)}, nil
		}
	}
	return Entry{}, fmt.Errorf("stream %s: %w", stream, ErrNoEntry)
}
