package bustest

import (
	"context"
	"crypto/rand"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/event"
)

// Transport is what a router needs of a bus.
type Transport interface {
	// Subscriber returns a subscriber of the stream for the consumer group.
	// start is oldest or newest; lanes 0 is the transport's default.
	Subscriber(stream, group, start string, lanes int) (message.Subscriber, error)
	// Publisher returns a publisher that all share; its Close does nothing.
	Publisher() message.Publisher
	// Up returns nil while the bus can be used.
	Up() error
	// Close drains every subscription and closes the bus. It may be called more
	// than once.
	Close(ctx context.Context) error
}

// Harness is an open transport and what the suite must know of it.
type Harness struct {
	Transport Transport
	// Put writes an entry as a foreign producer does, and returns its ID.
	Put func(stream string, fields map[string]string) (id string, err error)
	// Pending returns how many of the stream's entries the group has not
	// acknowledged, whether they were handed out or not.
	Pending func(stream, group string) (int, error)
	// DrainTimeout is the one the transport was opened with. The suite waits for
	// it once or twice.
	DrainTimeout time.Duration
	// SharesGroup tells that two subscribers of one group share its events.
	SharesGroup bool
}

// How long the suite waits for what must happen, and for what must not.
const (
	patience = 30 * time.Second
	silence  = 150 * time.Millisecond
)

// group is the consumer group of cases that need one.
const group = "bustest"

// Run runs the suite. open opens a transport for one case; what it opened
// besides is closed with t.Cleanup. No goroutine may be left after that.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			t.Cleanup(func() { goleak.VerifyNone(t, before) })
			runCase(t, open, c.run)
		})
	}
}

// RunVirtual runs the suite with each case in a bubble of testing/synctest: its
// time is virtual, and a goroutine that is left fails the case.
func RunVirtual(t *testing.T, open func(t *testing.T) Harness) {
	for _, c := range cases() {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runCase(t, open, c.run) })
		})
	}
}

func runCase(t *testing.T, open func(t *testing.T) Harness, run func(*suite)) {
	s := &suite{T: t, Harness: open(t)}
	t.Cleanup(func() {
		// A case that failed may have left messages unacknowledged.
		ctx, cancel := context.WithTimeout(context.Background(), s.DrainTimeout)
		defer cancel()
		if err := s.Transport.Close(ctx); err != nil && !t.Failed() {
			t.Errorf("close the transport: %v", err)
		}
	})
	run(s)
}

// suite is one case's test and transport.
type suite struct {
	*testing.T
	Harness
}

// stream returns a stream name that nothing has used before.
func (s *suite) stream() string { return "bustest:" + rand.Text() }

// subscriber returns a subscriber that reads from the oldest entry on.
func (s *suite) subscriber(stream, group string, lanes int) message.Subscriber {
	s.Helper()
	sub, err := s.Transport.Subscriber(stream, group, "oldest", lanes)
	if err != nil {
		s.Fatalf("subscriber: %v", err)
	}
	return sub
}

// subscribe subscribes with a context that stop cancels.
func (s *suite) subscribe(sub message.Subscriber, stream string) (messages <-chan *message.Message, stop func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.Cleanup(cancel)
	messages, err := sub.Subscribe(ctx, stream)
	if err != nil {
		s.Fatalf("subscribe: %v", err)
	}
	return messages, cancel
}

// put writes an entry.
func (s *suite) put(stream string, fields map[string]string) (id string) {
	s.Helper()
	id, err := s.Put(stream, fields)
	if err != nil {
		s.Fatalf("put: %v", err)
	}
	if id == "" {
		s.Fatal("put: the entry has no ID")
	}
	return id
}

// publish publishes an event through the transport's publisher.
func (s *suite) publish(stream string, payload []byte, meta message.Metadata) {
	s.Helper()
	msg := message.NewMessage("", payload)
	for name, value := range meta {
		msg.Metadata.Set(name, value)
	}
	if err := s.Transport.Publisher().Publish(stream, msg); err != nil {
		s.Fatalf("publish: %v", err)
	}
}

// receive returns the next message and its event.
func (s *suite) receive(messages <-chan *message.Message) (*message.Message, *event.Event) {
	s.Helper()
	select {
	case msg, open := <-messages:
		if !open {
			s.Fatal("the subscription ended")
		}
		e := event.FromContext(msg.Context())
		if e == nil {
			s.Fatal("the message's context carries no event")
		}
		return msg, e
	case <-time.After(patience):
		s.Fatal("no message came")
	}
	return nil, nil
}

// quiet fails when a message comes.
func (s *suite) quiet(messages <-chan *message.Message) {
	s.Helper()
	select {
	case msg, open := <-messages:
		if !open {
			s.Fatal("the subscription ended")
		}
		s.Fatalf("message %s came", msg.UUID)
	case <-time.After(silence):
	}
}

// ended waits for the end of a subscription, with no more messages.
func (s *suite) ended(messages <-chan *message.Message) {
	s.Helper()
	select {
	case msg, open := <-messages:
		if open {
			s.Fatalf("message %s came instead of the end", msg.UUID)
		}
	case <-time.After(patience):
		s.Fatal("the subscription did not end")
	}
}

// settled waits until the group has nothing unacknowledged.
func (s *suite) settled(stream, group string) {
	s.Helper()
	s.pending(stream, group, 0)
}

// pending waits until the group has n entries unacknowledged.
func (s *suite) pending(stream, group string, n int) {
	s.Helper()
	got := -1
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		var err error
		if got, err = s.Pending(stream, group); err != nil {
			s.Fatalf("pending: %v", err)
		}
		if got == n {
			return
		}
	}
	s.Fatalf("%d entries pending, want %d", got, n)
}
