package stages

import (
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
)

// Enqueuer is implemented by publishers that can take messages in order without
// waiting for each to be written.
type Enqueuer interface {
	// Enqueue takes msg to be written to topic after all that were taken before it.
	// wait, to be called once, returns when it is written, or with the error.
	Enqueue(topic string, msg *message.Message) (wait func() error)
}

// Announcements are what was announced last on the streams of one bus. All who announce
// there share them: two flows that each knew their own announcements only would leave one
// of them standing that the other's next has made untrue. They outlive the flows.
type Announcements struct {
	mu  sync.Mutex
	all map[announced]*announcer
}

// announced is a stream, by key, and a provider whose state is announced on it.
type announced struct{ stream, provider string }

// of returns the announcer of a provider on a stream.
func (a *Announcements) of(stream, provider string) *announcer {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := announced{stream, provider}
	one, ok := a.all[key]
	if !ok {
		if a.all == nil {
			a.all = make(map[announced]*announcer)
		}
		one = new(announcer)
		a.all[key] = one
	}
	return one
}

// announcer publishes the state of one provider. Reading the state and taking
// the place in the publisher's order are one step, so announcements leave in the
// order of the states they tell, and the last of them is the state that stands.
type announcer struct {
	mu    sync.Mutex
	ever  bool // something was enqueued
	known bool // what was enqueued last is known to be written, or on its way
	scale float64
	level event.Level
	track string
}

// announcement is how a state is announced.
type announcement struct {
	read    func() (RateState, error)
	always  bool // also one that was announced last
	track   string
	enqueue func(RateState) (wait func() error, err error)
	ended   func(error) // told the result of the wait
}

// told reports whether there is nothing to announce after a change that led to state:
// what was announced last says the same. Whatever has changed since then is for those
// who changed it to announce.
func (a *announcer) told(state RateState, track string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.says(state, track)
}

// says reports whether what was enqueued last tells state. The caller holds mu.
func (a *announcer) says(state RateState, track string) bool {
	return a.known && a.scale == state.Scale && a.level == state.Level && a.track == track
}

// announce enqueues the provider's state, where that is due, and returns when it is
// written. It reports whether it was due.
func (a *announcer) announce(how announcement) (bool, error) {
	wait, err := a.next(how)
	if wait == nil || err != nil {
		return false, err
	}
	err = wait()
	how.ended(err)
	if err != nil {
		// Whatever else is on its way, the next event publishes again.
		a.mu.Lock()
		a.known = false
		a.mu.Unlock()
	}
	return true, err
}

// outdated reports whether something was announced that stands no more, or may not
// have been written.
func (a *announcer) outdated(read func() (RateState, error), track string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	state, err := read()
	return err == nil && a.ever && !a.says(state, track)
}

// next enqueues the state and returns the wait for it, nil when there is nothing
// to publish.
func (a *announcer) next(how announcement) (wait func() error, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	state, err := how.read()
	if err != nil {
		return nil, err
	}
	if !how.always && a.says(state, how.track) {
		return nil, nil
	}
	if wait, err = how.enqueue(state); err != nil {
		return nil, err
	}
	a.ever, a.known, a.scale, a.level, a.track = true, true, state.Scale, state.Level, how.track
	return wait, nil
}

// enqueueTo returns how messages are put to a publisher in order: as an Enqueuer
// does it, or else by publishing at once, which waits for each.
func enqueueTo(p message.Publisher) func(topic string, msg *message.Message) func() error {
	if e, ok := p.(Enqueuer); ok {
		return e.Enqueue
	}
	return func(topic string, msg *message.Message) func() error {
		err := p.Publish(topic, msg)
		return func() error { return err }
	}
}
