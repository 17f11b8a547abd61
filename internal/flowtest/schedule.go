package flowtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/internal/virtual"
	"github.com/mjdevaccount/pulseflow/stages"
)

// A refused event comes again after the first wait, doubled each time up to the
// last, as on the buses but without jitter.
const (
	redeliverFirst = 100 * time.Millisecond
	redeliverMost  = 5 * time.Second
)

// maxSteps bounds how often the clock is moved, so that a flow that never comes to
// rest ends its test.
const maxSteps = 1_000_000

// schedule lets the events of a test run one at a time. An event runs until it is
// settled or waits: for a time to come (Sleep), or for another event (Wait). Only
// then the next one runs, and only when none can run the clock moves on, to the
// next time that something waits for.
type schedule struct {
	clock *virtual.Clock
	start time.Time

	mu        sync.Mutex
	ready     []*task       // in the order in which they may run
	asleep    map[*task]int // those that wait for a time, numbered in the order in which they began to
	slept     int           // how often one has begun to
	parked    []*task       // those that wait for another event
	current   *task
	unsettled int
	expired   bool          // a context has ended by time since the sleepers were looked at
	over      chan struct{} // closed when the test is: nobody is held any more
	last      time.Time     // when the last event was settled
}

// task is one delivery of an event to one flow.
type task struct {
	reader *reader
	lane   *lane
	event  *event.Event
	meta   message.Metadata
	msg    *message.Message // of the latest delivery

	paused  chan struct{}   // gets one value each time the event begins to wait
	resume  chan struct{}   // closed when it may go on; nil when it has not begun
	ctx     context.Context // ends its wait
	timer   rate.Timer      // of one asleep
	waits   <-chan struct{} // of a parked one: closed when its wait is over
	err     error           // what its wait has come to
	backoff time.Duration
	at      time.Time        // when it was put on the stream
	settled bool             // acknowledged
	result  *stages.Delivery // what became of it, once it is settled
}

func newSchedule(start time.Time) *schedule {
	return &schedule{clock: virtual.New(start), start: start, last: start, asleep: make(map[*task]int), over: make(chan struct{})}
}

// Now implements stages.Clock.
func (s *schedule) Now() time.Time { return s.clock.Now() }

// Sleep implements stages.Clock: the running event waits for a time.
func (s *schedule) Sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 || ctx.Err() != nil {
		return virtual.Err(ctx)
	}
	return s.pause(ctx, func(t *task) {
		t.timer = s.clock.AfterFunc(d, func() { s.awake(t) })
		s.slept++
		s.asleep[t] = s.slept
	})
}

// Wait implements stages.Waiter: the running event waits for another one.
func (s *schedule) Wait(ctx context.Context, ready <-chan struct{}) error {
	return s.pause(ctx, func(t *task) {
		t.waits = ready
		s.parked = append(s.parked, t)
	})
}

// WithTimeout implements stages.Deadliner. An event that waits when its context ends
// runs next, in its turn, as one whose wait is over.
func (s *schedule) WithTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return s.clock.WithTimeoutFunc(ctx, d, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.expired = true
	})
}

// pause holds the running event until the schedule lets it go on. The end of its
// context does not do that by itself: when it would be seen is up to chance.
func (s *schedule) pause(ctx context.Context, arrange func(*task)) error {
	s.mu.Lock()
	t := s.current
	if t == nil || s.ended() {
		s.mu.Unlock()
		<-ctx.Done() // at the end of a test every context ends
		return virtual.Err(ctx)
	}
	resume := make(chan struct{})
	t.resume, t.ctx, s.current = resume, ctx, nil
	arrange(t)
	s.mu.Unlock()
	t.paused <- struct{}{}
	select {
	case <-resume:
		return t.err
	case <-s.over:
		<-ctx.Done()
		return virtual.Err(ctx)
	}
}

// running is the event that runs, nil when none does.
func (s *schedule) running() *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// awake ends a sleep. It is the time of both when the context ends then too: what
// comes first decides.
func (s *schedule) awake(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, asleep := s.asleep[t]; asleep {
		delete(s.asleep, t)
		s.release(t, virtual.Err(t.ctx))
	}
}

// release has a waiting event run in its turn. The caller holds mu.
func (s *schedule) release(t *task, err error) {
	t.err, t.ctx, t.timer, t.waits = err, nil, nil, nil
	s.ready = append(s.ready, t)
}

// enqueue says that t may run.
func (s *schedule) enqueue(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = append(s.ready, t)
}

// wakeExpired wakes those asleep whose context has ended, in the order in which they
// began to sleep. The caller holds mu.
func (s *schedule) wakeExpired() {
	var over []*task
	for t := range s.asleep {
		if t.ctx.Err() != nil {
			over = append(over, t)
		}
	}
	slices.SortFunc(over, func(a, b *task) int { return s.asleep[a] - s.asleep[b] })
	for _, t := range over {
		delete(s.asleep, t)
		t.timer.Stop()
		s.release(t, virtual.Err(t.ctx))
	}
}

// next takes the event that runs next, nil when none can.
func (s *schedule) next() *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expired {
		s.expired = false
		s.wakeExpired()
	}
	s.parked = slices.DeleteFunc(s.parked, func(t *task) bool {
		select {
		case <-t.waits:
			s.release(t, nil)
			return true
		default:
		}
		if t.ctx.Err() == nil {
			return false
		}
		s.release(t, virtual.Err(t.ctx))
		return true
	})
	if len(s.ready) == 0 {
		return nil
	}
	t := s.ready[0]
	s.ready = s.ready[1:]
	s.current = t
	return t
}

// settle runs events until none can run. The error says that one ran for longer
// than ctx allows, in real time.
func (s *schedule) settle(ctx context.Context) error {
	for t := s.next(); t != nil; t = s.next() {
		if err := s.run(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (s *schedule) run(ctx context.Context, t *task) error {
	if resume := t.resume; resume != nil {
		t.resume = nil // before it goes on, and may come to wait again
		close(resume)
	} else {
		msg, err := t.reader.carry(t)
		if err != nil {
			return fmt.Errorf("flow %s: event %s: %w", t.reader.flow, t.event.ID, err)
		}
		t.msg = msg
		select {
		case t.reader.out <- t.msg:
		case <-ctx.Done():
			return s.stuck(ctx, t)
		}
	}
	select {
	case <-t.paused:
	case <-t.msg.Acked():
		s.acknowledged(t)
	case <-t.msg.Nacked():
		s.refused(t)
	case <-ctx.Done():
		return s.stuck(ctx, t)
	}
	return nil
}

// stuck words that an event did not come to an end in real time.
func (s *schedule) stuck(ctx context.Context, t *task) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	return fmt.Errorf("flow %s: event %s: still running when the time for the test was up, as if it waited for something "+
		"outside the flow", t.reader.flow, t.event.ID)
}

func (s *schedule) acknowledged(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.settled, t.result = true, stages.From(t.msg.Context())
	s.current = nil
	s.unsettled--
	s.last = s.clock.Now()
	if follower := t.lane.done(); follower != nil {
		s.ready = append(s.ready, follower)
	} else {
		t.reader.done(t.lane)
	}
}

// refused has the event come again; it holds its lane meanwhile.
func (s *schedule) refused(t *task) {
	s.mu.Lock()
	s.current = nil
	s.mu.Unlock()
	t.backoff = min(max(redeliverFirst, 2*t.backoff), redeliverMost)
	s.clock.AfterFunc(t.backoff, func() { s.enqueue(t) })
}

// admit takes an event in. It runs when those of its lane before it are settled.
func (s *schedule) admit(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unsettled++
	t.at = s.clock.Now()
	if t.lane.add(t) {
		s.ready = append(s.ready, t)
	}
}

// input is something that happens at a time of the test.
type input struct {
	at time.Time
	do func() error
}

// play runs the inputs, which are in the order of their times, each once
// everything that was due before it has happened, and ends when every event is
// settled and the time is until, or later.
func (s *schedule) play(ctx context.Context, inputs []input, until time.Time) error {
	for steps := 0; ; steps++ {
		if err := s.settle(ctx); err != nil {
			return err
		}
		if steps > maxSteps {
			return fmt.Errorf("still not at rest at %s of virtual time", s.clock.Now().Sub(s.start))
		}
		due, pending := s.clock.Next()
		switch {
		case len(inputs) > 0 && (!pending || due.After(inputs[0].at)):
			s.clock.AdvanceTo(inputs[0].at)
			if err := inputs[0].do(); err != nil {
				return err
			}
			inputs = inputs[1:]
		case pending && (len(inputs) > 0 || s.busy() || !due.After(until)):
			s.clock.AdvanceTo(due)
		case s.busy():
			return errors.New("the events that are left wait for each other, and would for ever")
		default:
			s.clock.AdvanceTo(until)
			return nil
		}
	}
}

func (s *schedule) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unsettled > 0
}

// end lets everybody go.
func (s *schedule) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.over)
	s.current = nil
}

func (s *schedule) ended() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}
