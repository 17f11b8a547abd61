package main

import (
	"context"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/stages"
)

func TestOnTick(t *testing.T) {
	stage, err := (&onTickConfig{Member: "price", Size: 0.05}).Build(stages.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	for payload, right := range map[string]bool{
		`{"price": 10.15}`: true, `{"price": 10}`: true, `{"price": 10.17}`: false, `{"price": "10"}`: false, `{}`: false,
	} {
		e := event.Decoder{}.Decode("1-0", []byte(`{"ts": 1, "meta": {"schema_id": "market.Trade"}, "payload": `+payload+`}`))
		msg := message.NewMessage(e.ID, e.Data)
		msg.SetContext(&stages.Delivery{Context: context.Background(), Event: e})
		passed := false
		_, err := stage.Middleware(func(*message.Message) ([]*message.Message, error) {
			passed = true
			return nil, nil
		})(msg)
		if passed != right || (err == nil) != right || err != nil && !stages.IsPermanent(err) {
			t.Errorf("%s: passed %v, error %v; want it passed: %v", payload, passed, err, right)
		}
	}
}
