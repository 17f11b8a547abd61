package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// GroupInfo is the state of one consumer group.
type GroupInfo struct {
	Lag           int64         // entries of the stream not delivered to the group yet; -1 = the server cannot tell
	Pending       int64         // entries delivered and not acknowledged
	OldestPending time.Duration // since the oldest pending entry was added, by its ID; 0 = none
	Consumers     int64         // consumers of the group, dead ones included
}

// GroupInfo returns the state of a group. It returns an ErrNoGroup when there is no such stream or group.
func (r *Redis) GroupInfo(ctx context.Context, stream, group string) (GroupInfo, error) {
	var (
		groups  *redis.XInfoGroupsCmd
		info    *redis.XInfoStreamCmd
		pending *redis.XPendingCmd
		clock   *redis.TimeCmd
	)
	_, _ = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		groups = p.XInfoGroups(ctx, stream)
		info = p.XInfoStream(ctx, stream)
		pending = p.XPending(ctx, stream, group)
		clock = p.Time(ctx)
		return nil
	})
	switch err := cmp.Or(groups.Err(), info.Err(), pending.Err()); {
	case isNoGroup(err):
		return GroupInfo{}, fmt.Errorf("stream %s, group %s: %w", stream, group, ErrNoGroup)
	case err != nil:
		return GroupInfo{}, describe("XINFO GROUPS", stream, err)
	}
	now := clock.Val()
	if clock.Err() != nil {
		now = time.Now() // the user may not ask for the server's
	}
	for _, g := range groups.Val() {
		if g.Name != group {
			continue
		}
		return GroupInfo{
			Lag: lag(g, info.Val()), Pending: g.Pending, Consumers: g.Consumers,
			OldestPending: age(pending.Val().Lower, now),
		}, nil
	}
	return GroupInfo{}, fmt.Errorf("stream %s, group %s: %w", stream, group, ErrNoGroup)
}

// lag is what Redis 7 says. Redis 6.2 does not count, but it tells whether anything is left.
func lag(g redis.XInfoGroup, s *redis.XInfoStream) int64 {
	if g.Lag == 0 && s.EntriesAdded == 0 && g.LastDeliveredID != s.LastGeneratedID {
		return -1
	}
	return g.Lag
}

// age is the time from an entry's ID to now, zero for an ID that is no time of the past.
func age(id string, now time.Time) time.Duration {
	at, ok := parseStreamID(id)
	if !ok {
		return 0
	}
	return max(now.Sub(time.UnixMilli(int64(min(at.ms, 1<<53)))), 0)
}

// Put writes one entry, fields and data, to the stream and returns its ID. data nil writes no field data. The entry
// may have been written although Put returns an error, when the answer was lost.
func (r *Redis) Put(ctx context.Context, stream string, data []byte, meta map[string]string) (string, error) {
	fields, err := entryFields(data, meta)
	if err != nil {
		return "", fmt.Errorf("put to %s: %w", stream, err)
	}
	id, err := r.publish.writer.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: fields}).Result()
	if err != nil {
		return "", fmt.Errorf("put to %s: %w", stream, err)
	}
	return id, nil
}

// Newest returns up to n entries of the stream, the newest first; none when there is no such stream. n must be at
// least 1.
func (r *Redis) Newest(ctx context.Context, stream string, n int) ([]Entry, error) {
	if n < 1 {
		return nil, errors.New("newest: n must be at least 1")
	}
	messages, err := r.client.XRevRangeN(ctx, stream, "+", "-", int64(n)).Result()
	if err != nil {
		return nil, describe("XREVRANGE", stream, err)
	}
	entries := make([]Entry, len(messages))
	for i, m := range messages {
		entries[i] = entryOf(m)
	}
	return entries, nil
}

// entryOf is an entry as go-redis returns it.
func entryOf(m redis.XMessage) Entry {
	fields := make(map[string]string, len(m.Values))
	for name, value := range m.Values {
		if text, ok := value.(string); ok {
			fields[name] = text
		}
	}
	return Entry{ID: m.ID, Fields: fields}
}
