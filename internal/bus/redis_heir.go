package bus

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Succeed makes the subscriber take the place of former, another of the same stream
// and group that is going to be closed: its first Subscribe, which must come after
// that, is the same consumer. The name and the lease on it pass from one to the other,
// so nobody can come between them, and what is pending under the name runs first. Where
// former still had events being handled when its drain ran out of time, it keeps the
// name, and with it those events, until the lease has expired. Any other subscriber as
// former is ignored.
func (s *redisSubscriber) Succeed(former message.Subscriber) {
	f, ok := former.(*redisSubscriber)
	if !ok || f == s || f.redis != s.redis || f.stream != s.stream || f.group != s.group {
		return
	}
	s.mu.Lock()
	s.former = f
	s.mu.Unlock()
	f.mu.Lock()
	f.heir = true
	f.mu.Unlock()
}

// identity is a consumer's name and the lease on it.
type identity struct {
	name, token string
	until       time.Time
}

// keepFor keeps the identity of a consumer that has ended for the heir. False when
// there is none, and the name is to be given up.
func (s *redisSubscriber) keepFor(who *consumer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.heir || s.left != nil {
		return false
	}
	s.left = who.yield()
	return s.left != nil
}

// bequeath hands the identity over, once; nil when there is none.
func (s *redisSubscriber) bequeath() *identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left == nil && s.former != nil { // it never subscribed
		s.left, s.former = s.former.bequeath(), nil
	}
	left := s.left
	s.left, s.heir = nil, false
	return left
}

// forgo gives up the name that was to be handed to this subscriber, which has been
// closed and never subscribed, unless it has an heir of its own.
func (s *redisSubscriber) forgo() error {
	s.mu.Lock()
	former, heir := s.former, s.heir
	if !heir {
		s.former = nil
	}
	s.mu.Unlock()
	if former == nil || heir {
		return nil
	}
	left := former.bequeath()
	if left == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), finalTimeout)
	defer cancel()
	who := newConsumer(s.redis, newRedisKeys(s.stream, s.group), s.redis.log)
	who.assume(*left)
	return who.release(ctx)
}

// yield ends the consumer's hold of its name without giving the lease up; nil when it
// has none.
func (c *consumer) yield() *identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.name == "" {
		return nil
	}
	left := &identity{name: c.name, token: c.token, until: c.until}
	c.until = time.Time{}
	return left
}

// assume makes the consumer one that has a name already. Its first claim renews the
// lease on it, or claims the name again.
func (c *consumer) assume(left identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name, c.token, c.until = left.name, left.token, left.until
}
