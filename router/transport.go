package router

import (
	"fmt"
	"maps"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
)

// Transport is a bus as the router sees it.
//
// A message that a subscriber yields carries its decoded *event.Event in its
// context (event.NewContext), under a context that outlives the end of the
// subscription: it is cancelled only when a drain has run out of time.
type Transport interface {
	// Subscriber returns a subscriber of group on stream, a full stream key. start
	// is where a new group begins, oldest or newest; lanes is how many keys run
	// side by side, 0 for the transport's default. Its Close drains: it stops
	// reading, waits for what is in flight, and closes its output.
	Subscriber(stream, group, start string, lanes int) (message.Subscriber, error)
	// Publisher writes to streams by full key. It is shared; its Close does nothing.
	Publisher() message.Publisher
	// RetainDeadLetters tells the transport that stream holds dead letters, before
	// the first is published.
	RetainDeadLetters(stream string)
	// ExpectPublish tells the transport that a stage publishes to stream, before a
	// subscriber is asked for, so that it can find out what would keep it from that.
	ExpectPublish(stream string)
	// Up is nil when the transport can be used, and says why not otherwise.
	Up() error
}

// transports are the buses of a plan by name.
type transports map[string]Transport

// named returns the transports of deps.
func (deps Deps) named() transports {
	t := make(transports, len(deps.Transports)+1)
	maps.Copy(t, deps.Transports)
	if deps.Transport != nil {
		t[flows.DefaultBus] = deps.Transport
	}
	return t
}

// of returns the transport of a bus.
func (t transports) of(name string) (Transport, error) {
	if b, ok := t[name]; ok {
		return b, nil
	}
	return nil, fmt.Errorf("no transport carries bus %q", name)
}

// up asks all at once, and returns what keeps each from being used, nil where nothing
// does.
func (t transports) up() map[string]error {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		faults = make(map[string]error, len(t))
	)
	for name, b := range t {
		wg.Go(func() {
			err := b.Up()
			mu.Lock()
			defer mu.Unlock()
			faults[name] = err
		})
	}
	wg.Wait()
	return faults
}

// unhandled is implemented by subscribers whose transport loses what was not
// handled when they closed.
type unhandled interface{ Unhandled() int }
