package bus

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/mjdevaccount/pulseflow/event"
)

// carrier takes deliveries from lanes to their reader through Watermill's
// gochannel, with a topic and a subscription for each lane.
//
// gochannel alone would give neither order nor a bound: each message has a
// goroutine of its own there. Here a lane publishes its next message only when
// the last one was acknowledged, and is the only reader of its subscription. A
// refused message, which gochannel sends again at once and for ever, therefore
// waits in the subscription until the lane's backoff has passed.
type carrier struct {
	base    context.Context
	channel *gochannel.GoChannel
	topics  []string
	in      []<-chan *message.Message
}

// newCarrier makes a carrier for n lanes. Their topics start with name.
func newCarrier(base context.Context, name string, n int) (*carrier, error) {
	c := &carrier{
		base: base,
		channel: gochannel.NewGoChannel(gochannel.Config{
			OutputChannelBuffer: 1, // one in flight a lane
			PreserveContext:     true,
		}, watermill.NopLogger{}),
		topics: make([]string, n),
		in:     make([]<-chan *message.Message, n),
	}
	for i := range n {
		c.topics[i] = fmt.Sprintf("%s/%d", name, i)
		in, err := c.channel.Subscribe(base, c.topics[i])
		if err != nil {
			return nil, fmt.Errorf("subscribe to lane %s: %w", c.topics[i], err)
		}
		c.in[i] = in
	}
	return c, nil
}

// carry is a laneConfig's carry.
func (c *carrier) carry(lane int, d delivery, again bool) *message.Message {
	if !again {
		// gochannel hands out copies, so this one needs no channels of its own.
		msg := &message.Message{UUID: d.event.ID, Metadata: d.meta, Payload: d.event.Data}
		msg.SetContext(event.NewContext(c.base, d.event))
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

// close ends the subscriptions. The lanes must have ended.
func (c *carrier) close() error {
	if err := c.channel.Close(); err != nil {
		return fmt.Errorf("close lanes: %w", err)
	}
	return nil
}
