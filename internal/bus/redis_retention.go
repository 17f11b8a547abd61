package bus

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"
)

// How often the groups of a stream are looked at: before its length may cost one of them entries, and to delete what
// all of them have acknowledged.
const (
	lookEvery = 10 * time.Second
	trimEvery = 10 * time.Second
)

// warnOfLoss warns when a stream has reached its length and the next entry to fall off is one that a group has not
// acknowledged. It looks at a stream every lookEvery at most.
func (w *entryWriter) warnOfLoss(ctx context.Context, stream string, maxLen int64) {
	if !w.due(stream) {
		return
	}
	info, err := w.XInfoStream(ctx, stream).Result()
	if err != nil || info.Length < maxLen || info.Groups == 0 {
		return // the user may lack the permission, which publishing does not need
	}
	first, ok := parseStreamID(info.FirstEntry.ID)
	if !ok {
		return
	}
	done, err := settledOfGroups(ctx, w, stream)
	if err != nil {
		return
	}
	for group, id := range done {
		if id.less(first) {
			w.log.Warn("stream is at its maximum length and loses entries that a group has not acknowledged",
				"stream", stream, "group", group, "max_len", maxLen)
		}
	}
}

// due reports whether it is time to look at a stream again.
func (w *entryWriter) due(stream string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last, ok := w.looked[stream]; ok && time.Since(last) < lookEvery {
		return false
	}
	w.looked[stream] = time.Now()
	return true
}

// trimTo deletes, roughly, the entries that every group has acknowledged, given the ID up to which each has.
func trimTo(ctx context.Context, client redis.UniversalClient, stream string, done map[string]streamID) error {
	var lowest *streamID
	for _, id := range done {
		if lowest == nil || id.less(*lowest) {
			lowest = &id
		}
	}
	if lowest == nil {
		return nil
	}
	return describe("XTRIM", stream, client.XTrimMinIDApprox(ctx, stream, lowest.after().String(), 0).Err())
}

// settledOfGroups returns, for each group of the stream, an ID up to which it has acknowledged every entry.
func settledOfGroups(ctx context.Context, client redis.UniversalClient, stream string) (map[string]streamID, error) {
	groups, err := client.XInfoGroups(ctx, stream).Result()
	if err != nil {
		return nil, describe("XINFO GROUPS", stream, err)
	}
	pending := make([]*redis.XPendingCmd, len(groups))
	_, err = client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, g := range groups {
			pending[i] = p.XPending(ctx, stream, g.Name)
		}
		return nil
	})
	if err != nil {
		return nil, describe("XPENDING", stream, err)
	}
	done := make(map[string]streamID, len(groups))
	for i, g := range groups {
		done[g.Name] = settledUpTo(g, pending[i].Val())
	}
	return done, nil
}

// settledUpTo returns an ID up to which a group has acknowledged every entry: that before its lowest pending one, or
// the last it was given. The group must have been asked before the pending entries were, so that what is delivered in
// between lies above both.
func settledUpTo(g redis.XInfoGroup, p *redis.XPending) streamID {
	last, _ := parseStreamID(g.LastDeliveredID)
	if p == nil || p.Count == 0 {
		return last
	}
	lowest, ok := parseStreamID(p.Lower)
	if !ok || last.less(lowest) {
		return last
	}
	return lowest.before()
}
