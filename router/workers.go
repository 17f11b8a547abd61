package router

import (
	"errors"
	"runtime/debug"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/stages"
)

// workers run the handling of messages on goroutines that are used again.
// Watermill starts a goroutine for each message, whose small stack has to grow,
// once or twice, under a chain of middleware; that growth took a third of the CPU
// time of a whole flow. A goroutine that waits for a worker keeps its small stack.
//
// There are about as many workers as messages were ever in flight at once, which
// the lanes of the subscription bound.
type workers struct {
	jobs   chan *job
	closed chan struct{}
	spare  sync.Pool // of *job
}

// job is one message on its way through the stages.
type job struct {
	next message.HandlerFunc
	msg  *message.Message
	out  []*message.Message
	err  error
	done chan struct{}
}

func newWorkers() *workers {
	return &workers{
		jobs: make(chan *job), closed: make(chan struct{}),
		spare: sync.Pool{New: func() any { return &job{done: make(chan struct{}, 1)} }},
	}
}

// close ends the workers once they are idle.
func (w *workers) close() { close(w.closed) }

// middleware is outermost: everything behind it runs on a worker.
func (w *workers) middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		j := w.spare.Get().(*job)
		j.next, j.msg = next, msg
		select {
		case w.jobs <- j:
		default: // none is idle
			go w.run(j)
		}
		<-j.done
		out, err := j.out, j.err
		j.next, j.msg, j.out, j.err = nil, nil, nil, nil
		w.spare.Put(j)
		return out, err
	}
}

func (w *workers) run(j *job) {
	for {
		j.handle()
		select {
		case j = <-w.jobs:
		case <-w.closed:
			return
		}
	}
}

// errGoexit is the failure of a stage that ended its goroutine (runtime.Goexit), as
// a t.FailNow in the wrong place does.
var errGoexit = errors.New("the stage ended its goroutine")

// handle turns a panic into an error, as Watermill would: here it has no one to
// catch it. It answers even when the goroutine ends with it.
func (j *job) handle() {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			j.out, j.err = nil, &stages.PanicError{Value: v, Stack: debug.Stack()}
		} else if !returned {
			j.out, j.err = nil, errGoexit
		}
		j.done <- struct{}{}
	}()
	j.out, j.err = j.next(j.msg)
	returned = true
}
