package bus

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// TestRedisUniversal is Watermill's suite for any Pub/Sub. Its messages are no envelopes, so each arrives with an error
// in its event; what it checks is what becomes of the messages.
//
// The suite's test of a restart has a data race of its own: TestRedisReconnect runs it without the race detector (make
// stress), and TestRedisPublishesOverRestarts looks at the same here.
func TestRedisUniversal(t *testing.T) {
	for name, lanes := range map[string]int{"one lane": 1, "lanes": 8} {
		t.Run(name, func(t *testing.T) {
			ofGroup := universal(t, redistest.Start(t), lanes)
			tests.TestPubSub(t, universalFeatures(lanes), func(t *testing.T) (message.Publisher, message.Subscriber) {
				return ofGroup(t, "universal")
			}, ofGroup)
		})
	}
}

// universal returns what makes the suite a publisher and a subscriber of a group.
func universal(t *testing.T, srv *redistest.Server, lanes int) tests.ConsumerGroupPubSubConstructor {
	t.Helper()
	r := newRig(t, srv.URL(), func(c *RedisConfig) {
		c.Consumer, c.DrainTimeout = "", 500*time.Millisecond
		c.redeliverFirst, c.redeliverMost = time.Millisecond, 10*time.Millisecond
		c.Logger = nil
	})
	return func(_ *testing.T, group string) (message.Publisher, message.Subscriber) {
		return plainPublisher{r.Publisher()}, &plainSubscriber{redis: r.Redis, group: group, lanes: lanes}
	}
}

// universalFeatures are what the transport promises with so many lanes.
func universalFeatures(lanes int) tests.Features {
	return tests.Features{
		ConsumerGroups: true, Persistent: true,
		GuaranteedOrder: lanes == 1, GuaranteedOrderWithSingleSubscriber: true,
		ForceShort: testing.Short(),
	}
}

// plainPublisher carries a message's UUID in the field that keeps an event's identity.
type plainPublisher struct{ message.Publisher }

func (p plainPublisher) Publish(topic string, messages ...*message.Message) error {
	for _, msg := range messages {
		entry := message.NewMessageWithContext(msg.Context(), "", msg.Payload)
		for name, value := range msg.Metadata {
			entry.Metadata.Set(name, value)
		}
		entry.Metadata.Set("original_id", msg.UUID)
		if err := p.Publisher.Publish(topic, entry); err != nil {
			return err
		}
	}
	return nil
}

// plainSubscriber subscribes to any topic, and gives each message a context of its own, as the suite wants it: a child
// of the subscription's, cancelled when the message is acknowledged.
type plainSubscriber struct {
	redis *Redis
	group string
	lanes int

	mu     sync.Mutex
	subs   []message.Subscriber
	relays sync.WaitGroup
}

func (s *plainSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	sub, err := s.redis.Subscriber(topic, s.group, StartOldest, s.lanes)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.subs = append(s.subs, sub)
	s.mu.Unlock()
	in, err := sub.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	s.relays.Go(func() {
		defer close(out)
		var relays sync.WaitGroup
		for msg := range in {
			ctx, cancel := context.WithCancel(ctx)
			plain := message.NewMessageWithContext(ctx, msg.UUID, msg.Payload)
			for name, value := range msg.Metadata {
				if name != "original_id" {
					plain.Metadata.Set(name, value)
				}
			}
			select {
			case out <- plain:
			case <-msg.Context().Done():
				cancel()
				continue
			}
			relays.Go(func() {
				defer cancel()
				select {
				case <-plain.Acked():
					msg.Ack()
				case <-plain.Nacked():
					msg.Nack()
				case <-msg.Context().Done():
				}
			})
		}
		relays.Wait()
	})
	return out, nil
}

func (s *plainSubscriber) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subs {
		if err := sub.Close(); err != nil {
			return err
		}
	}
	s.relays.Wait()
	return nil
}
