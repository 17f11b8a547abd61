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

// announcer publishes the state of one provider. Reading the state and taking
// the place in the publisher's order are one step, so announcements leave in the
// order of the states they tell, and the last of them is the state that stands.
type announcer struct {
	read   func() (RateState, error)
	always bool

	mu    sync.Mutex
	ever  bool // something was enqueued
	known bool // what was enqueued last is known to be written, or on its way
	scale float64
	level event.Level
}

// told reports whether there is nothing to announce after a change that led to state:
// what was announced last says the same. Whatever has changed since then is for those
// who changed it to announce.
func (a *announcer) told(state RateState) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.always && a.says(state)
}

// says reports whether what was enqueued last tells state. The caller holds mu.
func (a *announcer) says(state RateState) bool {
	return a.known && a.scale == state.Scale && a.level == state.Level
}

// announce enqueues the provider's state, where that is due, and returns when it is
// written; ended is told the result. It reports whether it was due.
func (a *announcer) announce(enqueue func(RateState) (wait func() error, err error), ended func(error)) (bool, error) {
	wait, err := a.next(enqueue)
	if wait == nil || err != nil {
		return false, err
	}
	err = wait()
	ended(err)
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
func (a *announcer) outdated() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	state, err := a.read()
	return err == nil && a.ever && !a.says(state)
}

// next enqueues the state and returns the wait for it, nil when there is nothing
// to publish.
func (a *announcer) next(enqueue func(RateState) (func() error, error)) (wait func() error, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	state, err := a.read()
	if err != nil {
		return nil, err
	}
	if !a.always && a.says(state) {
		return nil, nil
	}
	if wait, err = enqueue(state); err != nil {
		return nil, err
	}
	a.ever, a.known, a.scale, a.level = true, true, state.Scale, state.Level
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
