package bustest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

type testCase struct {
	name string
	run  func(*suite)
}

func cases() []testCase {
	return []testCase{
		{"every dialect is delivered", everyDialect},
		{"an entry put back keeps its identity", identity},
		{"an undecodable entry is delivered with its error", undecodable},
		{"one key in order", keyOrder},
		{"a held key does not stop others", heldKey},
		{"one lane is the stream's order", oneLane},
		{"a refused message comes again after a backoff", refused},
		{"every group gets every event", everyGroup},
		{"subscribers of one group share its events", sharedGroup},
		{"draining finishes what is in flight", drain},
		{"a drain that times out cancels contexts", drainTimeout},
		{"what a drain leaves comes again", resume},
		{"closing twice and at once", closing},
		{"publishing within a handler", publishWithin},
		{"the publisher writes fields", publisher},
		{"a router loses nothing when it closes", router},
	}
}

// feedback is a canonical entry of the key, with a sequence number in its
// queue_size.
func feedback(key string, seq int) []byte {
	return fmt.Appendf(nil, `{"ts":1795556873.5,"key":%q,"meta":{"schema_id":"telemetry.FeedbackEvent","track":"v1",`+
		`"headers":{},"hash":null},"payload":{"coordinator_id":%q,"queue_size":%d,"capacity":1000,"level":"ok",`+
		`"source":"store","ts":1795556873.4}}`, key, key, seq)
}

func data(text []byte) map[string]string { return map[string]string{"data": string(text)} }

// seq returns the sequence number of a feedback event.
func (s *suite) seq(e *event.Event) int {
	s.Helper()
	f, err := e.Feedback()
	if err != nil {
		s.Fatalf("event %s: %v", e.ID, err)
	}
	return int(f.QueueSize)
}

func everyDialect(s *suite) {
	const bare = `{"coordinator_id": "bars_1", "queue_size": 850, "capacity": 1000, "level": "soft"}`
	const envelope = `{"id": %q, "ts": 1.5, "key": "bars_1", "meta": {"schema_id": %q}, "payload": %s}`
	direct := fmt.Sprintf(envelope, "", "telemetry.backpressure.FeedbackEvent", bare)
	nested := fmt.Sprintf(envelope, "", "events.envelope.EventEnvelope", direct)
	ownID := fmt.Sprintf(envelope, "", "events.envelope.EventEnvelope",
		fmt.Sprintf(envelope, "inner-1", event.SchemaFeedback, bare))
	entries := []struct {
		data    string
		dialect event.Dialect
		id      string // "" = the entry's
	}{
		{data: bare, dialect: event.DialectBare},
		{data: direct, dialect: event.DialectDirect},
		{data: fmt.Sprintf(envelope, "ignored", event.SchemaFeedback, bare), dialect: event.DialectCanonical},
		{data: nested, dialect: event.DialectNested},
		{data: ownID, dialect: event.DialectNested, id: "inner-1"},
	}

	stream := s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, 0), stream)
	for _, entry := range entries {
		// Other fields of an entry are ignored.
		id := s.put(stream, map[string]string{"data": entry.data, "other": "x"})
		msg, e := s.receive(messages)
		want := entry.id
		if want == "" {
			want = id
		}
		if e.Err != nil || e.Dialect != entry.dialect || e.Schema != event.SchemaFeedback {
			s.Errorf("%s: decoded as %v, schema %s, error %v", entry.dialect, e.Dialect, e.Schema, e.Err)
		}
		if e.EntryID != id || e.ID != want || msg.UUID != want {
			s.Errorf("%s: entry ID %s, ID %s, UUID %s; want %s and twice %s",
				entry.dialect, e.EntryID, e.ID, msg.UUID, id, want)
		}
		if string(msg.Payload) != entry.data || string(e.Data) != entry.data {
			s.Errorf("%s: the payload is not what was put", entry.dialect)
		}
		if err := msg.Context().Err(); err != nil {
			s.Errorf("%s: the message's context: %v", entry.dialect, err)
		}
		msg.Ack()
	}
	s.settled(stream, group)
}

func identity(s *suite) {
	stream := s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, 0), stream)
	id := s.put(stream, map[string]string{
		"data": string(feedback("k", 1)), "original_id": "1795556873476-0", "replays": "2",
	})
	msg, e := s.receive(messages)
	if e.ID != "1795556873476-0" || msg.UUID != e.ID || e.EntryID != id || e.Replays != 2 {
		s.Errorf("ID %s, UUID %s, entry ID %s, %d replays", e.ID, msg.UUID, e.EntryID, e.Replays)
	}
	msg.Ack()
	s.settled(stream, group)
}

func undecodable(s *suite) {
	stream := s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, 0), stream)
	for _, fields := range []map[string]string{
		{"payload": "x", "other": "y"}, // no data field
		{"data": ""},
		{"data": "not json"},
		{"data": "[1,2,3]"},
		{"data": `{"ts": 1.5, "key": "k", "meta"`},
		{"data": "\xff\xfe"},
	} {
		s.put(stream, fields)
		msg, e := s.receive(messages)
		var kind interface{ Kind() string }
		if !errors.As(e.Err, &kind) {
			s.Errorf("%v: the event's error is %v, which has no kind", fields, e.Err)
		}
		text, has := fields["data"]
		switch {
		case string(e.Data) != text || string(msg.Payload) != text:
			s.Errorf("%v: data %q, payload %q", fields, e.Data, msg.Payload)
		case has && (e.Data == nil || e.Fields != nil):
			s.Errorf("%v: data is nil or the fields are kept too", fields)
		case !has && (e.Data != nil || !maps.Equal(e.Fields, fields)):
			s.Errorf("%v: data %q, fields %v", fields, e.Data, e.Fields)
		}
		msg.Ack()
		// The subscription goes on.
		good := s.put(stream, data(feedback("k", 1)))
		msg, e = s.receive(messages)
		if e.EntryID != good || e.Err != nil {
			s.Errorf("after %v: entry %s, error %v", fields, e.EntryID, e.Err)
		}
		msg.Ack()
	}
	s.settled(stream, group)
}

// handled records what handlers saw, key by key.
type handled struct {
	mu       sync.Mutex
	inFlight map[string]bool
	most     int // the most keys in flight at once
	done     map[string][]int
}

// begin notes that an event of the key is in flight, and is false when another
// one of it is.
func (h *handled) begin(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	alone := !h.inFlight[key]
	h.inFlight[key] = true
	h.most = max(h.most, len(h.inFlight))
	return alone
}

func (h *handled) end(key string, seq int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.inFlight, key)
	if ok {
		h.done[key] = append(h.done[key], seq)
	}
}

func keyOrder(s *suite) {
	const keys, each, lanes = 32, 40, 8
	stream := s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, lanes), stream)

	h := handled{inFlight: map[string]bool{}, done: map[string][]int{}}
	refused := map[string]bool{}
	var handlers sync.WaitGroup
	reader := make(chan struct{})
	go func() {
		defer close(reader)
		for left := keys * each; left > 0; {
			msg, ok := <-messages
			if !ok {
				s.Error("the subscription ended")
				return
			}
			e := event.FromContext(msg.Context())
			f, err := e.Feedback()
			if err != nil {
				s.Errorf("event %s: %v", e.ID, err)
				return
			}
			// One event of every fourth key is refused once.
			refuse := f.QueueSize == each/2 && (e.Key[len(e.Key)-1]-'0')%4 == 0 && !refused[e.Key]
			if refuse {
				refused[e.Key] = true
			} else {
				left--
			}
			handlers.Go(func() {
				if !h.begin(e.Key) {
					s.Errorf("two events of key %s in flight", e.Key)
				}
				time.Sleep(time.Duration(f.QueueSize%3) * 100 * time.Microsecond)
				h.end(e.Key, int(f.QueueSize), !refuse)
				if refuse {
					msg.Nack()
				} else {
					msg.Ack()
				}
			})
		}
	}()
	for i := range each {
		for k := range keys {
			s.put(stream, data(feedback(fmt.Sprint("key-", k), i)))
		}
	}
	select {
	case <-reader:
	case <-time.After(patience):
		s.Fatal("not all events were delivered")
	}
	handlers.Wait()
	s.settled(stream, group)

	if len(refused) == 0 {
		s.Error("no event was refused")
	}
	if len(h.done) != keys {
		s.Errorf("%d keys were handled, want %d", len(h.done), keys)
	}
	want := make([]int, each)
	for i := range want {
		want[i] = i
	}
	for key, got := range h.done {
		if diff := cmp.Diff(want, got); diff != "" {
			s.Errorf("key %s (-want +got):\n%s", key, diff)
		}
	}
	if h.most > lanes {
		s.Errorf("%d events in flight with %d lanes", h.most, lanes)
	}
}

func heldKey(s *suite) {
	const others, lanes = 64, 8
	stream := s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, lanes), stream)
	s.put(stream, data(feedback("held", 0)))
	held, _ := s.receive(messages)
	s.put(stream, data(feedback("held", 1)))
	for i := range others {
		s.put(stream, data(feedback(fmt.Sprint("other-", i), i)))
	}
	// Of the others, only those that share the held key's lane wait.
	passed := 0
	for offered := true; offered; {
		select {
		case msg := <-messages:
			if e := event.FromContext(msg.Context()); e.Key == "held" {
				s.Fatal("a second event of the held key came")
			}
			msg.Ack()
			passed++
		case <-time.After(silence):
			offered = passed == 0 // wait for the first as long as it takes
		}
	}
	held.Ack()
	for range others + 1 - passed {
		msg, _ := s.receive(messages)
		msg.Ack()
	}
	s.settled(stream, group)
}

func oneLane(s *suite) {
	const n = 50
	stream := s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, 1), stream)
	for i := range n {
		s.put(stream, data(feedback(fmt.Sprint("key-", i%5), i)))
	}
	for i := range n {
		msg, e := s.receive(messages)
		if got := s.seq(e); got != i {
			s.Fatalf("event %d came, want %d", got, i)
		}
		if i == 0 {
			s.quiet(messages)
		}
		msg.Ack()
	}
	s.settled(stream, group)
}

func refused(s *suite) {
	stream := s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, 1), stream)
	id := s.put(stream, data(feedback("k", 1)))
	s.put(stream, data(feedback("k", 2)))
	msg, _ := s.receive(messages)
	// Lower bounds only: a slow machine must not fail the case.
	for i, least := range []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond} {
		refusal := time.Now()
		msg.Metadata.Set("changed", "by the handler")
		msg.Nack()
		again, e := s.receive(messages)
		if again == msg || e.EntryID != id || again.UUID != msg.UUID || s.seq(e) != 1 {
			s.Fatalf("after refusal %d: entry %s, UUID %s", i+1, e.EntryID, again.UUID)
		}
		if _, changed := again.Metadata["changed"]; changed {
			s.Errorf("after refusal %d: the message was not made anew", i+1)
		}
		if waited := time.Since(refusal); waited < least {
			s.Errorf("came again %v after refusal %d, want at least %v", waited, i+1, least)
		}
		msg = again
	}
	msg.Ack()
	msg, e := s.receive(messages)
	if s.seq(e) != 2 {
		s.Errorf("event %d came, want 2", s.seq(e))
	}
	msg.Ack()
	s.quiet(messages)
	s.settled(stream, group)
}

func everyGroup(s *suite) {
	const n = 20
	stream := s.stream()
	one, _ := s.subscribe(s.subscriber(stream, "one", 1), stream)
	two, _ := s.subscribe(s.subscriber(stream, "two", 1), stream)
	ids := make([]string, n)
	for i := range ids {
		ids[i] = s.put(stream, data(feedback("k", i)))
	}
	// The second group reads nothing until the first has read all.
	for _, messages := range []<-chan *message.Message{one, two} {
		for i, id := range ids {
			msg, e := s.receive(messages)
			if e.EntryID != id {
				s.Fatalf("event %d is %s, want %s", i, e.EntryID, id)
			}
			msg.Ack()
		}
	}
	s.settled(stream, "one")
	s.settled(stream, "two")
}

func sharedGroup(s *suite) {
	if !s.SharesGroup {
		s.Skip("this transport allows one subscription of a group at a time")
	}
	const n = 200
	stream := s.stream()
	one, _ := s.subscribe(s.subscriber(stream, group, 4), stream)
	two, _ := s.subscribe(s.subscriber(stream, group, 4), stream)
	want := map[string]int{}
	for i := range n {
		want[s.put(stream, data(feedback(fmt.Sprint("key-", i), i)))] = 1
	}
	got := map[string]int{}
	for range n {
		var msg *message.Message
		select {
		case msg = <-one:
		case msg = <-two:
		case <-time.After(patience):
			s.Fatalf("%d of %d events came", len(got), n)
		}
		got[event.FromContext(msg.Context()).EntryID]++
		msg.Ack()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		s.Errorf("deliveries (-want +got):\n%s", diff)
	}
	s.settled(stream, group)
}

func drain(s *suite) {
	const n = 10
	stream := s.stream()
	messages, stop := s.subscribe(s.subscriber(stream, group, 2), stream)
	for i := range n {
		s.put(stream, data(feedback(fmt.Sprint("key-", i), i)))
	}
	held, _ := s.receive(messages)
	stop()
	// However long the subscription would be left to end, it waits for held.
	other := 0
	for waiting := true; waiting; {
		select {
		case msg, open := <-messages:
			if !open {
				s.Fatal("the subscription ended with a message in flight")
			}
			other++
			msg.Ack()
		case <-time.After(min(silence, s.DrainTimeout/4)):
			waiting = false
		}
	}
	if err := held.Context().Err(); err != nil {
		s.Errorf("the context of the message in flight: %v", err)
	}
	held.Ack()
	for msg := range messages {
		other++
		msg.Ack()
	}
	// How much of what waits is still handed out is the transport's affair, but
	// what was acknowledged stays so.
	if other > n-1 {
		s.Errorf("%d other messages came, want at most %d", other, n-1)
	}
	s.pending(stream, group, n-1-other)
}

func drainTimeout(s *suite) {
	stream := s.stream()
	messages, stop := s.subscribe(s.subscriber(stream, group, 1), stream)
	s.put(stream, data(feedback("k", 1)))
	held, _ := s.receive(messages)
	start := time.Now()
	stop()
	select {
	case <-held.Context().Done():
	case <-time.After(s.DrainTimeout + patience):
		s.Fatal("the message's context outlived the drain timeout")
	}
	if took := time.Since(start); took < s.DrainTimeout/2 {
		s.Errorf("the context was cancelled after %v, the drain timeout is %v", took, s.DrainTimeout)
	}
	s.ended(messages)
	s.pending(stream, group, 1)
}

func resume(s *suite) {
	const n = 6
	stream := s.stream()
	sub := s.subscriber(stream, group, 1)
	messages, stop := s.subscribe(sub, stream)
	for i := range n {
		s.put(stream, data(feedback("k", i)))
	}
	first, _ := s.receive(messages)
	first.Ack()
	second, e := s.receive(messages)
	stop()
	if got := s.seq(e); got != 1 {
		s.Fatalf("event %d came, want 1", got)
	}
	second.Nack() // as a handler does when it cannot go on
	for msg := range messages {
		msg.Nack() // it may be offered once more while the drain begins
	}

	messages, _ = s.subscribe(sub, stream)
	for want := 1; want < n; want++ {
		msg, e := s.receive(messages)
		if got := s.seq(e); got != want {
			s.Fatalf("event %d came, want %d", got, want)
		}
		msg.Ack()
	}
	s.settled(stream, group)
}

func closing(s *suite) {
	stream := s.stream()
	if err := s.Transport.Up(); err != nil {
		s.Errorf("up before close: %v", err)
	}
	unused := s.subscriber(stream, "unused", 0)
	sub := s.subscriber(stream, group, 0)
	messages, _ := s.subscribe(sub, stream)
	s.put(stream, data(feedback("k", 1)))
	held, _ := s.receive(messages)

	var closers sync.WaitGroup
	for range 3 {
		closers.Go(func() {
			if err := sub.Close(); err != nil {
				s.Errorf("close the subscriber: %v", err)
			}
		})
	}
	held.Ack()
	closers.Wait()
	s.ended(messages)
	if err := sub.Close(); err != nil {
		s.Errorf("close the subscriber again: %v", err)
	}
	if _, err := sub.Subscribe(context.Background(), stream); err == nil {
		s.Error("a closed subscriber subscribes")
	}

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 3 {
		closers.Go(func() {
			if err := s.Transport.Close(ctx); err != nil {
				s.Errorf("close the transport: %v", err)
			}
		})
	}
	closers.Wait()
	if err := unused.Close(); err != nil {
		s.Errorf("close a subscriber of the closed transport: %v", err)
	}
	if _, err := unused.Subscribe(ctx, stream); err == nil {
		s.Error("a subscriber of the closed transport subscribes")
	}
	if err := s.Transport.Publisher().Publish(stream, message.NewMessage("", feedback("k", 2))); err == nil {
		s.Error("the closed transport publishes")
	}
	if s.Transport.Up() == nil {
		s.Error("the closed transport is up")
	}
}

func publishWithin(s *suite) {
	const generations = 5
	stream, other := s.stream(), s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, 1), stream)
	others, _ := s.subscribe(s.subscriber(other, group, 1), other)
	s.put(stream, data(feedback("k", 0)))
	for i := range generations {
		msg, e := s.receive(messages)
		if got := s.seq(e); got != i {
			s.Fatalf("event %d came, want %d", got, i)
		}
		// Before the acknowledgement: the group's only lane is taken.
		s.publish(other, feedback("k", i), nil)
		s.publish(stream, feedback("k", i+1), nil)
		msg.Ack()
	}
	for i := range generations {
		msg, e := s.receive(others)
		if got := s.seq(e); got != i {
			s.Fatalf("the other stream's event %d came, want %d", got, i)
		}
		msg.Ack()
	}
	msg, _ := s.receive(messages)
	msg.Ack()
	s.settled(stream, group)
	s.settled(other, group)
}

func publisher(s *suite) {
	stream := s.stream()
	messages, _ := s.subscribe(s.subscriber(stream, group, 1), stream)
	if err := s.Transport.Publisher().Close(); err != nil {
		s.Errorf("close the publisher: %v", err)
	}

	s.publish(stream, feedback("k", 1), message.Metadata{"original_id": "7-1", "replays": "3", "reason": "x"})
	msg, e := s.receive(messages)
	if e.ID != "7-1" || e.Replays != 3 || e.Err != nil || string(e.Data) != string(feedback("k", 1)) {
		s.Errorf("ID %s, %d replays, error %v, data %s", e.ID, e.Replays, e.Err, e.Data)
	}
	msg.Ack()

	// Without a payload there is no data field.
	fields := map[string]string{"original_id": "7-2", "fields": `{"a":"b"}`}
	s.publish(stream, nil, fields)
	msg, e = s.receive(messages)
	if diff := cmp.Diff(fields, e.Fields); diff != "" || e.Data != nil || e.Err == nil {
		s.Errorf("data %q, error %v, fields (-want +got):\n%s", e.Data, e.Err, diff)
	}
	msg.Ack()
	s.settled(stream, group)
}

func router(s *suite) {
	const n = 300
	stream := s.stream()
	put := map[string]bool{}
	handledIDs := map[string]int{}
	var mu sync.Mutex

	// run runs a router until until is closed, and waits for its end.
	run := func(sub message.Subscriber, handle func(id string), until <-chan struct{}) {
		r, err := message.NewRouter(message.RouterConfig{CloseTimeout: patience}, watermill.NopLogger{})
		if err != nil {
			s.Fatalf("router: %v", err)
		}
		r.AddConsumerHandler("handler", stream, sub, func(msg *message.Message) error {
			handle(event.FromContext(msg.Context()).EntryID)
			return nil
		})
		running := make(chan error, 1)
		go func() { running <- r.Run(context.Background()) }()
		<-r.Running() // closed earlier, it would wait for its whole timeout
		select {
		case <-until:
		case <-time.After(patience):
			s.Error("the router handled too little")
		}
		if err := r.Close(); err != nil {
			s.Errorf("close the router: %v", err)
		}
		if err := <-running; err != nil {
			s.Errorf("run the router: %v", err)
		}
	}
	// Kept open, so that the group outlives the first router's subscriber.
	second := s.subscriber(stream, group, 4)
	for i := range n {
		put[s.put(stream, data(feedback(fmt.Sprint("key-", i%16), i)))] = true
	}
	some, all := make(chan struct{}), make(chan struct{})
	note := func(id string) (distinct int) {
		mu.Lock()
		defer mu.Unlock()
		handledIDs[id]++
		return len(handledIDs)
	}
	run(s.subscriber(stream, group, 4), func(id string) {
		if note(id) == n/10 {
			close(some)
		}
		// No sleep: on virtual time none would end, since a closing router
		// makes its readers wait for a mutex.
	}, some)
	if len(handledIDs) == n {
		close(all) // the drain handled the rest
	}
	run(second, func(id string) {
		if note(id) == n {
			close(all)
		}
	}, all)

	for id, times := range handledIDs {
		if times != 1 || !put[id] {
			s.Errorf("entry %s was handled %d times", id, times)
		}
	}
	if missing := slices.Sorted(maps.Keys(put)); len(handledIDs) != n {
		s.Errorf("%d of %d entries were handled", len(handledIDs), len(missing))
	}
	s.settled(stream, group)
}
