package flowtest

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// line is the transport of a test: streams in memory whose events are handed out
// by the schedule, and carried to the router through gochannel as the in-memory bus
// does. Unlike that, which runs keys side by side in lanes that are drawn by lot, it
// has the same order at every run; like it, events of one key are handled in order
// and one at a time, and an event holds its key until it is settled. It keeps
// everything that is published.
type line struct {
	schedule *schedule
	decoder  event.Decoder
	follows  func(t, cause *task) // told of each delivery that comes of another one
	base     context.Context      // of all messages
	cancel   context.CancelFunc

	mu        sync.Mutex
	flows     map[source]string    // names by what they read
	readers   map[string][]*reader // by stream key
	published []publication
	tasks     []*task // every delivery, in the order in which it was put on its stream
	lastMilli int64
	sequence  int
}

// publication is a message that a flow, or the router for it, put on a stream.
type publication struct {
	stream string
	at     time.Time
	data   []byte
	meta   map[string]string
	cause  *task // what was handled then; nil outside a flow
}

// source is what a flow reads: a stream in a group.
type source struct{ stream, group string }

var _ router.Transport = (*line)(nil)

func newLine(s *schedule, plan *router.Plan) *line {
	base, cancel := context.WithCancel(context.Background())
	l := &line{
		schedule: s, decoder: event.Decoder{MaxSize: int(plan.File.Bus.MaxEventSize)}, base: base, cancel: cancel,
		flows: make(map[source]string), readers: make(map[string][]*reader),
	}
	for _, p := range plan.Flows {
		l.flows[source{p.StreamKey, p.Group}] = p.Name
	}
	return l
}

// Subscriber implements router.Transport. start makes no difference: no stream holds
// anything before its readers are there.
func (l *line) Subscriber(stream, group, _ string, lanes int) (message.Subscriber, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, err := l.newReader(stream, group, lanes)
	if err != nil {
		return nil, err
	}
	l.readers[stream] = append(l.readers[stream], r)
	return r, nil
}

// Publisher implements router.Transport.
func (l *line) Publisher() message.Publisher { return linePublisher{l} }

// RetainDeadLetters implements router.Transport: everything is kept.
func (*line) RetainDeadLetters(string) {}

// ExpectPublish implements router.Transport: every stream can be published to.
func (*line) ExpectPublish(string) {}

// Up implements router.Transport.
func (*line) Up() error { return nil }

// entry is what is put on a stream.
type entry struct {
	id   string // milliseconds-sequence, or any id; "" has one assigned
	data []byte // nil is an entry without data
	meta map[string]string
}

// put adds an entry, which the handling of cause has made, or nothing, to a stream. It
// returns its deliveries, one for each flow that reads it, none when no flow does.
func (l *line) put(stream string, e entry, cause *task) []*task {
	l.mu.Lock()
	readers := l.readers[stream]
	if len(readers) == 0 {
		l.mu.Unlock()
		return nil
	}
	decoded := l.decode(e)
	tasks := make([]*task, len(readers))
	for i, r := range readers {
		tasks[i] = &task{
			reader: r, lane: r.lane(decoded), event: decoded, meta: maps.Clone(e.meta), paused: make(chan struct{}, 1),
		}
	}
	l.tasks = append(l.tasks, tasks...)
	l.mu.Unlock()
	for _, t := range tasks {
		if cause != nil {
			l.follows(t, cause)
		}
		l.schedule.admit(t)
	}
	return tasks
}

// decode makes the event of an entry by the rules of the in-memory bus.
func (l *line) decode(e entry) *event.Event {
	id := e.id
	if !isEntryID(id) {
		id = l.nextID()
	}
	var decoded *event.Event
	if len(e.meta) == 0 && e.data != nil {
		decoded = l.decoder.Decode(id, e.data)
	} else {
		fields := make(map[string]any, len(e.meta)+1)
		for k, v := range e.meta {
			fields[k] = v
		}
		if e.data != nil {
			fields["data"] = e.data
		}
		decoded = l.decoder.DecodeFields(id, fields)
	}
	if decoded.ID == id && e.id != "" {
		decoded.ID = e.id
	}
	return decoded
}

// nextID is an entry ID of the virtual time. The caller holds mu.
func (l *line) nextID() string {
	if now := l.schedule.Now().UnixMilli(); now > l.lastMilli {
		l.lastMilli, l.sequence = now, 0
	} else {
		l.sequence++
	}
	return strconv.FormatInt(l.lastMilli, 10) + "-" + strconv.Itoa(l.sequence)
}

// isEntryID reports whether id has the form milliseconds-sequence.
func isEntryID(id string) bool {
	ms, seq, ok := strings.Cut(id, "-")
	if !ok {
		return false
	}
	_, err := strconv.ParseUint(ms, 10, 64)
	_, err2 := strconv.ParseUint(seq, 10, 64)
	return err == nil && err2 == nil
}

type linePublisher struct{ *line }

// Close implements message.Publisher; the line outlives it.
func (linePublisher) Close() error { return nil }

// Publish implements message.Publisher.
func (p linePublisher) Publish(stream string, messages ...*message.Message) error {
	for _, msg := range messages {
		out := publication{
			stream: stream, at: p.schedule.Now(), data: bytes.Clone(msg.Payload), meta: maps.Clone(msg.Metadata),
		}
		if d := stages.From(msg.Context()); d != nil {
			out.cause = p.schedule.running()
			if d.Trace != nil && msg.Metadata.Get(router.FieldFlow) == "" {
				d.Trace.Note("publishes on %s: %s", stream, msg.Payload)
			}
		}
		p.mu.Lock()
		p.published = append(p.published, out)
		p.mu.Unlock()
		p.put(stream, entry{id: msg.UUID, data: out.data, meta: out.meta}, out.cause)
	}
	return nil
}

// reader is a flow's subscriber.
type reader struct {
	line  *line
	flow  string
	limit int // lanes; 0 is one for each key
	out   chan *message.Message
	lanes map[string]*lane
	keys  int // distinct ones so far
	once  sync.Once

	carrier *bus.Carrier
	free    []int // lanes of the carrier that nothing is in
}

func (l *line) newReader(stream, group string, lanes int) (*reader, error) {
	carrier, err := bus.NewCarrier(l.base, stream+"/"+group, 0)
	if err != nil {
		return nil, err
	}
	return &reader{
		line: l, flow: l.flows[source{stream, group}], limit: lanes, out: make(chan *message.Message),
		lanes: make(map[string]*lane), carrier: carrier,
	}, nil
}

var _ message.Subscriber = (*reader)(nil)

// Subscribe implements message.Subscriber.
func (r *reader) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	return r.out, nil
}

// Close implements message.Subscriber. By then nothing runs; what still waits is
// let go.
func (r *reader) Close() error {
	r.line.cancel()
	r.once.Do(func() { close(r.out) })
	return r.carrier.Close()
}

// lane returns the lane of an event's key. With a limit, keys share lanes in the
// order in which they first appear. The caller holds the line's mu.
func (r *reader) lane(e *event.Event) *lane {
	key := e.OrderKey()
	if key == "" {
		key = "\x00" + e.EntryID
	}
	found := r.lanes[key]
	if found == nil {
		name := key
		if r.limit > 0 {
			name = "\x01" + strconv.Itoa(r.keys%r.limit)
		}
		if found = r.lanes[name]; found == nil {
			found = &lane{}
			r.lanes[name] = found
		}
		r.lanes[key] = found
		r.keys++
	}
	return found
}

// errClosed says that a flow takes nothing any more, though its test goes on.
var errClosed = errors.New("the flow has ended")

// carry brings the message of a delivery through gochannel: a new one, or after a
// refusal the one that gochannel has sent again. A lane of the line has one of the
// carrier while it holds events, so that there are only as many topics as events in
// flight at once. Only the schedule calls it, and done.
func (r *reader) carry(t *task) (*message.Message, error) {
	again := t.msg != nil
	if !again && !t.lane.carried {
		if len(r.free) == 0 {
			topic, err := r.carrier.Grow()
			if err != nil {
				return nil, err
			}
			r.free = append(r.free, topic)
		}
		last := len(r.free) - 1
		t.lane.topic, t.lane.carried, r.free = r.free[last], true, r.free[:last]
	}
	msg := r.carrier.Carry(t.lane.topic, t.event, t.meta, again)
	if msg == nil {
		return nil, errClosed
	}
	return msg, nil
}

// done takes a lane off the carrier.
func (r *reader) done(l *lane) {
	r.free = append(r.free, l.topic)
	l.carried = false
}

// lane holds the events of a key that are not settled, the first of them running.
// Its queue is guarded by the schedule's mu.
type lane struct {
	queue   []*task
	topic   int // its lane of the carrier
	carried bool
}

// add appends t and reports whether it is the first.
func (l *lane) add(t *task) bool {
	l.queue = append(l.queue, t)
	return len(l.queue) == 1
}

// done removes the first and returns the one behind it, nil when there is none.
func (l *lane) done() *task {
	l.queue = l.queue[1:]
	if len(l.queue) == 0 {
		return nil
	}
	return l.queue[0]
}
