package bus

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// read takes entries until the subscription ends. Whatever goes wrong, it attaches again, for ever.
func (s *subscription) read() {
	ctx := s.live
	var retry backoff
	for ctx.Err() == nil {
		err := s.attach(ctx)
		if err == nil {
			s.health.set(partReader, nil)
			retry.reset()
			if err = s.readOwn(ctx); err == nil {
				err = s.readNew(ctx)
			}
		}
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errLeaseLost) || redis.HasErrorPrefix(err, "NOLEASE") || isNoGroup(err) {
			// Mended by attaching again, at once. The backoff keeps it from spinning.
			if !retry.wait(ctx, retryFirst) {
				return
			}
			continue
		}
		s.health.set(partReader, err)
		if !retry.wait(ctx, longestWait(err)) {
			return
		}
	}
}

// attach makes sure of what a reader needs: the permissions, the group, a name in it, a connection to read over.
func (s *subscription) attach(ctx context.Context) error {
	err := s.group.ensure(ctx)
	if err != nil && !redis.HasErrorPrefix(err, "NOPERM") {
		return err
	}
	// One look names everything that is not permitted, not only what failed first.
	trim := s.redis.cfg.Trim == TrimAcked
	if lacks := s.group.check(ctx, s.redis.publish.writer.targets(), trim); lacks != nil {
		return lacks
	}
	if err != nil {
		return err
	}
	if err := s.identify(ctx); err != nil {
		return err
	}
	return s.connect(ctx)
}

// afterAll is an ID that no pending entry comes after. Redis takes the very last ID for ">", which gives out new ones.
const afterAll = "18446744073709551615-0"

// connect reads nothing over the connection that reads, which may be refused while the others, opened before, work: by
// a server that has all the clients it takes, say, or another password by now.
func (s *subscription) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := s.reads.Do(ctx, "XREADGROUP", "GROUP", s.group.name, s.who.is(), "COUNT", 1,
		"STREAMS", s.stream, afterAll).Err()
	if errors.Is(err, redis.Nil) {
		err = nil
	}
	return describe("XREADGROUP", s.stream, err)
}

// identify makes sure that the consumer has a name of its own.
func (s *subscription) identify(ctx context.Context) error {
	kept, err := s.who.claim(ctx)
	if err == nil && !kept {
		s.log.Warn("consumer lease was lost, so entries in flight may run elsewhere too", "consumer", s.who.is())
	}
	return err
}

// readOwn runs what the consumer has pending from an earlier life, or from a reply that never arrived, and waits for
// that, so that it comes before what is new. Some of it may take long, so it waits for MaxIdle at most; the rest goes
// on beside what is new.
func (s *subscription) readOwn(ctx context.Context) error {
	select {
	case s.owning <- struct{}{}:
	default:
		return nil // the last one is still at it
	}
	result := make(chan error, 1)
	s.work.Go(func() {
		result <- s.recovery.run(ctx, owner{name: s.who.is()})
		<-s.owning
	})
	patience := time.NewTimer(s.redis.cfg.MaxIdle)
	defer patience.Stop()
	select {
	case err := <-result:
		return err
	case <-patience.C:
		return nil
	}
}

// readNew takes new entries, batch by batch, until something goes wrong.
func (s *subscription) readNew(ctx context.Context) error {
	cfg := s.redis.cfg
	for {
		n := s.flight.room(ctx, s.batch())
		if n == 0 {
			return ctx.Err()
		}
		if !s.who.alive() {
			return errLeaseLost
		}
		events, err := s.readBatch(ctx, n)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			cfg.Observer.Read(s.stream, s.group.name, len(events))
			s.dispatch(events)
		}
	}
}

// replyBytes is about how large a reply should be at most.
const replyBytes = 16 << 20

// batch is how many entries the next read asks for: fewer than Batch when they are large, or may be.
func (s *subscription) batch() int {
	if s.size == 0 {
		return min(s.redis.cfg.Batch, s.redis.cfg.largeBatch())
	}
	return min(s.redis.cfg.Batch, max(1, replyBytes/s.size))
}

// largeBatch is how many entries of the largest size a reply may have.
func (c RedisConfig) largeBatch() int { return int(max(1, replyBytes/c.MaxEventSize)) }

// readBatch waits for new entries and decodes them; none when there are none for a while.
func (s *subscription) readBatch(ctx context.Context, n int) ([]delivery, error) {
	block := s.redis.cfg.Block.Truncate(time.Millisecond)
	// The deadline is what notices a server that hangs.
	ctx, cancel := context.WithTimeout(ctx, block+readGrace)
	defer cancel()
	s.buffer.reset()
	err := s.reads.Process(ctx, redis.NewRawWriteToCmd(ctx, &s.buffer,
		"xreadgroup", "group", s.group.name, s.who.is(), "count", n, "block", block.Milliseconds(),
		"streams", s.stream, ">"))
	if err != nil {
		return nil, describe("XREADGROUP", s.stream, err)
	}
	events := make([]delivery, 0, n)
	err = readEntries(s.buffer.Bytes(), func(e *replyEntry) {
		events = append(events, s.decodeReply(e))
	})
	if len(events) > 0 {
		s.size = len(s.buffer.Bytes()) / len(events)
	}
	return events, describe("XREADGROUP", s.stream, err)
}

// decodeReply makes the event of a new entry. Its bytes are copied, not to keep a whole reply for one event.
func (s *subscription) decodeReply(e *replyEntry) delivery {
	id := string(e.id)
	if len(e.pairs) == 2 && string(e.pairs[0]) == fieldData {
		ev := s.decoder.Decode(id, bytes.Clone(e.pairs[1]))
		ev.Deliveries = 1
		return delivery{event: ev}
	}
	fields := make(map[string]any, len(e.pairs)/2)
	for i := 0; i < len(e.pairs); i += 2 {
		fields[string(e.pairs[i])] = string(e.pairs[i+1])
	}
	return s.decode(id, fields, 1)
}
