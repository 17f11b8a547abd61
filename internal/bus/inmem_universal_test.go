package bus

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
)

// TestInMemoryUniversal is Watermill's suite for any Pub/Sub. Its messages are
// no envelopes, so each comes with an error in its event; UUID, payload and
// metadata are what it checks.
func TestInMemoryUniversal(t *testing.T) {
	m := openInMemory(t, InMemoryConfig{
		Capacity: 20_000, DrainTimeout: 100 * time.Millisecond,
		redeliverFirst: time.Millisecond, redeliverMost: 10 * time.Millisecond,
	})
	v := &universalView{bus: m, keep: map[[2]string]bool{}}
	ofGroup := func(_ *testing.T, group string) (message.Publisher, message.Subscriber) {
		return universalPublisher{v, group}, &universalSubscriber{view: v, group: group}
	}
	universal := func(t *testing.T) (message.Publisher, message.Subscriber) { return ofGroup(t, "universal") }
	features := tests.Features{
		ConsumerGroups: true, ExactlyOnceDelivery: true, GuaranteedOrder: true, Persistent: true,
		RequireSingleInstance: true, // a group has one reader at a time
		ForceShort:            testing.Short(),
	}
	t.Run("suite", func(t *testing.T) { // ends after its parallel tests
		tests.TestPubSub(t, features, universal, ofGroup)
	})
	// The suite leaves this one out where delivery is exactly once, although it
	// asks for no more than that nothing is lost.
	t.Run("continue after close", func(t *testing.T) {
		features.ExactlyOnceDelivery = false
		tests.TestContinueAfterSubscribeClose(t, tests.TestContext{TestID: tests.NewTestID(), Features: features}, universal)
	})
}

// universalView shows a bus as the suite expects one, which lets topics and
// groups outlive those who use them: a subscriber of each is kept open.
type universalView struct {
	bus *InMemory

	mu   sync.Mutex
	keep map[[2]string]bool
}

func (v *universalView) subscriber(topic, group string) (message.Subscriber, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if key := [2]string{topic, group}; !v.keep[key] {
		if _, err := v.bus.Subscriber(topic, group, StartOldest, 1); err != nil {
			return nil, err
		}
		v.keep[key] = true
	}
	return v.bus.Subscriber(topic, group, StartOldest, 1)
}

type universalPublisher struct {
	view  *universalView
	group string
}

func (p universalPublisher) Publish(topic string, messages ...*message.Message) error {
	sub, err := p.view.subscriber(topic, p.group)
	if err != nil {
		return err
	}
	if err := sub.Close(); err != nil {
		return err
	}
	return p.view.bus.Publisher().Publish(topic, messages...)
}

func (p universalPublisher) Close() error { return p.view.bus.Publisher().Close() }

// universalSubscriber subscribes to any topic.
type universalSubscriber struct {
	view  *universalView
	group string

	mu     sync.Mutex
	subs   []message.Subscriber
	relays sync.WaitGroup
}

// SubscribeInitialize makes the group.
func (s *universalSubscriber) SubscribeInitialize(topic string) error {
	sub, err := s.view.subscriber(topic, s.group)
	if err != nil {
		return err
	}
	return sub.Close()
}

// Subscribe gives each message a context of its own, which the suite wants to
// be cancelled when the message is acknowledged.
func (s *universalSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	sub, err := s.view.subscriber(topic, s.group)
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
		for msg := range in { // one in flight
			ctx, cancel := context.WithCancel(msg.Context())
			relayed := msg.Copy()
			relayed.SetContext(ctx)
			select {
			case out <- relayed:
				select {
				case <-relayed.Acked():
					msg.Ack()
				case <-relayed.Nacked():
					msg.Nack()
				case <-ctx.Done():
				}
			case <-ctx.Done():
			}
			cancel()
		}
	})
	return out, nil
}

func (s *universalSubscriber) Close() error {
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
