package router

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/stages"
)

// What handlers return is told to whoever asked for it, whatever became of the worker; and workers that are closed end,
// those too that had begun, or began, afterwards.
func TestWorkers(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorkers()
			broken := errors.New("broken")
			handle := w.middleware(func(msg *message.Message) ([]*message.Message, error) {
				runtime.Gosched()
				switch msg.UUID[0] {
				case 'p':
					panic(msg.UUID)
				case 'e':
					runtime.Goexit()
				case 'f':
					return nil, fmt.Errorf("%s: %w", msg.UUID, broken)
				}
				return []*message.Message{msg}, nil
			})
			rng := rand.New(rand.NewPCG(seed, 0))
			var wg sync.WaitGroup
			for i := range 500 {
				id := string("orrrfpe"[rng.IntN(7)]) + strconv.Itoa(i)
				wg.Go(func() {
					msg := message.NewMessage(id, nil)
					out, err := handle(msg)
					var p *stages.PanicError
					ok := false
					switch id[0] {
					case 'p':
						ok = errors.As(err, &p) && p.Value == id
					case 'e':
						ok = errors.Is(err, errGoexit)
					case 'f':
						ok = errors.Is(err, broken) && err.Error() == id+": broken"
					default:
						ok = err == nil && len(out) == 1 && out[0] == msg
					}
					if !ok || err != nil && out != nil {
						t.Errorf("%s: %v, %v", id, out, err)
					}
				})
				if i == 250 {
					wg.Go(w.close)
				}
			}
			wg.Wait()
			if len(w.idle) != 0 {
				t.Errorf("%d workers are idle after close", len(w.idle))
			}
			// The bubble ends only with the last worker.
		})
	}
}

// Workers are used again: there are as many as ever worked at once.
func TestWorkersAreUsedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers()
		release := make(chan struct{})
		handle := w.middleware(func(*message.Message) ([]*message.Message, error) {
			<-release
			return nil, nil
		})
		const atOnce = 3
		for range 10 {
			var wg sync.WaitGroup
			for range atOnce {
				wg.Go(func() { _, _ = handle(message.NewMessage("", nil)) })
			}
			synctest.Wait()
			for range atOnce {
				release <- struct{}{}
			}
			wg.Wait()
			if len(w.idle) != atOnce {
				t.Fatalf("%d workers, want %d", len(w.idle), atOnce)
			}
		}
		w.close()
	})
}

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
