package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
)

// finalTimeout bounds what a subscription does with Redis after it was drained: the last acknowledgements, what it
// gives back, its lease.
const finalTimeout = 1500 * time.Millisecond

// answerGrace is how long a drain that has taken too long waits for the answers of handlers to the cancellation of
// their contexts.
const answerGrace = 250 * time.Millisecond

// redisSubscriber makes subscriptions of one stream for one group.
type redisSubscriber struct {
	redis                *Redis
	stream, group, start string
	lanes                int

	mu     sync.Mutex
	subs   map[*subscription]struct{}
	closed bool
	former *redisSubscriber // whose place it takes; nil once it has
	heir   bool             // another takes its place
	left   *identity        // what its consumer was, for the heir
}

var _ message.Subscriber = (*redisSubscriber)(nil)

// Subscribe starts a consumer of the group and returns what it reads. The topic does not matter: the subscriber has its
// stream. It returns at once, Redis or no Redis, and the consumer attaches when it can.
//
// The messages' contexts carry the *event.Event and are cancelled only when a drain takes too long. Each must be
// acknowledged when it was handled; one that is refused is offered again after a backoff. One is in flight a lane.
//
// Every entry is delivered at least once. It may be delivered again after a crash, when this process was paused or cut
// off from Redis for longer than its lease, and when the group was destroyed. Events of one key are in order as far as
// they are delivered for the first time to one process.
//
// The subscription ends when ctx does or the subscriber is closed. It then reads and offers no more, waits for the
// messages that were taken, up to DrainTimeout, acknowledges them to Redis, gives back the others for any consumer to
// run, and closes the channel.
func (s *redisSubscriber) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("subscribe to %s, group %s: %w", s.stream, s.group, ErrClosed)
	}
	sub := newSubscription(ctx, s)
	if s.former != nil {
		if who := s.former.bequeath(); who != nil {
			sub.who.assume(*who)
		}
		s.former = nil
	}
	if !s.redis.add(sub) {
		sub.stop()
		sub.run() // ends what newSubscription started
		return nil, fmt.Errorf("subscribe to %s, group %s: %w", s.stream, s.group, ErrClosed)
	}
	s.subs[sub] = struct{}{}
	go func() {
		sub.run()
		s.redis.remove(sub)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subs, sub)
	}()
	return sub.out, nil
}

// Close ends the subscriber's subscriptions and returns when they are drained. It may be called again.
func (s *redisSubscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	subs := make([]*subscription, 0, len(s.subs))
	for sub := range s.subs {
		subs = append(subs, sub)
		sub.stop()
	}
	s.mu.Unlock()
	for _, sub := range subs {
		<-sub.done
	}
	return s.forgo()
}

// subscription is one consumer of a group: a reader that takes new entries, lanes that hand them to the router, acks
// that acknowledge them, and a keeper that keeps the consumer's lease and looks after the entries of dead consumers.
type subscription struct {
	redis  *Redis
	from   *redisSubscriber
	stream string
	log    *slog.Logger
	out    chan *message.Message

	began time.Time

	live context.Context // until the subscription ends
	stop context.CancelFunc
	base context.Context // of the messages: until a drain has taken too long
	drop context.CancelFunc
	done chan struct{} // closed: drained

	group    *redisGroup
	who      *consumer
	flight   *flight
	acks     *acks
	lanes    *lanes
	recovery *recovery
	keeper   *keeper
	reads    redis.UniversalClient // has the connection that blocks
	buffer   replyBuffer           // of the reader: the last reply
	size     int                   // of the reader: of an entry, by the last reply; 0 = unknown
	decoder  event.Decoder

	gate   sync.RWMutex // held to dispatch, and locked to end that
	closed bool
	unread []delivery // what came after that

	work   sync.WaitGroup // what reads and keeps
	owning chan struct{}  // one token: what is left from an earlier life is being run
	health *health
}

func newSubscription(ctx context.Context, from *redisSubscriber) *subscription {
	r := from.redis
	log := r.log.With("stream", from.stream, "group", from.group)
	s := &subscription{
		redis: r, from: from, stream: from.stream, log: log, out: make(chan *message.Message), began: time.Now(),
		done: make(chan struct{}), decoder: event.Decoder{MaxSize: int(r.cfg.MaxEventSize)},
		flight: newFlight(r.cfg.MaxInFlight), reads: r.dial(true), owning: make(chan struct{}, 1), health: newHealth(log),
	}
	s.live, s.stop = context.WithCancel(ctx)
	s.base, s.drop = context.WithCancel(context.WithoutCancel(ctx))
	s.acks = newAcks(r, from.stream, from.group, s.flight, s.health)
	s.who = newConsumer(r, newRedisKeys(from.stream, from.group), log)
	s.group = &redisGroup{
		client: r.client, stream: from.stream, name: from.group, newest: from.start == StartNewest, who: s.who, log: log,
	}
	s.recovery = newRecovery(s)
	s.keeper = newKeeper(s)
	s.lanes = startLanes(laneConfig{
		base: s.base, n: from.lanes, out: s.out, settled: s.settled,
		first: r.cfg.redeliverFirst, most: r.cfg.redeliverMost, grace: answerGrace,
	})
	return s
}

// settled is told of every event that was handled.
func (s *subscription) settled(e *event.Event) {
	s.acks.add(e.EntryID)
	s.recovery.settled(e.EntryID)
}

// run works until the subscription ends, and drains it.
func (s *subscription) run() {
	defer close(s.done)
	ackLife, ackEnd := context.WithCancel(context.Background())
	var acking sync.WaitGroup
	holdLife, holdEnd := context.WithCancel(context.Background())
	var holding sync.WaitGroup
	holding.Go(func() { s.who.hold(holdLife) })
	s.work.Go(s.read)
	s.work.Go(s.keeper.keep)
	s.work.Go(s.keeper.rescue)
	acking.Go(func() { s.acks.run(ackLife) })

	<-s.live.Done()
	left := s.drain()
	ackEnd() // before the others are waited for: a server that hangs must not be asked once more meanwhile
	s.work.Wait()
	acking.Wait()
	s.finish(append(left, s.unread...), func() {
		holdEnd()
		holding.Wait()
	})
	close(s.out)
}

// drain ends reading and dispatching, and waits for what the router holds. It returns what was not handled.
func (s *subscription) drain() []delivery {
	late := time.AfterFunc(s.redis.cfg.DrainTimeout, s.drop)
	defer late.Stop()
	defer s.drop()
	s.gate.Lock()
	s.closed = true
	s.gate.Unlock()
	// A read that blocks ends with its connection. What the server gave it at that moment is pending, and runs later.
	if err := s.reads.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		s.log.Debug("closing the reading connection failed", "err", err)
	}
	return s.lanes.close(false)
}

// finish tells Redis what is left to tell, as far as that takes no longer than finalTimeout. What the router still holds
// after the drain stays this consumer's: it is not given back, and the lease on the name runs out by itself, so that
// others take it over only then. letGo ends the renewal of the lease.
func (s *subscription) finish(left []delivery, letGo func()) {
	ctx, cancel := context.WithTimeout(context.Background(), finalTimeout)
	defer cancel()
	held := 0
	for _, d := range left {
		if d.held {
			held++
		}
	}
	err := s.acks.flush(ctx)
	if err == nil {
		err = s.giveBack(ctx, left)
	}
	letGo()
	if held == 0 && !s.from.keepFor(s.who) && err == nil {
		err = s.who.release(ctx)
	}
	if err != nil {
		s.log.Warn("subscription ended without telling redis all, so entries may run again", "err", err)
	}
	if held > 0 {
		s.log.Warn("subscription ended while events were still being handled, which others will run again once the lease has expired",
			"events", held)
	}
	s.redis.cfg.Observer.InFlight(s.stream, s.group.name, 0)
	s.log.Info("subscription ended", "unhandled", len(left))
}

// giveBack takes back the deliveries of entries that Redis gave to this process and that it has not begun to handle. It
// did not die of them, so they do not count, and whoever runs them next need not suspect them. These are left, and what
// was in a reply that the end of the subscription cut off.
func (s *subscription) giveBack(ctx context.Context, left []delivery) error {
	if !s.who.alive() {
		return nil // they may be another's by now
	}
	counts, known := map[int64][]any{}, make(map[string]bool, len(left))
	for _, d := range left {
		known[d.event.EntryID] = true
		if !d.held {
			counts[d.event.Deliveries] = append(counts[d.event.Deliveries], d.event.EntryID)
		}
	}
	cut, err := s.recovery.since(ctx, s.began)
	if err != nil {
		return err
	}
	for _, p := range cut {
		id, _ := parseStreamID(p.ID)
		if !known[p.ID] && !s.flight.has(id) {
			counts[p.RetryCount] = append(counts[p.RetryCount], p.ID)
		}
	}
	_, err = s.redis.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for deliveries, ids := range counts {
			args := append([]any{"XCLAIM", s.stream, s.group.name, s.who.is(), 0}, ids...)
			p.Do(ctx, append(args, "RETRYCOUNT", max(deliveries-1, 0), "JUSTID")...)
		}
		return nil
	})
	return describe("XCLAIM", s.stream, err)
}

// fault returns why the subscription does not work, nil when it does.
func (s *subscription) fault() error {
	if err := s.health.fault(); err != nil {
		return fmt.Errorf("stream %s, group %s: %w", s.stream, s.group.name, err)
	}
	return nil
}

// decode makes the event of an entry.
func (s *subscription) decode(id string, fields map[string]any, deliveries int64) delivery {
	e := s.decoder.DecodeFields(id, fields)
	e.Deliveries = deliveries
	if most := s.redis.cfg.MaxDeliveries; most > 0 && deliveries > int64(most) {
		e.Err = &DeliveriesError{Deliveries: deliveries, Max: most}
	}
	return delivery{event: e, meta: entryMeta(fields)}
}

// entryMeta returns an entry's fields besides the data, nil when there are none.
func entryMeta(fields map[string]any) message.Metadata {
	_, hasData := fields[fieldData]
	if len(fields) == 0 || len(fields) == 1 && hasData {
		return nil
	}
	meta := make(message.Metadata, len(fields))
	for name, value := range fields {
		if text, ok := value.(string); ok && name != fieldData {
			meta[name] = text
		}
	}
	return meta
}

// dispatch hands events to the lanes. It returns whether any was handed on: not those that are in flight already, and
// none once the subscription ends, when they stay pending for whoever comes next.
func (s *subscription) dispatch(events []delivery) bool {
	if len(events) == 0 {
		return false
	}
	s.gate.RLock()
	if s.closed {
		s.gate.RUnlock()
		s.leave(events)
		return false
	}
	defer s.gate.RUnlock()
	ids, fresh := make([]streamID, len(events)), make([]bool, len(events))
	for i, d := range events {
		ids[i], _ = parseStreamID(d.event.EntryID)
	}
	inFlight := s.flight.add(ids, events, time.Now(), fresh)
	s.redis.cfg.Observer.InFlight(s.stream, s.group.name, inFlight)
	some := false
	for i, d := range events {
		if fresh[i] {
			s.lanes.enqueue(d)
			some = true
		}
	}
	return some
}

// leave keeps events that came too late, to be given back.
func (s *subscription) leave(events []delivery) {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.unread = append(s.unread, events...)
}
