package bus

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/mjdevaccount/pulseflow/event"
)

// Carrier takes deliveries from lanes to their reader through Watermill's
// gochannel, with a topic and a subscription for each lane. The in-memory bus
// and flow tests use it.
//
// gochannel alone would give neither order nor a bound: each message has a
// goroutine of its own there. Here a lane publishes its next message only when
// the last one was acknowledged, and is the only reader of its subscription. A
// refused message, which gochannel sends again at once and for ever, therefore
// waits in the subscription until the lane's backoff has passed.
type Carrier struct {
	base    context.Context
	name    string
	channel *gochannel.GoChannel
	topics  []string
	in      []<-chan *message.Message
}

// NewCarrier makes a carrier for n lanes, numbered from 0. Their topics start
// with name. It carries until base ends, or Close.
func NewCarrier(base context.Context, name string, n int) (*Carrier, error) {
	c := &Carrier{
		base: base,
		name: name,
		channel: gochannel.NewGoChannel(gochannel.Config{
			OutputChannelBuffer: 1, // one in flight a lane
			PreserveContext:     true,
		}, watermill.NopLogger{}),
		topics: make([]string, 0, n),
		in:     make([]<-chan *message.Message, 0, n),
	}
	for range n {
		if _, err := c.Grow(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Grow adds a lane and returns its number. Nothing else of the carrier may run
// meanwhile.
func (c *Carrier) Grow() (lane int, err error) {
	lane = len(c.topics)
	topic := fmt.Sprintf("%s/%d", c.name, lane)
	in, err := c.channel.Subscribe(c.base, topic)
	if err != nil {
		return 0, fmt.Errorf("subscribe to lane %s: %w", topic, err)
	}
	c.topics, c.in = append(c.topics, topic), append(c.in, in)
	return lane, nil
}

// Carry publishes an event on its lane's topic, and returns the message that
// arrives there; with again, the one that follows a message that was refused. It
// is nil once the carrier has ended. A lane carries one event at a time: the
// last one must be acknowledged, or be refused and again set.
func (c *Carrier) Carry(lane int, e *event.Event, meta message.Metadata, again bool) *message.Message {
	if !again {
		// gochannel hands out copies, so this one needs no channels of its own.
		msg := &message.Message{UUID: e.ID, Metadata: meta, Payload: e.Data}
		msg.SetContext(event.NewContext(c.base, e))
		if err := c.channel.Publish(c.topics[lane], msg); err != nil {
			return nil // closed
		}
	}
	select {
	case msg := <-c.in[lane]: // nil when closed
		return msg
	case <-c.base.Done():
		return nil
	}
}

// Close ends the subscriptions. The lanes must have ended.
func (c *Carrier) Close() error {
	if err := c.channel.Close(); err != nil {
		return fmt.Errorf("close lanes: %w", err)
	}
	return nil
}
