package virtual

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestWithTimeout(t *testing.T) {
	c := New(start)
	outer, cancelOuter := context.WithCancel(t.Context())
	defer cancelOuter()
	ctx, cancel := c.WithTimeout(outer, time.Second)
	defer cancel()
	inner, cancelInner := context.WithCancelCause(ctx)
	defer cancelInner(nil)
	c.Advance(time.Second - 1)
	if ctx.Err() != nil || Err(ctx) != nil {
		t.Fatalf("ended early: %v", ctx.Err())
	}
	c.Advance(1)
	for _, ended := range []context.Context{ctx, inner} {
		if ended.Err() == nil || !errors.Is(context.Cause(ended), context.DeadlineExceeded) || !errors.Is(Err(ended), context.DeadlineExceeded) {
			t.Errorf("error %v, cause %v", ended.Err(), context.Cause(ended))
		}
	}
	if outer.Err() != nil {
		t.Errorf("the outer one has ended: %v", outer.Err())
	}
	if err := c.Sleep(inner, time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("sleep: %v", err)
	}

	// Given up, or ended from outside, it is no deadline; the timer is stopped.
	ctx, cancel = c.WithTimeoutFunc(outer, time.Second, func() { t.Error("it fired") })
	cancel()
	if _, pending := c.Next(); pending {
		t.Error("a timer is left")
	}
	if err := Err(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ctx, cancel = c.WithTimeout(outer, time.Second)
	cancelOuter()
	if err := Err(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	cancel()
	c.Advance(time.Minute)
}
