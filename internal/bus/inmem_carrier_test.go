package bus

import (
	"context"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
)

// A lane has what it carried, its refused message again, and no other lane's.
func TestCarrier(t *testing.T) {
	base, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := NewCarrier(base, "s/g", 1)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Grow()
	if err != nil || second != 1 {
		t.Fatal(second, err)
	}
	a, b := event.Decoder{}.Decode("1-0", []byte(`{"a": 1}`)), event.Decoder{}.Decode("2-0", []byte(`{"b": 1}`))
	meta := message.Metadata{"k": "v"}
	inA, inB := c.Carry(0, a, meta, false), c.Carry(second, b, nil, false)
	if event.FromContext(inA.Context()) != a || event.FromContext(inB.Context()) != b {
		t.Fatal("an event came on another lane")
	}
	inA.Metadata.Set("k", "changed")
	inA.Nack()
	inB.Ack()
	again := c.Carry(0, a, meta, true)
	if again == inA || event.FromContext(again.Context()) != a || again.Metadata.Get("k") != "v" || string(again.Payload) != string(a.Data) {
		t.Errorf("a refused event came again as %v %s", again.Metadata, again.Payload)
	}
	again.Ack()
	if next := c.Carry(0, b, nil, false); event.FromContext(next.Context()) != b {
		t.Error("the next event did not come")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if msg := c.Carry(second, a, nil, false); msg != nil {
		t.Error("a closed carrier carries")
	}
	if _, err := c.Grow(); err == nil {
		t.Error("a closed carrier grows")
	}
}
