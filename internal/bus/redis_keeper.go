package bus

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// Housekeeping of a consumer group.
const (
	keepMost     = time.Second // longest time between two looks at the group
	dropIdle     = time.Hour   // a dead consumer that has nothing pending is deleted after so long
	dropEvery    = time.Minute
	orphanMargin = time.Second
)

// touchEntries resets the idle time of entries that a consumer still has, and leaves their delivery count alone. KEYS:
// stream. ARGV: group, consumer, IDs.
const touchEntries = `
for i = 3, #ARGV do
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if p and p[2] == ARGV[2] then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'JUSTID')
  end
end`

// keeper keeps a consumer's group in order. At every beat it claims a name if the lease was lost, touches what is in flight,
// and looks for entries that nobody handles: those of consumers that have died, and those Redis gave to this consumer
// in a reply that never arrived.
type keeper struct {
	sub   *subscription
	every time.Duration
	fresh *redis.Script
	drop  *redis.Script
	found chan []owner // one list at most: those to rescue from

	failures int                  // beats in a row that did not work
	healthy  time.Time            // since when every beat has worked; zero = the last did not
	missing  map[string]time.Time // since when a consumer of ours has been seen without a lease
	trimmed  time.Time
	groups   map[string]time.Time // when each group of the stream was last seen, by trim
	dropped  time.Time
}

func newKeeper(s *subscription) *keeper {
	return &keeper{
		sub: s, every: min(s.redis.cfg.Lease/3, keepMost),
		fresh: redis.NewScript(touchEntries), drop: redis.NewScript(dropConsumer),
		found: make(chan []owner, 1), missing: map[string]time.Time{},
		groups: map[string]time.Time{},
	}
}

// keep works until the subscription ends.
func (k *keeper) keep() {
	ticker := time.NewTicker(k.every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-k.sub.live.Done():
			return
		}
		if k.sub.who.is() == "" {
			continue // the reader has not attached yet
		}
		err := k.beat(k.sub.live)
		if k.sub.live.Err() != nil {
			return
		}
		k.note(err)
	}
}

// note keeps what became of a beat. A second failure in a row is a fault of the subscription, and so is one that took
// all the time it had: a reader that waits for free places would not notice.
func (k *keeper) note(err error) {
	if err == nil {
		k.failures = 0
		k.sub.health.set(partKeeper, nil)
		return
	}
	k.healthy = time.Time{}
	if k.failures++; k.failures > 1 || isTimeout(err) {
		k.sub.health.set(partKeeper, err)
	}
}

func (k *keeper) beat(ctx context.Context) error {
	s := k.sub
	if !s.who.alive() {
		if err := s.identify(ctx); err != nil {
			return err
		}
	}
	view, err := s.group.look(ctx)
	if isNoGroup(err) {
		if err = s.group.ensure(ctx); err == nil {
			view, err = s.group.look(ctx)
		}
	}
	if err != nil {
		return err
	}
	now := time.Now()
	if k.healthy.IsZero() {
		k.healthy = now
		clear(k.missing)
	}
	if err := k.touch(ctx, now); err != nil {
		return err
	}
	owners, err := k.abandoned(ctx, view, now)
	if err != nil {
		return err
	}
	if len(owners) > 0 {
		select {
		case k.found <- owners:
		default: // the last list is still being worked on
		}
	}
	if err := k.tidy(ctx, view, now); err != nil {
		s.log.Debug("tidying the group failed", "err", err)
	}
	return nil
}

// touch tells Redis of entries that have been in flight for long, so that no consumer that goes by idle time takes
// them.
func (k *keeper) touch(ctx context.Context, now time.Time) error {
	s := k.sub
	ids := s.flight.stale(now.Add(-s.redis.cfg.MaxIdle / 3))
	for from := 0; from < len(ids); from += claimPage {
		page := ids[from:min(from+claimPage, len(ids))]
		args := []any{s.group.name, s.who.is()}
		for _, id := range page {
			args = append(args, id.String())
		}
		err := k.fresh.Run(ctx, s.redis.client, []string{s.stream}, args...).Err()
		if err != nil && !errors.Is(err, redis.Nil) {
			return describe("EVALSHA", s.stream, err)
		}
		s.flight.touched(page, now)
	}
	return nil
}

// abandoned returns the consumers whose pending entries are to be run here.
func (k *keeper) abandoned(ctx context.Context, view groupView, now time.Time) ([]owner, error) {
	s := k.sub
	self := s.who.is()
	var others []string
	var owners []owner
	for _, c := range view.consumers {
		switch {
		case c.Pending == 0:
		case c.Name != self:
			others = append(others, c.Name)
		case c.Pending > int64(s.flight.len()):
			// More than we know of. What was on its way when Redis was asked is younger than a read can be.
			owners = append(owners, owner{name: self, idle: s.redis.cfg.Block + readGrace + orphanMargin})
		}
	}
	if len(others) == 0 {
		clear(k.missing)
		return owners, nil
	}
	leased, ours, err := k.standing(ctx, others)
	if err != nil {
		return nil, err
	}
	seen := make(map[string]time.Time, len(others))
	for i, name := range others {
		switch {
		case leased[i]:
		case !ours[i]:
			owners = append(owners, owner{name: name, idle: s.redis.cfg.MaxIdle})
		default:
			since, ok := k.missing[name]
			if !ok {
				since = now
			}
			seen[name] = since
			if k.dead(since, now) {
				owners = append(owners, owner{name: name})
			}
		}
	}
	k.missing = seen
	return owners, nil
}

// dead reports whether a consumer that has had no lease since then is dead: at two beats in a row. When Redis was away,
// leases have expired that their holders are about to renew, hence the wait for a lease's time after that.
func (k *keeper) dead(since, now time.Time) bool {
	return since.Before(now) && now.Sub(k.healthy) >= k.sub.redis.cfg.Lease
}

// standing returns, for each consumer, whether it has a lease and whether it is one of ours.
func (k *keeper) standing(ctx context.Context, names []string) (leased, ours []bool, err error) {
	keys := k.sub.who.keys
	leases, members := make([]string, len(names)), make([]any, len(names))
	for i, name := range names {
		leases[i], members[i] = keys.lease(name), name
	}
	var values *redis.SliceCmd
	var known *redis.BoolSliceCmd
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = k.sub.redis.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		values = p.MGet(ctx, leases...)
		known = p.SMIsMember(ctx, keys.consumers(), members...)
		return nil
	})
	if err != nil {
		return nil, nil, describe("MGET", leases[0], err)
	}
	leased = make([]bool, len(names))
	for i, v := range values.Val() {
		leased[i] = v != nil
	}
	return leased, known.Val(), nil
}

// rescue runs the entries of the consumers that keep finds, until the subscription ends.
func (k *keeper) rescue() {
	ctx := k.sub.live
	for {
		select {
		case owners := <-k.found:
			for _, o := range owners {
				if err := k.sub.recovery.run(ctx, o); err != nil && ctx.Err() == nil {
					k.sub.log.Debug("running pending entries failed", "owner", o.name, "err", err)
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// tidy trims the stream and deletes dead consumers, each when it is time.
func (k *keeper) tidy(ctx context.Context, view groupView, now time.Time) error {
	s := k.sub
	if s.redis.cfg.Trim == TrimAcked && now.Sub(k.trimmed) >= trimEvery {
		k.trimmed = now
		if err := k.trim(ctx, now); err != nil {
			return err
		}
	}
	if now.Sub(k.dropped) < dropEvery {
		return nil
	}
	k.dropped = now
	keys := s.who.keys
	for _, c := range view.consumers {
		if c.Pending > 0 || c.Idle < dropIdle || c.Name == s.who.is() {
			continue
		}
		_, ours, err := k.standing(ctx, []string{c.Name})
		if err != nil {
			return err
		}
		if !ours[0] {
			continue
		}
		err = k.drop.Run(ctx, s.redis.client,
			[]string{s.stream, keys.lease(c.Name), keys.consumers()},
			s.group.name, c.Name, dropIdle.Milliseconds()).Err()
		if err != nil {
			return describe("XGROUP DELCONSUMER", s.stream, err)
		}
	}
	return nil
}

// groupGone is how long the entries of a group that has gone are kept for it. One of ours that was destroyed is made
// again in far less.
const groupGone = time.Minute

// trim deletes what every group of the stream has acknowledged. A group that was there a moment ago and is not there now
// counts as one that has acknowledged nothing: it may be about to be made again, as may the one this subscription is of.
func (k *keeper) trim(ctx context.Context, now time.Time) error {
	done, err := settledOfGroups(ctx, k.sub.redis.client, k.sub.stream)
	if err != nil {
		return err
	}
	for name := range done {
		k.groups[name] = now
	}
	if k.groups[k.sub.group.name].IsZero() {
		return nil
	}
	for name, seen := range k.groups {
		switch {
		case seen.Equal(now):
		case now.Sub(seen) < groupGone || name == k.sub.group.name:
			return nil
		default:
			delete(k.groups, name)
		}
	}
	return trimTo(ctx, k.sub.redis.client, k.sub.stream, done)
}
