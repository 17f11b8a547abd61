package bus

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
)

// memGroup is a consumer group of one in-memory stream: the events it has not
// settled yet and, when there is one, the reader that handles them. Its fields
// are guarded by the bus's mu.
type memGroup struct {
	bus    *InMemory
	stream string
	name   string
	open   int // subscribers that were not closed
	ready  int // of those, the ones whose last subscription has not ended

	backlog []delivery // what waits for a reader
	lost    int        // events that were discarded
	reader  *memReader // nil between readers

	held    atomic.Int64 // backlog and what the reader has; raised under mu
	waiting atomic.Bool  // room is not nil
	room    chan struct{}
}

// memReader runs a group's events through lanes for one Subscribe.
type memReader struct {
	group  *memGroup
	owner  *memSubscriber
	out    chan *message.Message
	cancel context.CancelFunc // of the messages' contexts
	lanes  *lanes
	carry  *Carrier
	drains bool // guarded by the bus's mu; the lanes take no more

	stop     chan struct{} // closed: drain
	stopOnce sync.Once
	done     chan struct{} // closed: drained, and out is closed
}

// full reports whether the group holds all it may.
func (g *memGroup) full() bool { return g.held.Load() >= int64(g.bus.capacity) }

// add takes an event. The caller holds mu and has asked full.
func (g *memGroup) add(d delivery) {
	g.held.Add(1)
	g.bus.pending.Add(1)
	if g.reader != nil && !g.reader.drains {
		g.reader.lanes.enqueue(d)
		return
	}
	g.backlog = append(g.backlog, d)
}

// refuses reports whether the group takes no events, because nobody is going to
// read them. The caller holds mu.
func (g *memGroup) refuses() bool { return g.ready == 0 || g.bus.closing }

// settled is called by a lane for each acknowledged event.
func (g *memGroup) settled(*event.Event) { g.release(1) }

// release takes n events off the counts and wakes who waits for that. The
// caller must not hold mu.
func (g *memGroup) release(n int) {
	free := int64(g.bus.capacity) - g.held.Add(int64(-n))
	if g.waiting.Load() && free >= int64(g.bus.roomStep) {
		g.bus.mu.Lock()
		g.wake()
		g.bus.mu.Unlock()
	}
	if g.bus.pending.Add(int64(-n)) == 0 {
		g.bus.wakeIdle()
	}
}

// waitRoom returns a channel that is closed when the group may have room, nil
// when it has some now. The caller holds mu.
func (g *memGroup) waitRoom() <-chan struct{} {
	if g.room == nil {
		g.room = make(chan struct{})
		g.waiting.Store(true)
	}
	// Asked again after waiting was set: release lowers held before it looks.
	if !g.full() {
		g.wake()
		return nil
	}
	return g.room
}

// wake lets everyone who waits for room look again. The caller holds mu.
func (g *memGroup) wake() {
	if g.room != nil {
		g.waiting.Store(false)
		close(g.room)
		g.room = nil
	}
}

// read attaches a reader for s, which drains when ctx ends. The caller holds mu,
// and the group has no reader.
func (g *memGroup) read(ctx context.Context, s *memSubscriber) (*memReader, error) {
	base, cancel := context.WithCancel(g.bus.base)
	carry, err := NewCarrier(base, g.stream+"/"+g.name, s.lanes)
	if err != nil {
		cancel()
		return nil, err
	}
	out := make(chan *message.Message)
	r := &memReader{
		group: g, owner: s, out: out, cancel: cancel, carry: carry,
		stop: make(chan struct{}), done: make(chan struct{}),
		lanes: startLanes(laneConfig{
			base: base, n: s.lanes, out: out, settled: g.settled,
			carry: func(lane int, d delivery, again bool) *message.Message {
				return carry.Carry(lane, d.event, d.meta, again)
			},
			first: g.bus.cfg.redeliverFirst, most: g.bus.cfg.redeliverMost,
		}),
	}
	g.reader = r
	s.reader = r
	s.start()
	for _, d := range g.backlog {
		r.lanes.enqueue(d)
	}
	g.backlog = nil
	go r.run(ctx)
	return r, nil
}

// drain asks the reader to drain; done is closed when it has.
func (r *memReader) drain() { r.stopOnce.Do(func() { close(r.stop) }) }

// run waits for the end of the subscription and drains it: what is queued is
// run, for as long as the drain timeout allows, or left to another subscriber of the
// group where one is open.
func (r *memReader) run(ctx context.Context) {
	defer close(r.done)
	select {
	case <-ctx.Done():
	case <-r.stop:
	}
	g, bus := r.group, r.group.bus
	bus.mu.Lock()
	r.drains = true
	r.owner.end()
	handOn := !g.refuses() // another subscriber is open, and will run what is queued
	bus.mu.Unlock()

	limit := time.AfterFunc(bus.drainTimeout, r.cancel)
	left := r.lanes.close(!handOn)
	limit.Stop()
	r.cancel() // nobody holds a message any more, or all time is up
	close(r.out)
	if err := r.carry.Close(); err != nil {
		bus.log.Error("closing in-memory lanes failed", "stream", g.stream, "group", g.name, "err", err)
	}

	bus.mu.Lock()
	g.reader = nil
	g.backlog = append(left, g.backlog...) // what came for the next reader
	dropped := g.dropUnused()
	bus.mu.Unlock()
	g.release(dropped)
	if len(left) > 0 && !handOn {
		bus.log.Warn("subscription ended with events unhandled",
			"stream", g.stream, "group", g.name, "unhandled", len(left))
	}
}

// dropUnused removes the group from its stream when no subscriber is left, and
// returns how many events that lost. The caller holds mu and releases them.
func (g *memGroup) dropUnused() int {
	if g.open > 0 || g.reader != nil {
		return 0
	}
	g.bus.remove(g)
	return g.discard()
}

// discard empties the backlog and returns how many events that lost. The caller
// holds mu and releases them.
func (g *memGroup) discard() int {
	n := len(g.backlog)
	g.backlog = nil
	g.lost += n
	g.bus.unhandled += n
	return n
}

// memSubscriber is a message.Subscriber for one group.
type memSubscriber struct {
	group *memGroup
	lanes int

	// Guarded by the bus's mu.
	closed bool
	ended  bool       // the last subscription drains or has drained, or closed
	reader *memReader // of the last Subscribe
}

var _ message.Subscriber = (*memSubscriber)(nil)

// Subscribe starts handing the group's events to the returned channel. The
// topic is ignored: the stream was chosen when the subscriber was made. It
// waits for a former reader of the group that still drains.
//
// When ctx ends, or on Close, what is queued is handled for up to the drain
// timeout, and the channel is closed. The group takes no more events from then
// on, unless another subscriber of it is open to read them: then only what is in
// flight is waited for. What is left waits
// for the next Subscribe on the group, and is lost with its last subscriber. The
// messages' contexts do not end with ctx.
func (s *memSubscriber) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	bus := s.group.bus
	for {
		bus.mu.Lock()
		if s.closed || bus.closing {
			bus.mu.Unlock()
			return nil, s.group.subscribeError(ErrClosed)
		}
		former := s.group.reader
		if former == nil {
			r, err := s.group.read(ctx, s)
			bus.mu.Unlock()
			if err != nil {
				return nil, s.group.subscribeError(err)
			}
			return r.out, nil
		}
		drains := former.drains
		bus.mu.Unlock()
		if !drains {
			return nil, s.group.subscribeError(ErrBusy)
		}
		select {
		case <-former.done:
		case <-ctx.Done():
			return nil, s.group.subscribeError(ctx.Err())
		}
	}
}

// Close drains the subscription and waits for that. It may be called more than
// once.
func (s *memSubscriber) Close() error {
	g, bus := s.group, s.group.bus
	dropped := 0
	bus.mu.Lock()
	r := s.reader
	if !s.closed {
		s.closed = true
		s.end()
		g.open--
		dropped = g.dropUnused()
	}
	bus.mu.Unlock()
	g.release(dropped)
	if r != nil {
		r.drain()
		<-r.done
	}
	return nil
}

// Leave takes the group off its stream: what is published from now on is not for it,
// and nobody is refused because it ends. What it has is handled as ever. It does nothing
// where another subscriber of the group is open. To be called before Close.
func (s *memSubscriber) Leave() {
	bus := s.group.bus
	bus.mu.Lock()
	defer bus.mu.Unlock()
	if s.group.open == 1 && !s.closed {
		bus.remove(s.group)
		s.group.wake()
	}
}

// start notes that a subscription begins. The caller holds mu.
func (s *memSubscriber) start() {
	if s.ended {
		s.ended = false
		s.group.ready++
	}
}

// end notes that the subscription ends, or that there will be none. The caller
// holds mu.
func (s *memSubscriber) end() {
	if !s.ended {
		s.ended = true
		s.group.ready--
		s.group.wake() // to be refused, if this was the last one
	}
}

// Unhandled returns how many events the group lost, or still holds for another
// subscription, when it stopped being read.
func (s *memSubscriber) Unhandled() int {
	g, bus := s.group, s.group.bus
	bus.mu.Lock()
	defer bus.mu.Unlock()
	if g.refuses() {
		return g.lost + len(g.backlog)
	}
	return g.lost
}

// subscribeError names the group in an error of Subscribe.
func (g *memGroup) subscribeError(err error) error {
	return fmt.Errorf("subscribe to %s, group %s: %w", g.stream, g.name, err)
}
