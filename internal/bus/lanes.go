package bus

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
)

// Redelivery of a refused event: the first wait, doubled each time up to the
// cap, each with up to half of it taken off at random.
const (
	redeliverFirst = 100 * time.Millisecond
	redeliverCap   = 5 * time.Second
)

// defaultLanes is how many events a subscription handles at once when nobody says.
// An idle lane costs a few hundred bytes, and lanes are what hides the time that
// stages wait for others.
func defaultLanes() int { return max(128, 16*runtime.GOMAXPROCS(0)) }

// lanes hands events to one output channel so that events of one order key are
// handled one after another, in the order they were dispatched, while different
// keys run side by side. An event the reader refuses (nack) is offered again in
// its lane after a jittered, capped backoff, and holds the lane meanwhile.
//
// Queues are unbounded here; whoever dispatches bounds the sum (max_in_flight,
// capacity), so that one held lane does not stop the others.
type lanes struct {
	laneConfig
	keys  *laneKeys
	lanes []*lane
	wg    sync.WaitGroup
	ended func() bool // forgets the base context

	stop     chan struct{} // closed: no backoff
	stopped  atomic.Bool   // no event beyond those queued
	quitted  atomic.Bool   // start nothing more
	stopOnce sync.Once
	quitOnce sync.Once
}

type laneConfig struct {
	base    context.Context         // parent of every message's context
	n       int                     // lanes, at least one
	out     chan<- *message.Message // where messages are offered
	settled func(*event.Event)      // called once for each acknowledged event

	// carry makes the message to offer for d; again tells that the reader has
	// refused the last one. nil ends the lane. The default is newMessage.
	carry func(lane int, d delivery, again bool) *message.Message

	first, most time.Duration // backoff: the first wait and the longest
	grace       time.Duration // how long the reader's answer is waited for once base has ended
}

// delivery is an event on its way to a reader, with the metadata its message
// carries; nil is none.
type delivery struct {
	event *event.Event
	meta  message.Metadata
	key   *laneKey // in a lane: which one
	held  bool     // of what a close leaves: the reader has it and has not answered
}

type lane struct {
	mu    sync.Mutex
	queue []delivery // from head on: not settled yet, the first may be in flight
	head  int
	held  bool          // the lane has ended, and the reader still has the first
	wake  chan struct{} // one token when the queue stops being empty, or the lanes stop

	// A lane has channels of its own for what ends all of them: a hundred lanes that wait
	// for one channel would contend for its lock with each event.
	quit chan struct{} // closed: start nothing more
	over chan struct{} // closed: the base context has ended
}

// startLanes starts the lanes. Cancelling the base makes every lane give up at once,
// whatever is in flight. settled runs in the lane's goroutine, for events of one lane
// one at a time, and must not block for long.
func startLanes(cfg laneConfig) *lanes {
	l := &lanes{
		laneConfig: cfg, keys: newLaneKeys(max(cfg.n, 1)), lanes: make([]*lane, max(cfg.n, 1)), stop: make(chan struct{}),
	}
	if l.carry == nil {
		l.carry = l.newMessage
	}
	l.first, l.most = cmp.Or(l.first, redeliverFirst), cmp.Or(l.most, redeliverCap)
	for i := range l.lanes {
		l.lanes[i] = &lane{wake: make(chan struct{}, 1), quit: make(chan struct{}), over: make(chan struct{})}
	}
	l.ended = context.AfterFunc(l.base, func() {
		l.endEach(false)
		for _, ln := range l.lanes {
			close(ln.over)
		}
	})
	for i := range l.lanes {
		l.wg.Go(func() { l.run(i) })
	}
	return l
}

// endEach makes every lane end: once its queue is empty with finish, else as soon as the
// reader has answered for what it holds.
func (l *lanes) endEach(finish bool) {
	if !finish { // before stop, which ends backoffs
		l.quitOnce.Do(func() {
			l.quitted.Store(true)
			for _, ln := range l.lanes {
				close(ln.quit)
			}
		})
	}
	l.stopOnce.Do(func() {
		l.stopped.Store(true)
		close(l.stop)
		for _, ln := range l.lanes {
			notify(ln.wake)
		}
	})
}

// enqueue queues an event in the lane of its order key. Events without one spread and are
// not ordered. It never blocks. It must not be called once close has been.
func (l *lanes) enqueue(d delivery) {
	d.key = l.keys.take(d.event.OrderKey())
	if ln := l.lanes[d.key.lane]; ln.push(d) {
		notify(ln.wake)
	}
}

// close stops the lanes and waits for them. With finish, what is queued runs
// first: an event waiting out its backoff is offered once more at once, and a
// lane whose event is refused while it finishes ends there, since a later event
// of the same key must not overtake it. Without finish, only what the reader
// already holds is waited for, and nothing more is offered. Cancelling the base
// context ends the wait.
//
// It returns the events that were not settled, each key's in order. It may be
// called again and at the same time: finish=false cuts a running finish=true
// short, and each unsettled event is returned by one of the calls.
func (l *lanes) close(finish bool) []delivery {
	l.endEach(finish)
	l.wg.Wait()
	l.ended()
	var left []delivery
	for _, ln := range l.lanes {
		left = append(left, ln.take()...)
	}
	return left
}

// run settles the lane's events one by one. An event leaves the queue once it is
// settled, so that what is queued when run returns is exactly what is left.
func (l *lanes) run(i int) {
	ln := l.lanes[i]
	d, ok := ln.peek()
	for {
		for !ok {
			stopped := l.stopped.Load() // before the look: nothing is queued after it
			if d, ok = ln.peek(); ok {
				break
			}
			if stopped {
				return
			}
			select {
			case <-ln.wake:
			case <-ln.over:
				return
			}
		}
		if !l.deliver(ln, i, d) {
			return
		}
		l.settled(d.event)
		l.keys.done(d.key)
		d, ok = ln.next()
	}
}

// deliver offers d until it is acknowledged; false when the lanes ended first.
func (l *lanes) deliver(ln *lane, i int, d delivery) bool {
	again := false
	for wait := l.first; ; wait = min(2*wait, l.most) {
		if l.quitting() {
			return false
		}
		msg := l.carry(i, d, again)
		if msg == nil {
			return false
		}
		select {
		case l.out <- msg:
		case <-ln.quit:
			return false
		}
		select {
		case <-msg.Acked():
			return true
		case <-msg.Nacked():
		case <-ln.over:
			return ln.lastAnswer(msg, l.grace)
		}
		if !l.pause(wait - rand.N(wait/2+1)) {
			return false
		}
		again = true
	}
}

// newMessage makes a message that nothing lies between: the reader's answer goes
// straight to the lane.
func (l *lanes) newMessage(_ int, d delivery, _ bool) *message.Message {
	msg := message.NewMessage(d.event.ID, d.event.Data)
	maps.Copy(msg.Metadata, d.meta)
	msg.SetContext(event.NewContext(l.base, d.event))
	return msg
}

// quitting reports whether no event may be offered any more. It is asked before
// an offer because a select with a ready reader would pick at random.
func (l *lanes) quitting() bool {
	return l.quitted.Load() || l.base.Err() != nil
}

// pause waits out a backoff, less when the lanes stop meanwhile. It is false
// when the event that is held must not be offered again.
func (l *lanes) pause(d time.Duration) bool {
	select {
	case <-l.stop:
		return false
	default:
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.stop: // the last try
	case <-l.base.Done():
		return false
	}
	return true
}

// push appends d and reports whether the lane has to be woken: one with events
// left looks at its queue again by itself.
func (ln *lane) push(d delivery) bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.queue = append(ln.queue, d)
	return len(ln.queue)-ln.head == 1
}

// peek returns the head of the queue and leaves it there; false when it is empty.
func (ln *lane) peek() (delivery, bool) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.head == len(ln.queue) {
		return delivery{}, false
	}
	return ln.queue[ln.head], true
}

// next removes the head and returns the one after it. The slice is compacted
// when half of it is spent, so that a long-lived lane's memory stays
// proportional to what is queued.
func (ln *lane) next() (delivery, bool) {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.queue[ln.head] = delivery{}
	ln.head++
	if ln.head == len(ln.queue) {
		ln.queue, ln.head = ln.queue[:0], 0
		return delivery{}, false
	}
	if ln.head > 64 && ln.head > len(ln.queue)/2 {
		n := copy(ln.queue, ln.queue[ln.head:])
		clear(ln.queue[n:])
		ln.queue, ln.head = ln.queue[:n], 0
	}
	return ln.queue[ln.head], true
}

// lastAnswer is true when the head of a lane that ends was handled, which it waits a
// moment to be told. Without an answer, that stays with the reader.
func (ln *lane) lastAnswer(msg *message.Message, grace time.Duration) (acked bool) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-msg.Acked():
		return true
	case <-msg.Nacked():
		return false
	case <-timer.C:
	}
	select {
	case <-msg.Acked(): // at the same time
		return true
	default:
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.held = true
	return false
}

// take empties the queue.
func (ln *lane) take() []delivery {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	left := ln.queue[ln.head:]
	if ln.held && len(left) > 0 {
		left[0].held = true
	}
	ln.held = false
	ln.queue, ln.head = nil, 0
	return left
}
