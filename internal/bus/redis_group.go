package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// redisGroup is what a subscription knows of its consumer group. It makes the group, and makes it again when it has
// gone: destroyed, or with its stream (DEL, FLUSHALL). It then starts where nothing that is not known to be
// acknowledged is skipped; entries that were acknowledged in the last moments may come again.
type redisGroup struct {
	client redis.UniversalClient
	stream string
	name   string
	newest bool // a group that never was begins with the newest entry, not the oldest
	who    *consumer
	log    *slog.Logger

	mu    sync.Mutex
	known bool     // the group has been seen
	last  lastSeen // when known
	kept  string   // last, as it was last written for others
}

// lastSeen is the state of a stream and a group at one moment.
type lastSeen struct {
	done      streamID // every entry up to it was acknowledged, by whatever consumer
	delivered string   // last-delivered-id
	generated streamID // the stream's last ID
	added     int64    // entries ever added to the stream; 0 = the server does not say
}

// String is what parseLastSeen reads.
func (l lastSeen) String() string {
	return fmt.Sprintf("%s %s %s %d", l.done, l.delivered, l.generated, l.added)
}

func parseLastSeen(text string) (l lastSeen, ok bool) {
	parts := strings.Fields(text)
	if len(parts) != 4 {
		return lastSeen{}, false
	}
	var (
		ids   [3]streamID
		valid = true
	)
	for i := range ids {
		ids[i], ok = parseStreamID(parts[i])
		valid = valid && ok
	}
	added, err := strconv.ParseInt(parts[3], 10, 64)
	return lastSeen{done: ids[0], delivered: parts[1], generated: ids[2], added: added}, valid && err == nil
}

// groupView is one look at a group.
type groupView struct {
	consumers []redis.XInfoConsumer
}

// look reads the group's state. The error is one of isNoGroup when there is none.
func (g *redisGroup) look(ctx context.Context) (groupView, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var (
		stream    *redis.XInfoStreamCmd
		groups    *redis.XInfoGroupsCmd
		pending   *redis.XPendingCmd
		consumers *redis.XInfoConsumersCmd
	)
	// A pipeline reports the first error only; each command's own is looked at below.
	_, _ = g.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		groups = p.XInfoGroups(ctx, g.stream)
		pending = p.XPending(ctx, g.stream, g.name)
		stream = p.XInfoStream(ctx, g.stream)
		consumers = p.XInfoConsumers(ctx, g.stream, g.name)
		return nil
	})
	for _, c := range []struct {
		name string
		err  error
	}{
		{"XINFO GROUPS", groups.Err()},
		{"XPENDING", pending.Err()},
		{"XINFO STREAM", stream.Err()},
		{"XINFO CONSUMERS", consumers.Err()},
	} {
		if c.err != nil {
			return groupView{}, describe(c.name, g.stream, c.err)
		}
	}
	for _, info := range groups.Val() {
		if info.Name == g.name {
			g.note(stream.Val(), info, pending.Val())
		}
	}
	g.keep(ctx)
	return groupView{consumers: consumers.Val()}, nil
}

// keep writes what was seen for those who find the group gone and have not seen it: with a group that begins with the
// newest entry they would skip what it had not acknowledged. One that begins with the oldest they begin there again.
// What was written last will do when it fails: more is repeated then.
func (g *redisGroup) keep(ctx context.Context) {
	g.mu.Lock()
	text := g.last.String()
	due := g.newest && g.known && text != g.kept
	g.mu.Unlock()
	if !due {
		return
	}
	key := g.who.keys.seen()
	if err := g.client.Set(ctx, key, text, 0).Err(); err != nil {
		g.log.Debug("keeping how far the group is failed", "err", describe("SET", key, err))
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.kept = text
}

func (g *redisGroup) note(stream *redis.XInfoStream, group redis.XInfoGroup, pending *redis.XPending) {
	generated, _ := parseStreamID(stream.LastGeneratedID)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known = true
	g.last = lastSeen{
		done: settledUpTo(group, pending), delivered: group.LastDeliveredID,
		generated: generated, added: stream.EntriesAdded,
	}
}

// ensure makes the group unless it exists.
func (g *redisGroup) ensure(ctx context.Context) error {
	_, err := g.look(ctx)
	if err == nil || !isNoGroup(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	g.mu.Lock()
	known, last := g.known, g.last
	g.mu.Unlock()
	if !known && g.newest {
		if last, known, err = g.recall(ctx); err != nil {
			return err
		}
	}
	start := last.done.String() // of what is not known the beginning, or with recall the newest entry
	if known {
		if start, err = g.resume(ctx, last); err != nil {
			return err
		}
	}
	g.mu.Lock()
	g.kept = "" // it may have gone with the group
	g.mu.Unlock()
	err = g.client.XGroupCreateMkStream(ctx, g.stream, g.name, start).Err()
	switch {
	case redis.HasErrorPrefix(err, "BUSYGROUP"): // somebody else was first
	case err != nil:
		return describe("XGROUP CREATE", g.stream, err)
	case known:
		g.log.Warn("consumer group was gone and has been made again", "from", start)
	default:
		g.log.Info("consumer group created", "from", start)
	}
	_, err = g.look(ctx)
	return err
}

// recall returns what others have seen of the group. When there is none, known is false, and the group is to begin after
// done: the newest entry now, which is kept before the group is made, since nothing that comes later may be skipped.
func (g *redisGroup) recall(ctx context.Context) (last lastSeen, known bool, err error) {
	key := g.who.keys.seen()
	for {
		text, err := g.client.Get(ctx, key).Result()
		if err == nil {
			if last, known = parseLastSeen(text); !known {
				return lastSeen{}, false, fmt.Errorf("redis: key %q does not say how far the group is: delete it", key)
			}
			return last, true, nil
		}
		if !errors.Is(err, redis.Nil) {
			return lastSeen{}, false, describe("GET", key, err)
		}
		stream, err := g.client.XInfoStream(ctx, g.stream).Result()
		switch {
		case isNoKey(err):
			stream = &redis.XInfoStream{}
		case err != nil:
			return lastSeen{}, false, describe("XINFO STREAM", g.stream, err)
		}
		last = lastSeen{added: stream.EntriesAdded}
		last.generated, _ = parseStreamID(stream.LastGeneratedID)
		last.done, last.delivered = last.generated, last.generated.String()
		err = g.client.SetArgs(ctx, key, last.String(), redis.SetArgs{Mode: "NX"}).Err()
		if err == nil {
			return last, false, nil
		}
		if !errors.Is(err, redis.Nil) { // or else another was first
			return lastSeen{}, false, describe("SET", key, err)
		}
	}
}

// resume returns where a group that has gone begins anew. If the stream is still the one that was read, that is after
// the last entry up to which all were acknowledged; if it may be another, at its beginning.
func (g *redisGroup) resume(ctx context.Context, last lastSeen) (string, error) {
	var (
		stream  *redis.XInfoStreamCmd
		witness *redis.XMessageSliceCmd
		lease   *redis.StringCmd
	)
	held, key := g.who.alive(), g.who.keys.lease(g.who.is())
	_, _ = g.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		stream = p.XInfoStream(ctx, g.stream)
		witness = p.XRangeN(ctx, g.stream, last.delivered, last.delivered, 1)
		lease = p.Get(ctx, key)
		return nil
	})
	switch err := stream.Err(); {
	case isNoKey(err):
		return "0", nil
	case err != nil:
		return "", describe("XINFO STREAM", g.stream, err)
	}
	if err := witness.Err(); err != nil {
		return "", describe("XRANGE", g.stream, err)
	}
	if err := lease.Err(); err != nil && !errors.Is(err, redis.Nil) {
		return "", describe("GET", key, err)
	}
	generated, _ := parseStreamID(stream.Val().LastGeneratedID)
	switch {
	case generated.less(last.generated), stream.Val().EntriesAdded < last.added:
		return "0", nil // a younger stream
	case held && lease.Err() != nil:
		return "0", nil // the lease went too: the database was flushed
	case len(witness.Val()) == 0:
		return "0", nil // what was read last is not there
	}
	return last.done.String(), nil
}

// check asks for every permission the subscription will need and returns an error that names those that lack, nil when
// none does. It changes nothing: the group and the IDs it names do not exist.
func (g *redisGroup) check(ctx context.Context, published []string, trim bool) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	lease, registry := g.who.keys.lease("-"), g.who.keys.consumers()
	type probe struct {
		command, key string
		args         []any
	}
	probes := []probe{
		{"XREADGROUP", g.stream, []any{"XREADGROUP", "GROUP", "-", "-", "COUNT", 1, "STREAMS", g.stream, "0"}},
		{"XACK", g.stream, []any{"XACK", g.stream, "-", "0-0"}},
		{"XCLAIM", g.stream, []any{"XCLAIM", g.stream, "-", "-", 0, "0-0"}},
		{"XPENDING", g.stream, []any{"XPENDING", g.stream, "-"}},
		{"XRANGE", g.stream, []any{"XRANGE", g.stream, "0-1", "0-1"}},
		{"XINFO STREAM", g.stream, []any{"XINFO", "STREAM", g.stream}},
		{"XINFO GROUPS", g.stream, []any{"XINFO", "GROUPS", g.stream}},
		{"XINFO CONSUMERS", g.stream, []any{"XINFO", "CONSUMERS", g.stream, "-"}},
		{"XGROUP CREATE", g.stream, []any{"XGROUP", "CREATE", g.stream, g.name, "-"}},
		{"SET", lease, []any{"SET", lease, "", "XX", "PX", 1}},
		{"GET", lease, []any{"GET", lease}},
		{"MGET", lease, []any{"MGET", lease}},
		{"DEL", lease, []any{"DEL", lease}},
		{"EXISTS", lease, []any{"EXISTS", lease}},
		{"PEXPIRE", lease, []any{"PEXPIRE", lease, 1}},
		{"PTTL", lease, []any{"PTTL", lease}},
		{"SADD", registry, []any{"SADD", registry, "-"}},
		{"SMISMEMBER", registry, []any{"SMISMEMBER", registry, "-"}},
		{"SREM", registry, []any{"SREM", registry, "-"}},
		{"EVAL", lease, []any{"EVAL", "return 1", 1, lease}},
		{"EVALSHA", lease, []any{"EVALSHA", "0", 1, lease}},
	}
	if g.newest {
		key := g.who.keys.seen()
		probes = append(probes, probe{"GET", key, []any{"GET", key}})
	}
	if trim {
		probes = append(probes, probe{"XTRIM", g.stream, []any{"XTRIM", g.stream, "MINID", "0-0"}})
	}
	for _, s := range published {
		probes = append(probes, probe{"XADD", s, []any{"XADD", s, "NOMKSTREAM", "0-0", "-", "-"}})
	}
	cmds := make([]*redis.Cmd, len(probes))
	_, _ = g.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, probe := range probes {
			cmds[i] = p.Do(ctx, probe.args...)
		}
		return nil
	})
	var lacks []error
	for i, cmd := range cmds {
		if err := cmd.Err(); redis.HasErrorPrefix(err, "NOPERM") {
			lacks = append(lacks, describe(probes[i].command, probes[i].key, err))
		}
	}
	return joinFaults(lacks)
}

// joinFaults puts several faults into one line.
func joinFaults(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return fmt.Errorf("%w; and %w", errs[0], joinFaults(errs[1:]))
}
