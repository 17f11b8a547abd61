package router

import (
	"errors"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/stages"
)

// workers run the handling of messages on goroutines that are used again.
// Watermill starts a goroutine for each message, whose small stack has to grow,
// once or twice, under a chain of middleware; that growth took a third of the CPU
// time of a whole flow. A goroutine that waits for a worker keeps its small stack.
//
// There are about as many workers as messages were lately in flight at once, which
// the lanes of the subscription bound.
type workers struct {
	mu     sync.Mutex
	idle   []*worker // the last to become idle is the next to work: its stack is in the caches
	closed bool
	unused int         // how many of the first of idle were not needed since the last trim
	timer  *time.Timer // of the next trim; nil when none is due
}

// trimEvery is how often workers that were not needed since the last time are ended.
const trimEvery = 2 * time.Second

// worker is a goroutine that handles one message after another.
type worker struct {
	jobs chan job // a job without a handler ends it
	done chan struct{}
	out  []*message.Message
	err  error
	gone bool // its goroutine has ended
}

// job is one message on its way through the stages.
type job struct {
	next message.HandlerFunc
	msg  *message.Message
}

func newWorkers() *workers { return new(workers) }

// close ends the workers once they are idle.
func (w *workers) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.timer != nil {
		w.timer.Stop()
	}
	w.end(len(w.idle))
}

// end ends the first n of those that are idle. The caller holds mu.
func (w *workers) end(n int) {
	for _, one := range w.idle[:n] {
		one.jobs <- job{}
	}
	w.idle = slices.Delete(w.idle, 0, n)
}

// trim ends the workers that a burst has left.
func (w *workers) trim() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = nil
	if w.closed {
		return
	}
	w.end(w.unused)
	w.unused = len(w.idle)
	if w.unused > 0 {
		w.timer = time.AfterFunc(trimEvery, w.trim)
	}
}

// take returns an idle worker, or one that begins.
func (w *workers) take() *worker {
	w.mu.Lock()
	if last := len(w.idle) - 1; last >= 0 {
		one := w.idle[last]
		w.idle[last] = nil
		w.idle = w.idle[:last]
		w.unused = min(w.unused, last)
		w.mu.Unlock()
		return one
	}
	w.mu.Unlock()
	one := &worker{jobs: make(chan job, 1), done: make(chan struct{}, 1)}
	go one.run()
	return one
}

// give takes back a worker that is idle again.
func (w *workers) give(one *worker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		one.jobs <- job{}
		return
	}
	w.idle = append(w.idle, one)
	if w.timer == nil {
		w.timer = time.AfterFunc(trimEvery, w.trim)
	}
}

// middleware is outermost: everything behind it runs on a worker.
func (w *workers) middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		one := w.take()
		one.jobs <- job{next, msg}
		<-one.done
		out, err, gone := one.out, one.err, one.gone
		one.out, one.err = nil, nil
		if !gone {
			w.give(one)
		}
		return out, err
	}
}

func (w *worker) run() {
	for j := range w.jobs {
		if j.next == nil {
			return
		}
		w.handle(j)
	}
}

// errGoexit is the failure of a stage that ended its goroutine (runtime.Goexit), as
// a t.FailNow in the wrong place does.
var errGoexit = errors.New("the stage ended its goroutine")

// handle turns a panic into an error, as Watermill would: here it has no one to
// catch it. It answers even when the goroutine ends with it.
func (w *worker) handle(j job) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			w.out, w.err = nil, &stages.PanicError{Value: v, Stack: debug.Stack()}
		} else if !returned {
			w.out, w.err, w.gone = nil, errGoexit, true
		}
		w.done <- struct{}{}
	}()
	w.out, w.err = j.next(j.msg)
	returned = true
}
