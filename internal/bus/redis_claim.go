package bus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// claimPage is how many pending entries are listed, and at most claimed, at once.
const claimPage = 200

// claimEntries takes pending entries over from their owner in one step, so that two consumers never both get one and a
// live owner keeps what it has: the claimer's own lease must be held, and the owner must have none (or be the claimer).
// An entry that was deleted from the stream is acknowledged. Claiming counts as a delivery.
//
// KEYS: stream, own lease, owner's lease. ARGV: group, consumer, token, owner, least idle time in ms, IDs. It returns,
// for each entry claimed, its ID, its deliveries and its fields; for one that was deleted, its ID only.
const claimEntries = `
if redis.call('GET', KEYS[2]) ~= ARGV[3] then return redis.error_reply('NOLEASE the claimer has no lease') end
if ARGV[4] ~= ARGV[2] and redis.call('EXISTS', KEYS[3]) == 1 then
  return redis.error_reply('LEASED the owner is alive')
end
local claimed = {}
for i = 6, #ARGV do
  local id = ARGV[i]
  local p = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)[1]
  if p and p[2] == ARGV[4] and p[3] >= tonumber(ARGV[5]) then
    local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
    if entry then
      redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id)
      claimed[#claimed + 1] = {id, p[4] + 1, entry[2]}
    else
      redis.call('XACK', KEYS[1], ARGV[1], id)
      claimed[#claimed + 1] = {id}
    end
  end
end
return claimed`

// owner is a consumer whose pending entries are to be run.
type owner struct {
	name string
	idle time.Duration // take only entries that have been idle for so long
}

// recovery runs what consumers left pending.
//
// Redis counts how often it delivers an entry. An entry with a count of zero was given back unread by a consumer that
// shut down in order, and runs like a new one. Any other was in the hands of a consumer that died, perhaps because of
// this very entry, although most such entries merely waited in its memory. They are therefore run one at a time, and
// each is claimed, which raises its count, only when it is about to run. So the count of an entry that waits stays what
// it was however often its neighbour kills the process, while the killer's own rises each time until it exceeds
// MaxDeliveries.
//
// A suspect runs in the lane of its key, so that it neither overtakes nor runs beside another entry of that.
type recovery struct {
	sub   *subscription
	claim *redis.Script
	turn  chan struct{} // one token: whoever has it may run a suspect

	running atomic.Pointer[suspect] // the one that runs, nil when none does

	// Entries whose claim got no answer, with the deliveries they had before: what Redis may have counted since was none.
	// Belongs to whoever has the turn.
	unsure map[string]int64
}

// suspect is an entry that was in the hands of a consumer that died.
type suspect struct {
	id      string
	settled chan struct{} // one token when it was
}

func newRecovery(s *subscription) *recovery {
	return &recovery{
		sub: s, claim: redis.NewScript(claimEntries), turn: make(chan struct{}, 1), unsure: map[string]int64{},
	}
}

// settled is told of every entry that was handled.
func (r *recovery) settled(id string) {
	if one := r.running.Load(); one != nil && one.id == id {
		notify(one.settled)
	}
}

// run runs everything that o has pending and that is not in flight here, in the order of the stream, and returns when
// the last of it has been dispatched, and settled if it was a suspect, which is waited for as long as patience lasts. It
// ends early, without an error, when o turns
// out to be alive.
func (r *recovery) run(ctx context.Context, o owner) error {
	p := pass{recovery: r, owner: o}
	defer func() {
		if p.ran > 0 {
			r.sub.log.Info("pending entries run again", "owner", o.name, "entries", p.ran)
		}
	}()
	for from := "-"; ; {
		page, err := p.list(ctx, from)
		if err != nil || len(page) == 0 {
			return err
		}
		before := p.ran
		err = p.runPage(ctx, page)
		r.sub.redis.cfg.Observer.Reclaimed(r.sub.stream, r.sub.group.name, p.ran-before)
		switch {
		case redis.HasErrorPrefix(err, "LEASED"):
			return nil
		case err != nil:
			return err
		}
		from = "(" + page[len(page)-1].ID
	}
}

// idleError is how far off an idle time may be: Redis counts whole milliseconds on a clock it reads now and then.
const idleError = 10 * time.Millisecond

// since returns what this consumer has pending and was certainly given after began.
func (r *recovery) since(ctx context.Context, began time.Time) ([]redis.XPendingExt, error) {
	p := pass{recovery: r, owner: owner{name: r.sub.who.is()}}
	var given []redis.XPendingExt
	for from := "-"; ; {
		page, err := p.list(ctx, from)
		if err != nil || len(page) == 0 {
			return given, err
		}
		for _, entry := range page {
			if entry.Idle+idleError < time.Since(began) {
				given = append(given, entry)
			}
		}
		from = "(" + page[len(page)-1].ID
	}
}

// pass is one run through the pending entries of an owner.
type pass struct {
	*recovery
	owner
	ran int
}

// list returns the owner's next pending entries.
func (p *pass) list(ctx context.Context, from string) ([]redis.XPendingExt, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	page, err := p.sub.redis.client.XPendingExt(ctx, &redis.XPendingExtArgs{
		Stream: p.sub.stream, Group: p.sub.group.name, Consumer: p.name,
		Idle: p.idle, Start: from, End: "+", Count: claimPage,
	}).Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	return page, describe("XPENDING", p.sub.stream, err)
}

func (p *pass) runPage(ctx context.Context, page []redis.XPendingExt) error {
	var unread []string
	for _, entry := range page {
		if id, ok := parseStreamID(entry.ID); !ok || p.sub.flight.has(id) {
			continue
		}
		if entry.RetryCount == 0 {
			unread = append(unread, entry.ID)
			continue
		}
		if err := p.runUnread(ctx, unread); err != nil {
			return err
		}
		unread = unread[:0]
		if err := p.runSuspect(ctx, entry.ID, entry.RetryCount); err != nil {
			return err
		}
	}
	return p.runUnread(ctx, unread)
}

// runUnread claims entries that no router has seen and dispatches them like new ones.
func (p *pass) runUnread(ctx context.Context, ids []string) error {
	for len(ids) > 0 {
		n := p.sub.flight.room(ctx, min(len(ids), p.sub.redis.cfg.largeBatch()))
		if n == 0 {
			return ctx.Err()
		}
		events, err := p.take(ctx, p.owner, ids[:n])
		if err != nil {
			return err
		}
		p.sub.dispatch(events)
		p.ran, ids = p.ran+len(events), ids[n:]
	}
	return nil
}

// runSuspect claims one entry and runs it with no other suspect beside it. One that has died with its consumer more
// than once is given the process to itself, as far as others finish within a lease's time. One that takes longer than
// MaxIdle does not seem to kill anybody, and the next may run beside it: what hangs must not hold up everything.
func (p *pass) runSuspect(ctx context.Context, id string, deliveries int64) error {
	s := p.sub
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if entryID, _ := parseStreamID(id); s.flight.has(entryID) {
		return nil // another pass has had the turn before, and a second claim would count as a delivery
	}
	if deliveries > 1 {
		release := s.flight.hold()
		defer release()
		s.flight.settle(ctx, s.redis.cfg.Lease)
	}
	one := &suspect{id: id, settled: make(chan struct{}, 1)}
	p.running.Store(one)
	defer p.running.Store(nil)
	events, err := p.takeOne(ctx, id, deliveries)
	if err != nil {
		return err
	}
	if !s.dispatch(events) {
		return ctx.Err()
	}
	p.ran++
	patience := time.NewTimer(s.redis.cfg.MaxIdle)
	defer patience.Stop()
	select {
	case <-one.settled:
		return nil
	case <-patience.C:
		s.log.Warn("pending entry takes long to run again, going on beside it", "owner", p.name, "entry", id)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// takeOne claims a suspect. A claim that was executed but whose answer was lost has raised the entry's count although
// nobody ran it; that is put right before it is claimed again.
func (p *pass) takeOne(ctx context.Context, id string, deliveries int64) ([]delivery, error) {
	if before, ok := p.unsure[id]; ok && before < deliveries && p.name == p.sub.who.is() {
		if err := p.uncount(ctx, id, before); err != nil {
			return nil, err
		}
	}
	delete(p.unsure, id)
	events, err := p.take(ctx, p.owner, []string{id})
	if err != nil && !isAnswer(err) {
		p.unsure[id] = deliveries
	}
	return events, err
}

// uncount sets the delivery count of an entry that this consumer has pending.
func (r *recovery) uncount(ctx context.Context, id string, deliveries int64) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s := r.sub
	err := s.redis.client.Do(ctx, "XCLAIM", s.stream, s.group.name, s.who.is(), 0, id,
		"RETRYCOUNT", deliveries, "JUSTID").Err()
	return describe("XCLAIM", s.stream, err)
}

// take claims entries and decodes them. Those that are not o's any more are left out, those that are no longer in the
// stream counted.
func (r *recovery) take(ctx context.Context, o owner, ids []string) ([]delivery, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, who := r.sub, r.sub.who
	self := who.is()
	args := make([]any, 0, 5+len(ids))
	args = append(args, s.group.name, self, who.token, o.name, o.idle.Milliseconds())
	for _, id := range ids {
		args = append(args, id)
	}
	reply, err := r.claim.Run(ctx, s.redis.client,
		[]string{s.stream, who.keys.lease(self), who.keys.lease(o.name)}, args...).Slice()
	if err != nil {
		return nil, describe("EVALSHA", s.stream, err)
	}
	events, trimmed := make([]delivery, 0, len(reply)), 0
	for _, item := range reply {
		id, deliveries, fields, err := claimedEntry(item)
		if err != nil {
			return nil, err
		}
		if fields == nil {
			trimmed++
			continue
		}
		events = append(events, s.decode(id, fields, deliveries))
	}
	if trimmed > 0 {
		s.redis.cfg.Observer.Trimmed(s.stream, s.group.name, trimmed)
		s.log.Warn("pending entries had been trimmed from the stream and are lost", "entries", trimmed)
	}
	return events, nil
}

// claimedEntry reads one element of claimEntries' reply; fields is nil when the entry was deleted.
func claimedEntry(item any) (id string, deliveries int64, fields map[string]any, err error) {
	parts, _ := item.([]any)
	if len(parts) > 0 {
		id, _ = parts[0].(string)
	}
	if id == "" {
		return "", 0, nil, fmt.Errorf("redis: claimed entry: unexpected reply %T", item)
	}
	if len(parts) < 3 {
		return id, 0, nil, nil
	}
	deliveries, _ = parts[1].(int64)
	pairs, _ := parts[2].([]any)
	fields = make(map[string]any, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		if name, ok := pairs[i].(string); ok {
			fields[name] = pairs[i+1]
		}
	}
	return id, deliveries, fields, nil
}
