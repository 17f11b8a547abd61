package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
)

var (
	// ErrFull is the backpressure of the in-memory bus: a group of the stream
	// holds as many events as it may. Publishing again later may succeed.
	ErrFull error = backpressure{}
	// ErrClosed is returned once the bus, or the subscription concerned, shuts
	// down.
	ErrClosed = errors.New("bus is closed")
	// ErrNoReader is returned by Put for a stream that nothing in the process
	// reads or keeps.
	ErrNoReader = errors.New("stream has no reader")
	// ErrBusy is returned by Subscribe when the in-memory group has a reader
	// already: its events are not shared among readers.
	ErrBusy = errors.New("consumer group has a reader already")
)

// backpressure is the error of a bus that is full. It passes by itself, so it counts
// as an outage and not as a failed attempt: a flow that publishes to another waits
// until that has caught up.
type backpressure struct{}

func (backpressure) Error() string     { return "bus is full" }
func (backpressure) Unavailable() bool { return true }

// Where a new consumer group starts to read.
const (
	StartOldest = "oldest" // the oldest entry the stream holds
	StartNewest = "newest" // only what is published from now on
)

// Defaults of InMemoryConfig.
const (
	DefaultCapacity         = 10_000
	DefaultDeadLetterBuffer = 10_000
	DefaultDrainTimeout     = 8 * time.Second
)

// InMemoryConfig sets up an in-memory bus. The zero value is ready for use.
type InMemoryConfig struct {
	// Capacity is how many events each consumer group may hold, queued and in
	// flight. Zero means DefaultCapacity.
	Capacity int
	// Lanes is how many events of a group are handled at once, when its
	// subscriber does not say. Zero means 16 for each CPU the process may use
	// (GOMAXPROCS), and at least 128.
	Lanes int
	// MaxEventSize is the largest event, in bytes, that is decoded; a larger one
	// is delivered with an error in its Event. Zero means event.DefaultMaxSize.
	MaxEventSize int64
	// DeadLetterBuffer is how many entries of each stream named to
	// RetainDeadLetters are kept. Zero means DefaultDeadLetterBuffer.
	DeadLetterBuffer int
	// DrainTimeout is how long a subscription that ends may go on handling what
	// is queued. Zero means DefaultDrainTimeout.
	DrainTimeout time.Duration
	// Logger is told what no caller can be told. Nil means nothing is logged.
	Logger *slog.Logger

	// The backoff of redelivery, for tests. Zero means the usual one.
	redeliverFirst, redeliverMost time.Duration
}

// Validate reports the first setting that is out of range.
func (c InMemoryConfig) Validate() error {
	for _, setting := range []struct {
		name  string
		value int64
	}{
		{"capacity", int64(c.Capacity)},
		{"lanes", int64(c.Lanes)},
		{"max event size", c.MaxEventSize},
		{"dead letter buffer", int64(c.DeadLetterBuffer)},
		{"drain timeout", int64(c.DrainTimeout)},
	} {
		if setting.value < 0 {
			return fmt.Errorf("%s: %d is negative", setting.name, setting.value)
		}
	}
	return nil
}

// InMemory is a bus within the process, over Watermill's gochannel. Every group
// that subscribes to a stream gets every event published to it from then on.
// Events exist in memory only: what is not handled when the bus closes is lost,
// and counted by Unhandled.
//
// A message of an InMemory carries the publisher's UUID, payload and metadata.
// Its context carries the *event.Event the payload was decoded to, once, when it
// was published. The payload is not copied and must not be changed after it was
// published.
type InMemory struct {
	cfg          InMemoryConfig
	log          *slog.Logger
	decoder      event.Decoder
	capacity     int
	drainTimeout time.Duration
	roomStep     int // free places at which those who wait for room are woken

	base  context.Context // of all messages
	abort context.CancelFunc

	pending    atomic.Int64 // held by all groups; raised under mu
	idleWanted atomic.Bool  // idle is not nil

	mu        sync.Mutex
	streams   map[string]*memStream
	lastID    streamID      // the greatest that was assigned
	idle      chan struct{} // closed when pending falls to zero
	unhandled int           // discarded
	closing   bool          // Close was called
	closed    bool          // Close has finished
	done      chan struct{} // closed with it
}

// memStream is what there is of a stream in memory: who reads it, and its
// entries when they are kept.
type memStream struct {
	groups  []*memGroup
	letters *letters // nil when entries are not kept
}

// NewInMemory returns a bus. Close must be called to stop what it started.
func NewInMemory(cfg InMemoryConfig) (*InMemory, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("in-memory bus: %w", err)
	}
	base, abort := context.WithCancel(context.Background())
	capacity := cmp.Or(cfg.Capacity, DefaultCapacity)
	return &InMemory{
		cfg:          cfg,
		log:          cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		decoder:      event.Decoder{MaxSize: int(cfg.MaxEventSize)},
		capacity:     capacity,
		drainTimeout: cmp.Or(cfg.DrainTimeout, DefaultDrainTimeout),
		roomStep:     min(64, max(1, capacity/4)),
		base:         base,
		abort:        abort,
		streams:      map[string]*memStream{},
		done:         make(chan struct{}),
	}, nil
}

// Subscriber returns a subscriber of the stream for the group, which exists from
// this call on: it queues what is published before Subscribe. lanes is how many
// events are handled at once; zero means the bus's default. start is StartOldest
// or StartNewest; both mean the same here, since a stream holds nothing older
// than its groups. Close of the group's last subscriber ends the group.
//
// One subscription of a group may run at a time: Subscribe returns ErrBusy while
// another does, and waits for one that drains.
func (m *InMemory) Subscriber(stream, group, start string, lanes int) (message.Subscriber, error) {
	if err := checkSubscriber(stream, group, start, lanes); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, fmt.Errorf("subscriber for %s, group %s: %w", stream, group, ErrClosed)
	}
	s := m.stream(stream)
	i := slices.IndexFunc(s.groups, func(g *memGroup) bool { return g.name == group })
	if i < 0 {
		i = len(s.groups)
		s.groups = append(s.groups, &memGroup{bus: m, stream: stream, name: group})
	}
	g := s.groups[i]
	g.open++
	g.ready++
	return &memSubscriber{group: g, lanes: cmp.Or(lanes, m.cfg.Lanes, defaultLanes())}, nil
}

// checkSubscriber reports which of a subscriber's settings is none.
func checkSubscriber(stream, group, start string, lanes int) error {
	switch {
	case stream == "":
		return errors.New("subscriber: stream is empty")
	case group == "":
		return fmt.Errorf("subscriber for %s: group is empty", stream)
	case start != StartOldest && start != StartNewest:
		return fmt.Errorf("subscriber for %s, group %s: start is %q, must be %s or %s",
			stream, group, start, StartOldest, StartNewest)
	case lanes < 0:
		return fmt.Errorf("subscriber for %s, group %s: %d lanes", stream, group, lanes)
	}
	return nil
}

// stream returns the stream's record, a new one if there is none. The caller
// holds mu.
func (m *InMemory) stream(name string) *memStream {
	s := m.streams[name]
	if s == nil {
		s = &memStream{}
		m.streams[name] = s
	}
	return s
}

// remove takes a group off its stream. The caller holds mu.
func (m *InMemory) remove(g *memGroup) {
	s := m.streams[g.stream]
	if s == nil {
		return // it has left before
	}
	s.groups = slices.DeleteFunc(s.groups, func(other *memGroup) bool { return other == g })
	if len(s.groups) == 0 && s.letters == nil {
		delete(m.streams, g.stream)
	}
}

// ExpectPublish does nothing: every stream can be published to.
func (m *InMemory) ExpectPublish(string) {}

// RetainDeadLetters makes the bus keep the newest entries published to the
// stream, up to DeadLetterBuffer of them, for Newest. Its groups get them too.
func (m *InMemory) RetainDeadLetters(stream string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.stream(stream); s.letters == nil {
		s.letters = &letters{size: cmp.Or(m.cfg.DeadLetterBuffer, DefaultDeadLetterBuffer)}
	}
}

// Newest returns up to n kept entries of the stream, the newest first; all of
// them when n is not positive. It never fails: a stream whose entries are not
// kept has none. It goes on working after Close.
func (m *InMemory) Newest(_ context.Context, stream string, n int) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[stream]; s != nil && s.letters != nil {
		return s.letters.newest(n), nil
	}
	return nil, nil
}

// DeadLetterOverflow returns how many kept entries of the stream had to make
// room for newer ones.
func (m *InMemory) DeadLetterOverflow(stream string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[stream]; s != nil && s.letters != nil {
		return s.letters.overflow
	}
	return 0
}

// Publisher returns a publisher whose Publish is the bus's and whose Close does
// nothing.
func (m *InMemory) Publisher() message.Publisher { return memPublisher{m} }

type memPublisher struct{ *InMemory }

func (memPublisher) Close() error { return nil }

// Publish hands each message to every group of the stream and does not wait:
// when a group is full the error is ErrFull and no group gets that message, nor
// any after it. When one of the stream's groups shuts down it is ErrClosed.
//
// Without groups nothing could ever read the message, so it is dropped without
// an error, unless the stream's entries are kept. An output stream that is read
// by other processes on Redis can thus be published to.
//
// A UUID of an entry ID's form, milliseconds-sequence, becomes the event's entry
// ID, so that recorded entries keep theirs; otherwise the bus assigns one. The
// event's ID is the first of these that there is: the inner envelope's id, the
// metadata original_id, the UUID, the entry ID. The metadata replays is the
// event's Replays; metadata named data, which is the payload's field, is left
// out. A nil payload is an entry without data.
func (m *InMemory) Publish(stream string, messages ...*message.Message) error {
	return m.publish(context.Background(), stream, messages, false)
}

// PublishWait is Publish, but waits for room in full groups until ctx ends. It
// must not be called by what handles events of the same stream: that would wait
// for itself.
func (m *InMemory) PublishWait(ctx context.Context, stream string, messages ...*message.Message) error {
	return m.publish(ctx, stream, messages, true)
}

func (m *InMemory) publish(ctx context.Context, stream string, messages []*message.Message, wait bool) error {
	for i, msg := range messages {
		p := parcel{id: msg.UUID, data: msg.Payload, meta: msg.Metadata}
		if _, err := m.put(ctx, stream, p, wait); err != nil && !errors.Is(err, ErrNoReader) {
			return fmt.Errorf("publish message %d of %d to %s: %w", i+1, len(messages), stream, err)
		}
	}
	return nil
}

// Put publishes data with metadata as Publish does, with wait as PublishWait
// does, and returns the entry ID it was given. It is for those who promise
// somebody that the event will be handled: for a stream without groups, whose
// entries are not kept either, the error is ErrNoReader.
func (m *InMemory) Put(
	ctx context.Context, stream string, data []byte, meta map[string]string, wait bool,
) (id string, err error) {
	id, err = m.put(ctx, stream, parcel{data: data, meta: meta}, wait)
	if err != nil {
		return "", fmt.Errorf("put to %s: %w", stream, err)
	}
	return id, nil
}

// parcel is what is published: a message's parts.
type parcel struct {
	id   string // "" = none
	data []byte // nil = an entry without data
	meta map[string]string
}

// put publishes one parcel and returns its entry ID.
func (m *InMemory) put(ctx context.Context, stream string, p parcel, wait bool) (string, error) {
	if len(p.meta) > 0 {
		p.meta = maps.Clone(p.meta)
		delete(p.meta, fieldData) // the payload's
	}
	id, read, err := m.assign(stream, p)
	if err != nil {
		return "", err
	}
	var e *event.Event
	if read {
		e = m.decode(id, p)
	}
	for {
		room, err := m.admit(stream, id, p, e)
		switch {
		case err != nil:
			return "", err
		case room == nil:
			return id, nil
		case !wait:
			return "", ErrFull
		}
		select {
		case <-room:
		case <-ctx.Done():
			return "", fmt.Errorf("%w: %w", ErrFull, context.Cause(ctx))
		}
	}
}

// assign returns the entry ID for p and whether the stream has groups.
func (m *InMemory) assign(stream string, p parcel) (id string, read bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	switch {
	case m.closed:
		return "", false, ErrClosed
	case s == nil:
		return "", false, ErrNoReader
	}
	// A kept entry is looked up by its ID, so that must be its own.
	if _, ok := parseStreamID(p.id); ok && s.letters == nil {
		return p.id, true, nil
	}
	return m.nextID().String(), len(s.groups) > 0, nil
}

// nextID returns an entry ID for now, greater than the last one whatever the
// clock does. The caller holds mu.
func (m *InMemory) nextID() streamID {
	id := streamID{ms: uint64(time.Now().UnixMilli())}
	if !m.lastID.less(id) {
		id = m.lastID.after()
	}
	m.lastID = id
	return id
}

// decode makes the event of p.
func (m *InMemory) decode(id string, p parcel) *event.Event {
	var e *event.Event
	if len(p.meta) == 0 && p.data != nil {
		e = m.decoder.Decode(id, p.data)
	} else {
		fields := make(map[string]any, len(p.meta)+1)
		for name, value := range p.meta {
			fields[name] = value
		}
		if p.data != nil {
			fields[fieldData] = p.data
		}
		e = m.decoder.DecodeFields(id, fields)
	}
	if e.ID == id && p.id != "" { // neither the envelope nor original_id has one
		e.ID = p.id
	}
	return e
}

// admit gives the event to every group of the stream, or to none: then it
// returns a channel that is closed when there may be room. e is nil when the
// stream had no groups; one that appeared since came too late for this event.
func (m *InMemory) admit(stream, id string, p parcel, e *event.Event) (room <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.streams[stream]
	switch {
	case m.closed:
		return nil, ErrClosed
	case s == nil:
		return nil, ErrNoReader
	}
	if e != nil {
		for _, g := range s.groups {
			if g.refuses() {
				return nil, ErrClosed
			}
			if g.full() {
				if room = g.waitRoom(); room != nil {
					return room, nil
				}
			}
		}
	}
	if s.letters != nil {
		s.letters.add(id, p.meta, p.data)
	}
	if e != nil {
		for _, g := range s.groups {
			g.add(delivery{event: e, meta: p.meta})
		}
	}
	return nil, nil
}

// Up returns nil while the bus can be used, ErrClosed after.
func (m *InMemory) Up() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return ErrClosed
	}
	return nil
}

// Depth returns how many events the group holds, queued or in flight, and how
// many it may; 0, 0 when there is no such group.
func (m *InMemory) Depth(stream, group string) (queued, capacity int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[stream]; s != nil {
		for _, g := range s.groups {
			if g.name == group {
				return int(g.held.Load()), m.capacity
			}
		}
	}
	return 0, 0
}

// Idle reports whether no group holds an event, queued or in flight.
func (m *InMemory) Idle() bool { return m.pending.Load() == 0 }

// WaitIdle waits until Idle, or until ctx ends, and then returns its error.
func (m *InMemory) WaitIdle(ctx context.Context) error {
	m.mu.Lock()
	if m.idle == nil {
		m.idle = make(chan struct{})
		m.idleWanted.Store(true)
	}
	idle := m.idle
	m.mu.Unlock()
	// Asked after idleWanted was set: release lowers pending before it looks.
	if m.Idle() {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the in-memory bus to be idle: %w", context.Cause(ctx))
	}
}

// wakeIdle lets everyone go who waits for the bus to be idle.
func (m *InMemory) wakeIdle() {
	if !m.idleWanted.Load() {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.idle != nil {
		m.idleWanted.Store(false)
		close(m.idle)
		m.idle = nil
	}
}

// Unhandled returns how many events were not handled when their subscription
// ended: those lost, and those that wait for another one.
func (m *InMemory) Unhandled() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.unhandled
	for _, s := range m.streams {
		for _, g := range s.groups {
			if g.refuses() {
				n += len(g.backlog)
			}
		}
	}
	return n
}

// Close drains all subscriptions at once, as far as the drain timeout and ctx
// allow, and closes the bus. Handlers that finish meanwhile can publish to
// streams without groups and to those whose entries are kept; to streams whose
// groups drain nothing can be published any more. Close may be called more than
// once, and returns when the bus is closed. The error is ctx's when that cut the
// drain short.
func (m *InMemory) Close(ctx context.Context) error {
	m.mu.Lock()
	first := !m.closing
	m.closing = true
	var readers []*memReader
	for _, s := range m.streams {
		for _, g := range s.groups {
			g.wake()
			if g.reader != nil {
				readers = append(readers, g.reader)
			}
		}
	}
	m.mu.Unlock()

	defer context.AfterFunc(ctx, m.abort)()
	for _, r := range readers {
		r.drain()
	}
	if !first {
		<-m.done
		return nil
	}
	for _, r := range readers {
		<-r.done
	}
	cut := m.base.Err() != nil
	m.abort()

	m.mu.Lock()
	lost := map[*memGroup]int{}
	for _, s := range m.streams {
		for _, g := range s.groups {
			lost[g] = g.discard()
		}
	}
	m.closed = true
	close(m.done)
	m.mu.Unlock()
	for g, n := range lost {
		g.release(n)
	}
	if cut {
		return fmt.Errorf("close in-memory bus: drain cut short: %w", context.Cause(ctx))
	}
	return nil
}
