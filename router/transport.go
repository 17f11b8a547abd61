package router

import "github.com/ThreeDotsLabs/watermill/message"

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

// unhandled is implemented by subscribers whose transport loses what was not
// handled when they closed.
type unhandled interface{ Unhandled() int }
