package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"
)

// publishTimeout bounds one batch of entries, and how long others wait behind one that the server does not answer. The
// context of what is published does not count once it is taken.
const publishTimeout = 5 * time.Second

// redisPublisher is watermill-redisstream's Publisher over a client that sends what several goroutines publish at the
// same time together, so that they do not wait a round trip each.
//
// An entry is written at most once per Publish: no layer repeats an XADD whose answer did not come. Such a Publish
// returns an error although the entry may have been written, and whoever publishes again may write it twice. Dead
// letters that are written twice have the same original_id.
type redisPublisher struct {
	inner  *redisstream.Publisher
	writer *entryWriter
}

var _ message.Publisher = (*redisPublisher)(nil)

func newRedisPublisher(r *Redis) (*redisPublisher, error) {
	w := &entryWriter{
		UniversalClient: r.client, batches: newAddBatches(r.client), log: r.log,
		maxLen: r.cfg.MaxLen, deadMaxLen: r.cfg.DeadLetterMaxLen,
		dead: map[string]struct{}{}, other: map[string]struct{}{}, looked: map[string]time.Time{},
	}
	inner, err := redisstream.NewPublisher(
		redisstream.PublisherConfig{Client: w, Marshaller: entryMarshaller{}}, watermill.NopLogger{},
	)
	if err != nil {
		_ = w.batches.close(func() error { return nil })
		return nil, fmt.Errorf("publisher: %w", err)
	}
	return &redisPublisher{inner: inner, writer: w}, nil
}

// Publish writes each message as one entry of the stream topic: every metadata pair is a field, and the field data is
// the payload, left out when that is nil. It returns when Redis has the entries, or with the first error.
func (p *redisPublisher) Publish(topic string, messages ...*message.Message) error {
	if err := p.inner.Publish(topic, messages...); err != nil {
		return fmt.Errorf("publish to %s: %w", topic, err)
	}
	return nil
}

// Enqueue takes a message for the stream topic, to be written after all that were taken before it, and returns at once.
// wait returns when Redis has the entry, or with the error; it may be called once.
func (p *redisPublisher) Enqueue(topic string, msg *message.Message) (wait func() error) {
	add, size := redis.XAddArgs{Stream: topic}, len(msg.Payload)
	if len(msg.Metadata) == 0 && msg.Payload != nil {
		add.Values = []any{fieldData, []byte(msg.Payload)} // what entryFields comes to, without the maps
	} else {
		fields, err := entryFields(msg.Payload, msg.Metadata)
		if err != nil {
			return func() error { return fmt.Errorf("publish to %s: %w", topic, err) }
		}
		add.Values, size = fields, fieldBytes(fields)
	}
	ctx := msg.Context()
	taken := p.writer.submit(ctx, &add, size)
	return func() error {
		if err := p.writer.await(ctx, taken); err != nil {
			return fmt.Errorf("publish to %s: %w", topic, err)
		}
		return nil
	}
}

// Close does nothing: the publisher is shared, and a router closes each handler's publisher before the events in
// flight are done.
func (p *redisPublisher) Close() error { return nil }

func (p *redisPublisher) retain(stream string) { p.writer.retain(stream) }
func (p *redisPublisher) expect(stream string) { p.writer.expect(stream) }

// shut ends the publisher, and its connections by disconnect.
func (p *redisPublisher) shut(disconnect func() error) error {
	return p.writer.batches.close(disconnect)
}

// entryMarshaller turns a message into the fields of an entry.
type entryMarshaller struct{}

var _ redisstream.Marshaller = entryMarshaller{}

func (entryMarshaller) Marshal(_ string, msg *message.Message) (map[string]any, error) {
	return entryFields(msg.Payload, msg.Metadata)
}

func entryFields(data []byte, meta map[string]string) (map[string]any, error) {
	fields := make(map[string]any, len(meta)+1)
	for name, value := range meta {
		fields[name] = value
	}
	if data != nil {
		fields[fieldData] = data
	}
	if len(fields) == 0 {
		return nil, errors.New("message has neither payload nor metadata")
	}
	return fields, nil
}

// entryWriter is a client whose XADDs are sent in batches, trimmed to their stream's length, and have their fields in a
// constant order: sorted, data last.
type entryWriter struct {
	redis.UniversalClient
	batches *addBatches
	log     *slog.Logger

	maxLen, deadMaxLen int64

	mu     sync.Mutex
	dead   map[string]struct{}  // streams of dead letters
	other  map[string]struct{}  // other streams that will be published to
	looked map[string]time.Time // when a stream's groups were last looked at
}

// XAdd writes an entry.
func (w *entryWriter) XAdd(ctx context.Context, a *redis.XAddArgs) *redis.StringCmd {
	if w.isDead(a.Stream) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), publishTimeout)
		defer cancel()
	}
	taken := w.submit(ctx, a, fieldBytes(a.Values))
	if err := w.await(ctx, taken); err != nil {
		taken.cmd.SetErr(err)
	}
	return taken.cmd
}

// fieldBytes is how much data fields have, nearly.
func fieldBytes(fields any) (n int) {
	byName, _ := fields.(map[string]any)
	for _, value := range byName {
		switch v := value.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		}
	}
	return n
}

// takenEntry is an entry on its way.
type takenEntry struct {
	cmd    *redis.StringCmd
	done   <-chan struct{} // closed: cmd has its result
	stream string
	maxLen int64 // the length the stream is kept at, 0 when that is unlimited
}

// submit takes an entry with about size bytes of data. The context counts only until then.
func (w *entryWriter) submit(ctx context.Context, a *redis.XAddArgs, size int) takenEntry {
	if err := ctx.Err(); err != nil {
		cmd, done := refusedAdd(err)
		return takenEntry{cmd: cmd, done: done, stream: a.Stream}
	}
	add := *a
	add.MaxLen, add.Approx = max(w.maxLen, 0), true
	if w.isDead(a.Stream) {
		add.MaxLen = max(w.deadMaxLen, 0)
	}
	if fields, ok := a.Values.(map[string]any); ok {
		add.Values = orderedFields(fields)
	}
	cmd, done := w.batches.add(&add, size)
	return takenEntry{cmd: cmd, done: done, stream: a.Stream, maxLen: add.MaxLen}
}

// await returns when the entry is written, or with the error.
func (w *entryWriter) await(ctx context.Context, e takenEntry) error {
	<-e.done
	if err := e.cmd.Err(); err != nil {
		return describe("XADD", e.stream, err)
	}
	if e.maxLen > 0 {
		w.warnOfLoss(ctx, e.stream, e.maxLen)
	}
	return nil
}

// orderedFields returns names and values in the order they are written.
func orderedFields(fields map[string]any) []any {
	names := make([]string, 0, len(fields))
	for name := range fields {
		if name != fieldData {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	values := make([]any, 0, 2*len(fields))
	for _, name := range names {
		values = append(values, name, fields[name])
	}
	if data, ok := fields[fieldData]; ok {
		values = append(values, fieldData, data)
	}
	return values
}

func (w *entryWriter) retain(stream string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead[stream] = struct{}{}
}

func (w *entryWriter) isDead(stream string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.dead[stream]
	return ok
}

func (w *entryWriter) expect(stream string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.other[stream] = struct{}{}
}

// targets returns the streams that are known to be published to.
func (w *entryWriter) targets() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	streams := slices.AppendSeq(slices.Collect(maps.Keys(w.dead)), maps.Keys(w.other))
	slices.Sort(streams)
	return slices.Compact(streams)
}
