package event

import (
	"context"
	"testing"
)

func TestContext(t *testing.T) {
	type key struct{}
	parent, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "v"))
	outer, inner := &Event{ID: "outer"}, &Event{ID: "inner"}
	ctx := NewContext(NewContext(parent, outer), inner)
	if got := FromContext(ctx); got != inner {
		t.Errorf("got %v", got)
	}
	if got := ctx.Value(key{}); got != "v" {
		t.Errorf("got value %v of the parent", got)
	}
	cancel()
	if ctx.Err() == nil {
		t.Error("not cancelled with its parent")
	}
	if got := FromContext(context.WithValue(ctx, key{}, "w")); got != inner {
		t.Errorf("below a child: got %v", got)
	}
	if got := FromContext(parent); got != nil {
		t.Errorf("without event: got %v", got)
	}
}

func TestNewContextAllocations(t *testing.T) {
	var ctx context.Context
	parent, e := context.Background(), new(Event)
	if n := testing.AllocsPerRun(100, func() { ctx = NewContext(parent, e) }); n > 1 {
		t.Errorf("got %v allocations", n)
	}
	if FromContext(ctx) != e {
		t.Error("got another event")
	}
}
