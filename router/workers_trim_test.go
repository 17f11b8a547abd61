package router

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Workers that only a burst needed end after it, while those that are at work go on.
func TestWorkersOfABurstEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers()
		defer w.close()
		handle := w.middleware(func(*message.Message) ([]*message.Message, error) {
			time.Sleep(time.Millisecond)
			return nil, nil
		})
		run := func(n int) {
			var all sync.WaitGroup
			for range n {
				all.Go(func() { _, _ = handle(message.NewMessage("", nil)) })
			}
			all.Wait()
		}
		idle := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.idle)
		}
		run(50)
		if n := idle(); n != 50 {
			t.Fatalf("%d workers after 50 at once", n)
		}
		for range 3 * int(trimEvery/time.Millisecond) {
			run(2)
		}
		if n := idle(); n != 2 {
			t.Errorf("%d workers where two are needed", n)
		}
		time.Sleep(3 * trimEvery)
		if n := idle(); n != 0 {
			t.Errorf("%d workers where none is needed", n)
		}
	})
}
