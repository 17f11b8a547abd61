package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

// openInMemory opens a bus that is closed at the end of the test.
func openInMemory(t *testing.T, cfg InMemoryConfig) *InMemory {
	t.Helper()
	m, err := NewInMemory(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // what a test leaves unhandled is not waited for
		_ = m.Close(ctx)
	})
	return m
}

func subscriber(t *testing.T, m *InMemory, stream, group string, lanes int) message.Subscriber {
	t.Helper()
	sub, err := m.Subscriber(stream, group, StartOldest, lanes)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func subscribe(t *testing.T, sub message.Subscriber) <-chan *message.Message {
	t.Helper()
	messages, err := sub.Subscribe(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return messages
}

func publish(t *testing.T, m *InMemory, stream string, messages ...*message.Message) {
	t.Helper()
	if err := m.Publish(stream, messages...); err != nil {
		t.Fatal(err)
	}
}

// envelope is a canonical entry of the key.
func envelope(key string) []byte {
	return fmt.Appendf(nil, `{"ts":1.5,"key":%q,"meta":{"schema_id":"x"},"payload":{}}`, key)
}

func textMessage(uuid, text string) *message.Message { return message.NewMessage(uuid, []byte(text)) }

func TestInMemoryConfig(t *testing.T) {
	for _, tc := range []struct {
		cfg  InMemoryConfig
		want string
	}{
		{},
		{cfg: InMemoryConfig{Capacity: 1, Lanes: 1, MaxEventSize: 1, DeadLetterBuffer: 1, DrainTimeout: 1}},
		{InMemoryConfig{Capacity: -1}, "in-memory bus: capacity: -1 is negative"},
		{InMemoryConfig{Lanes: -2}, "in-memory bus: lanes: -2 is negative"},
		{InMemoryConfig{MaxEventSize: -3}, "in-memory bus: max event size: -3 is negative"},
		{InMemoryConfig{DeadLetterBuffer: -4}, "in-memory bus: dead letter buffer: -4 is negative"},
		{InMemoryConfig{DrainTimeout: -5}, "in-memory bus: drain timeout: -5 is negative"},
	} {
		m, err := NewInMemory(tc.cfg)
		got := ""
		if err != nil {
			got = err.Error()
		} else if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got != tc.want {
			t.Errorf("%+v: error %q, want %q", tc.cfg, got, tc.want)
		}
	}
}

func TestInMemorySubscriberSettings(t *testing.T) {
	m := openInMemory(t, InMemoryConfig{})
	for _, tc := range []struct {
		stream, group, start string
		lanes                int
		want                 string
	}{
		{"s", "g", StartOldest, 0, ""},
		{"s", "g", StartNewest, 3, ""},
		{"", "g", StartOldest, 0, "subscriber: stream is empty"},
		{"s", "", StartOldest, 0, "subscriber for s: group is empty"},
		{"s", "g", "", 0, `subscriber for s, group g: start is "", must be oldest or newest`},
		{"s", "g", "first", 0, `subscriber for s, group g: start is "first", must be oldest or newest`},
		{"s", "g", StartOldest, -1, "subscriber for s, group g: -1 lanes"},
	} {
		_, err := m.Subscriber(tc.stream, tc.group, tc.start, tc.lanes)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%+v: error %q", tc, got)
		}
	}
}

// What the event's IDs become for each way to publish.
func TestInMemoryIdentity(t *testing.T) {
	const nested = `{"ts":1,"key":"k","meta":{"schema_id":"events.envelope.EventEnvelope"},"payload":` +
		`{"id":"inner","ts":1,"key":"k","meta":{"schema_id":"x"},"payload":{}}}`
	const assigned = "946684800000-0" // the start of virtual time
	for _, tc := range []struct {
		name, uuid, data string
		meta             message.Metadata
		id, entryID      string
		replays          int
	}{
		{name: "nothing given", id: assigned, entryID: assigned},
		{name: "a recorded entry ID", uuid: "1795556873476-3", id: "1795556873476-3", entryID: "1795556873476-3"},
		{name: "another UUID", uuid: "abc", id: "abc", entryID: assigned},
		{name: "no sequence", uuid: "1795556873476", id: "1795556873476", entryID: assigned},
		{name: "an inner id", uuid: "abc", data: nested, id: "inner", entryID: assigned},
		{
			name: "put back", uuid: "abc", meta: message.Metadata{"original_id": "7-1", "replays": "2"},
			id: "7-1", entryID: assigned, replays: 2,
		},
		{
			name: "put back with an inner id", data: nested, meta: message.Metadata{"original_id": "7-1"},
			id: "inner", entryID: assigned,
		},
		{name: "other metadata", uuid: "abc", meta: message.Metadata{"a": "b"}, id: "abc", entryID: assigned},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := openInMemory(t, InMemoryConfig{})
				messages := subscribe(t, subscriber(t, m, "s", "g", 0))
				data := tc.data
				if data == "" {
					data = string(envelope("k"))
				}
				sent := textMessage(tc.uuid, data)
				sent.Metadata = tc.meta
				publish(t, m, "s", sent)
				msg := <-messages
				msg.Ack()
				e := event.FromContext(msg.Context())
				if e.ID != tc.id || msg.UUID != tc.id || e.EntryID != tc.entryID || e.Replays != tc.replays {
					t.Errorf("ID %s, UUID %s, entry ID %s, %d replays", e.ID, msg.UUID, e.EntryID, e.Replays)
				}
				if e.Err != nil || string(msg.Payload) != data {
					t.Errorf("error %v, payload %s", e.Err, msg.Payload)
				}
				if len(msg.Metadata) != len(tc.meta) || len(tc.meta) > 0 && !gocmp.Equal(msg.Metadata, tc.meta) {
					t.Errorf("metadata %v, want %v", msg.Metadata, tc.meta)
				}
			})
		})
	}
}

// Entry IDs grow even when the clock does not.
func TestInMemoryEntryIDsGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{})
		subscriber(t, m, "s", "g", 0)
		var got []string
		put := func() {
			id, err := m.Put(t.Context(), "s", envelope("k"), nil, false)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, id)
		}
		put()
		put()
		time.Sleep(time.Millisecond)
		put()
		want := []string{"946684800000-0", "946684800000-1", "946684800001-0"}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

// Two groups get one decoded event, and each its own message.
func TestInMemoryDecodesOnce(t *testing.T) {
	m := openInMemory(t, InMemoryConfig{})
	one := subscribe(t, subscriber(t, m, "s", "one", 0))
	two := subscribe(t, subscriber(t, m, "s", "two", 0))
	meta := message.Metadata{"a": "b"}
	sent := message.NewMessage("", envelope("k"))
	sent.Metadata = meta
	publish(t, m, "s", sent)
	meta.Set("a", "changed by the publisher")
	first := <-one
	first.Metadata.Set("a", "changed by a handler")
	second := <-two
	if event.FromContext(first.Context()) != event.FromContext(second.Context()) {
		t.Error("the groups got different events")
	}
	if first == second || second.Metadata["a"] != "b" {
		t.Errorf("the groups share a message or its metadata: %v", second.Metadata)
	}
	first.Ack()
	second.Ack()
}

func TestInMemoryMaxEventSize(t *testing.T) {
	m := openInMemory(t, InMemoryConfig{MaxEventSize: 20})
	messages := subscribe(t, subscriber(t, m, "s", "g", 0))
	publish(t, m, "s", message.NewMessage("", envelope("k")))
	msg := <-messages
	var refusal *event.DecodeError
	if e := event.FromContext(msg.Context()); !errors.As(e.Err, &refusal) || refusal.Kind() != event.KindSize {
		t.Errorf("error %v", e.Err)
	}
	msg.Ack()
}

// A full group refuses an event for all groups, and takes events again when
// some were handled.
func TestInMemoryFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{Capacity: 2})
		m.RetainDeadLetters("s")
		slow := subscribe(t, subscriber(t, m, "s", "slow", 1))
		fast := subscribe(t, subscriber(t, m, "s", "fast", 1))
		publish(t, m, "s", textMessage("a", "{}"), textMessage("b", "{}"))
		for range 2 {
			(<-fast).Ack()
		}
		synctest.Wait()

		err := m.Publish("s", textMessage("c", "{}"), textMessage("d", "{}"))
		if !errors.Is(err, ErrFull) || err.Error() != "publish message 1 of 2 to s: bus is full" {
			t.Errorf("publish to a full group: %v", err)
		}
		if _, err := m.Put(t.Context(), "s", []byte("{}"), nil, false); !errors.Is(err, ErrFull) {
			t.Errorf("put to a full group: %v", err)
		}
		synctest.Wait()
		select {
		case msg := <-fast:
			t.Errorf("a refused event came to the other group: %s", msg.UUID)
		default:
		}
		if kept, _ := m.Newest(t.Context(), "s", 0); len(kept) != 2 {
			t.Errorf("%d entries kept, want 2", len(kept))
		}
		if held, capacity := m.Depth("s", "slow"); held != 2 || capacity != 2 {
			t.Errorf("the slow group holds %d of %d", held, capacity)
		}
		if held, _ := m.Depth("s", "fast"); held != 0 {
			t.Errorf("the fast group holds %d", held)
		}

		(<-slow).Ack()
		synctest.Wait()
		// The second one is full again: the first was taken all the same.
		err = m.Publish("s", textMessage("c", "{}"), textMessage("d", "{}"))
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "message 2 of 2") {
			t.Errorf("publish two with room for one: %v", err)
		}
		for _, want := range []string{"b", "c"} {
			msg := <-slow
			if msg.UUID != want {
				t.Errorf("%s came, want %s", msg.UUID, want)
			}
			msg.Ack()
		}
		(<-fast).Ack()
		if err := m.WaitIdle(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestInMemoryPublishWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{Capacity: 2, DrainTimeout: time.Second})
		sub := subscriber(t, m, "s", "g", 1)
		messages := subscribe(t, sub)
		publish(t, m, "s", textMessage("a", "{}"), textMessage("b", "{}"))

		// It gives up with its context.
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		err := m.PublishWait(ctx, "s", textMessage("c", "{}"))
		if !errors.Is(err, ErrFull) || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}

		// It goes on when there is room.
		published := make(chan error, 2)
		go func() { published <- m.PublishWait(t.Context(), "s", textMessage("c", "{}"), textMessage("d", "{}")) }()
		synctest.Wait()
		if len(published) != 0 {
			t.Fatal("it did not wait")
		}
		for _, want := range []string{"a", "b"} {
			msg := <-messages
			if msg.UUID != want {
				t.Errorf("%s came, want %s", msg.UUID, want)
			}
			msg.Ack()
		}
		if err := <-published; err != nil {
			t.Error(err)
		}

		// It ends when the group does.
		for range 2 {
			go func() {
				_, err := m.Put(t.Context(), "s", []byte("{}"), nil, true)
				published <- err
			}()
		}
		synctest.Wait()
		if err := sub.Close(); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := <-published; !errors.Is(err, ErrClosed) {
				t.Errorf("waiting for a group that was closed: %v", err)
			}
		}
		if n := m.Unhandled(); n != 2 {
			t.Errorf("%d unhandled, want 2", n)
		}
	})
}

// Many publishers that wait get everything through a small group.
func TestInMemoryPublishWaitMany(t *testing.T) {
	for _, capacity := range []int{1, 3, 300} {
		t.Run(fmt.Sprint(capacity), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const publishers, each = 8, 200
				m := openInMemory(t, InMemoryConfig{Capacity: capacity})
				messages := subscribe(t, subscriber(t, m, "s", "g", 4))
				for p := range publishers {
					go func() {
						for i := range each {
							msg := message.NewMessage(fmt.Sprint(p, "/", i), envelope(fmt.Sprint("key-", p)))
							if err := m.PublishWait(t.Context(), "s", msg); err != nil {
								t.Error(err)
							}
						}
					}()
				}
				next := map[string]int{}
				for range publishers * each {
					msg := <-messages
					publisher, _, _ := strings.Cut(msg.UUID, "/")
					if want := fmt.Sprint(publisher, "/", next[publisher]); msg.UUID != want {
						t.Fatalf("%s came, want %s", msg.UUID, want)
					}
					next[publisher]++
					msg.Ack()
				}
				if err := m.WaitIdle(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestInMemoryNoReader(t *testing.T) {
	m := openInMemory(t, InMemoryConfig{})
	if err := m.Publish("out", textMessage("a", "{}")); err != nil {
		t.Errorf("publish: %v", err)
	}
	if err := m.PublishWait(t.Context(), "out", textMessage("a", "{}")); err != nil {
		t.Errorf("publish wait: %v", err)
	}
	_, err := m.Put(t.Context(), "out", []byte("{}"), nil, true)
	if !errors.Is(err, ErrNoReader) || err.Error() != "put to out: stream has no reader" {
		t.Errorf("put: %v", err)
	}

	// The group exists from Subscriber to its last Close.
	first, second := subscriber(t, m, "out", "g", 1), subscriber(t, m, "out", "g", 1)
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := m.Put(t.Context(), "out", []byte("{}"), nil, false); err != nil {
		t.Errorf("put while a subscriber is open: %v", err)
	}
	if held, capacity := m.Depth("out", "g"); held != 1 || capacity != DefaultCapacity {
		t.Errorf("the group holds %d of %d", held, capacity)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if held, capacity := m.Depth("out", "g"); held != 0 || capacity != 0 {
		t.Errorf("the group that was closed holds %d of %d", held, capacity)
	}
	if _, err := m.Put(t.Context(), "out", []byte("{}"), nil, false); !errors.Is(err, ErrNoReader) {
		t.Errorf("put after close: %v", err)
	}
	if n := m.Unhandled(); n != 1 || !m.Idle() {
		t.Errorf("%d unhandled, idle %t", n, m.Idle())
	}
}

func TestInMemoryDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{DeadLetterBuffer: 3})
		if kept, err := m.Newest(t.Context(), "s.dlq", 10); len(kept) != 0 || err != nil {
			t.Errorf("a stream that is not kept: %v, %v", kept, err)
		}
		m.RetainDeadLetters("s.dlq")
		m.RetainDeadLetters("s.dlq") // again does nothing
		letter := func(id string, data []byte) *message.Message {
			msg := message.NewMessage(id, data)
			msg.Metadata = message.Metadata{"original_id": id, "reason": "x"}
			return msg
		}
		publish(t, m, "s.dlq", letter("1-0", []byte("not json")))
		publish(t, m, "s.dlq", letter("1-0", nil)) // the same event again
		want := []Entry{
			{ID: "946684800000-1", Fields: map[string]string{"original_id": "1-0", "reason": "x"}},
			{ID: "946684800000-0", Fields: map[string]string{"original_id": "1-0", "reason": "x", "data": "not json"}},
		}
		got, err := m.Newest(t.Context(), "s.dlq", 10)
		if diff := gocmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("error %v, (-want +got):\n%s", err, diff)
		}
		got[0].Fields["reason"] = "changed" // a copy
		got, _ = m.Newest(t.Context(), "s.dlq", 1)
		if diff := gocmp.Diff(want[:1], got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}

		// A reader gets them too; the oldest make room.
		messages := subscribe(t, subscriber(t, m, "s.dlq", "g", 1))
		for i := range 5 {
			id := fmt.Sprintf("2-%d", i)
			publish(t, m, "s.dlq", letter(id, []byte("{}")))
			msg := <-messages
			if msg.UUID != id || msg.Metadata["reason"] != "x" {
				t.Errorf("%s came with %v, want %s", msg.UUID, msg.Metadata, id)
			}
			msg.Ack()
			if overflow := m.DeadLetterOverflow("s.dlq"); overflow != int64(i) {
				t.Errorf("overflow %d after letter %d", overflow, i)
			}
		}
		if err := m.Close(t.Context()); err != nil {
			t.Error(err)
		}
		var ids []string
		got, _ = m.Newest(t.Context(), "s.dlq", 0)
		for _, entry := range got {
			ids = append(ids, entry.Fields["original_id"])
		}
		if diff := gocmp.Diff([]string{"2-4", "2-3", "2-2"}, ids); diff != "" {
			t.Errorf("kept after close (-want +got):\n%s", diff)
		}
		if overflow := m.DeadLetterOverflow("other"); overflow != 0 {
			t.Errorf("overflow of another stream: %d", overflow)
		}
	})
}

// Events wait for the first Subscribe, in order.
func TestInMemoryQueuesBeforeSubscribe(t *testing.T) {
	m := openInMemory(t, InMemoryConfig{})
	sub := subscriber(t, m, "s", "g", 1)
	for i := range 5 {
		publish(t, m, "s", textMessage(fmt.Sprint(i), "{}"))
	}
	messages := subscribe(t, sub)
	for i := range 5 {
		msg := <-messages
		if msg.UUID != fmt.Sprint(i) {
			t.Errorf("%s came, want %d", msg.UUID, i)
		}
		msg.Ack()
	}
}

func TestInMemoryOneReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{Capacity: 3})
		first, second := subscriber(t, m, "s", "g", 1), subscriber(t, m, "s", "g", 1)
		ctx, cancel := context.WithCancel(t.Context())
		messages, err := first.Subscribe(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, sub := range []message.Subscriber{first, second} {
			if _, err := sub.Subscribe(t.Context(), ""); !errors.Is(err, ErrBusy) {
				t.Errorf("subscribing beside another reader: %v", err)
			}
		}
		publish(t, m, "s", textMessage("a", "{}"), textMessage("b", "{}"))
		held := <-messages

		// While the first drains, the second waits, and events wait for it.
		cancel()
		synctest.Wait()
		publish(t, m, "s", textMessage("c", "{}"))
		if err := m.Publish("s", textMessage("d", "{}")); !errors.Is(err, ErrFull) {
			t.Errorf("publish to the full group while it drains: %v", err)
		}
		given, giveUp := context.WithTimeout(t.Context(), time.Second)
		defer giveUp()
		if _, err := second.Subscribe(given, ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for a reader that drains: %v", err)
		}
		taken := make(chan (<-chan *message.Message))
		go func() {
			messages, err := second.Subscribe(t.Context(), "")
			if err != nil {
				t.Error(err)
			}
			taken <- messages
		}()
		synctest.Wait()
		held.Nack() // b must not overtake it
		if _, open := <-messages; open {
			t.Error("the first reader did not end")
		}
		messages = <-taken

		// The second goes on where the first stopped.
		for _, want := range []string{"a", "b", "c", "d"} {
			msg := <-messages
			if msg.UUID != want {
				t.Errorf("%s came, want %s", msg.UUID, want)
			}
			msg.Ack()
			synctest.Wait()
			if want == "c" {
				publish(t, m, "s", textMessage("d", "{}"))
			}
		}
		if n := m.Unhandled(); n != 0 {
			t.Errorf("%d unhandled", n)
		}

		// Both ended: nobody is going to read.
		if err := second.Close(); err != nil {
			t.Error(err)
		}
		if err := m.Publish("s", textMessage("e", "{}")); !errors.Is(err, ErrClosed) {
			t.Errorf("publish after the last subscription: %v", err)
		}
	})
}

// What is queued and what comes while a subscription drains is the next one's, so
// that a drain is short under load too.
func TestInMemoryHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{})
		first, second := subscriber(t, m, "s", "g", 1), subscriber(t, m, "s", "g", 1)
		messages := subscribe(t, first)
		publish(t, m, "s", textMessage("a", "{}"), textMessage("b", "{}"))
		held := <-messages
		closed := make(chan error)
		go func() { closed <- first.Close() }()
		synctest.Wait()
		publish(t, m, "s", textMessage("c", "{}"))
		held.Ack()
		if msg, open := <-messages; open {
			t.Errorf("%s came to the subscription that drains", msg.UUID)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		messages = subscribe(t, second)
		for _, want := range []string{"b", "c"} {
			if msg := <-messages; msg.UUID != want {
				t.Errorf("%s came, want %s", msg.UUID, want)
			} else {
				msg.Ack()
			}
		}
	})
}

// A group that has left its stream handles what it has, and refuses nobody.
func TestInMemoryLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{})
		sub := subscriber(t, m, "s", "g", 1)
		messages := subscribe(t, sub)
		publish(t, m, "s", textMessage("a", "{}"), textMessage("b", "{}"))
		held := <-messages
		sub.(*memSubscriber).Leave()
		closed := make(chan error)
		go func() { closed <- sub.Close() }()
		synctest.Wait()
		publish(t, m, "s", textMessage("c", "{}"))
		held.Ack()
		if msg := <-messages; msg.UUID != "b" {
			t.Errorf("%s came, want b", msg.UUID)
		} else {
			msg.Ack()
		}
		if msg, open := <-messages; open {
			t.Errorf("%s came after the group had left", msg.UUID)
		}
		if err := <-closed; err != nil || !m.Idle() || m.Unhandled() != 0 {
			t.Errorf("%v, idle %v, %d unhandled", err, m.Idle(), m.Unhandled())
		}
	})
}

// Metadata cannot stand in for the payload.
func TestInMemoryMetadataNamedData(t *testing.T) {
	m := openInMemory(t, InMemoryConfig{})
	m.RetainDeadLetters("s")
	messages := subscribe(t, subscriber(t, m, "s", "g", 1))
	sent := message.NewMessage("", nil)
	sent.Metadata = message.Metadata{"data": "{}", "a": "b"}
	publish(t, m, "s", sent)
	msg := <-messages
	want := map[string]string{"a": "b"}
	e := event.FromContext(msg.Context())
	if diff := gocmp.Diff(want, e.Fields); diff != "" || e.Data != nil {
		t.Errorf("data %q, fields (-want +got):\n%s", e.Data, diff)
	}
	msg.Ack()
	kept, err := m.Newest(t.Context(), "s", 1)
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %v, %v", kept, err)
	}
	if diff := gocmp.Diff(want, kept[0].Fields); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
}

// The end of one subscription leaves the group refusing until there is another.
func TestInMemoryDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{DrainTimeout: time.Second})
		sub := subscriber(t, m, "s", "g", 1)
		ctx, cancel := context.WithCancel(t.Context())
		messages, err := sub.Subscribe(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		publish(t, m, "s", textMessage("a", "{}"), textMessage("b", "{}"))
		cancel()
		time.Sleep(time.Minute) // nobody reads
		if _, open := <-messages; open {
			t.Error("a message came after the drain")
		}
		if n, of := m.Unhandled(), sub.(*memSubscriber).Unhandled(); n != 2 || of != 2 {
			t.Errorf("%d unhandled, %d of the group, want 2", n, of)
		}
		if err := m.Publish("s", textMessage("c", "{}")); !errors.Is(err, ErrClosed) {
			t.Errorf("publish after the drain: %v", err)
		}
		messages = subscribe(t, sub)
		if n, of := m.Unhandled(), sub.(*memSubscriber).Unhandled(); n != 0 || of != 0 {
			t.Errorf("%d unhandled, %d of the group, while a reader has them", n, of)
		}
		publish(t, m, "s", textMessage("c", "{}"))
		for range 3 {
			(<-messages).Ack()
		}
		if err := m.WaitIdle(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestInMemoryClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged strings.Builder
		m := openInMemory(t, InMemoryConfig{
			DrainTimeout: time.Minute,
			Logger:       slog.New(slog.NewTextHandler(&logged, nil)),
		})
		m.RetainDeadLetters("s.dlq")
		messages := subscribe(t, subscriber(t, m, "s", "g", 1))
		subscriber(t, m, "unread", "g", 1)
		publish(t, m, "s", textMessage("a", "{}"), textMessage("b", "{}"), textMessage("c", "{}"))
		publish(t, m, "unread", textMessage("d", "{}"))

		closed := make(chan error, 3)
		for range 2 {
			go func() { closed <- m.Close(t.Context()) }()
		}
		synctest.Wait()
		if err := m.Up(); !errors.Is(err, ErrClosed) {
			t.Errorf("up while closing: %v", err)
		}

		// What is queued is still run, and may publish what nothing in the
		// process has to handle.
		first := <-messages
		for stream, want := range map[string]error{"out": nil, "s.dlq": nil, "s": ErrClosed, "unread": ErrClosed} {
			if err := m.Publish(stream, textMessage("x", "{}")); !errors.Is(err, want) {
				t.Errorf("publish to %s while closing: %v, want %v", stream, err, want)
			}
		}
		if _, err := m.Subscriber("s", "g", StartOldest, 0); !errors.Is(err, ErrClosed) {
			t.Errorf("subscriber while closing: %v", err)
		}
		first.Ack()
		second := <-messages
		if err := second.Context().Err(); err != nil || len(closed) != 0 {
			t.Errorf("in flight: context %v, %d calls of close returned", err, len(closed))
		}

		// The drain timeout ends it.
		start := time.Now()
		<-second.Context().Done()
		if took := time.Since(start); took != time.Minute {
			t.Errorf("the context ended after %v", took)
		}
		for range 2 {
			if err := <-closed; err != nil {
				t.Error(err)
			}
		}
		if _, open := <-messages; open {
			t.Error("the subscription did not end")
		}
		if n := m.Unhandled(); n != 3 || !m.Idle() {
			t.Errorf("%d unhandled, want b, c and d; idle %t", n, m.Idle())
		}
		for _, stream := range []string{"out", "s.dlq", "s"} {
			if err := m.Publish(stream, textMessage("x", "{}")); !errors.Is(err, ErrClosed) {
				t.Errorf("publish to %s on the closed bus: %v", stream, err)
			}
		}
		if err := m.Close(t.Context()); err != nil {
			t.Errorf("close again: %v", err)
		}
		want := `level=WARN msg="subscription ended with events unhandled" stream=s group=g unhandled=2`
		if got := logged.String(); !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("logged %q", got)
		}
	})
}

// Close's context cuts the drain short.
func TestInMemoryCloseCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{})
		messages := subscribe(t, subscriber(t, m, "s", "g", 1))
		publish(t, m, "s", textMessage("a", "{}"))
		held := <-messages
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := m.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("closed after %v: %v", time.Since(start), err)
		}
		if held.Context().Err() == nil || m.Unhandled() != 1 {
			t.Errorf("context %v, %d unhandled", held.Context().Err(), m.Unhandled())
		}
		held.Ack() // too late, and harmless
	})
}

func TestInMemoryIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openInMemory(t, InMemoryConfig{})
		if err := m.WaitIdle(t.Context()); err != nil || !m.Idle() {
			t.Errorf("a new bus: idle %t, %v", m.Idle(), err)
		}
		one := subscribe(t, subscriber(t, m, "one", "g", 1))
		two := subscribe(t, subscriber(t, m, "two", "g", 1))
		publish(t, m, "one", textMessage("a", "{}"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := m.WaitIdle(ctx); !errors.Is(err, context.DeadlineExceeded) || m.Idle() {
			t.Errorf("with an event queued: idle %t, %v", m.Idle(), err)
		}
		idle := make(chan error, 2)
		for range 2 {
			go func() { idle <- m.WaitIdle(t.Context()) }()
		}
		msg := <-one
		// A handler that passes the event on leaves no idle moment between.
		publish(t, m, "two", textMessage("b", "{}"))
		msg.Ack()
		msg = <-two
		synctest.Wait()
		if len(idle) != 0 {
			t.Error("idle with an event in flight")
		}
		msg.Ack()
		for range 2 {
			if err := <-idle; err != nil {
				t.Error(err)
			}
		}
	})
}

// Publishers, readers and closers at once: nothing is lost or handled twice.
func TestInMemoryConcurrentClose(t *testing.T) {
	for round := range 20 {
		const publishers, each = 4, 50
		m := openInMemory(t, InMemoryConfig{Capacity: 64})
		sub := subscriber(t, m, "s", "g", 4)
		messages := subscribe(t, sub)
		var accepted, handled sync.Map
		count := func(set *sync.Map) (n int) {
			set.Range(func(any, any) bool { n++; return true })
			return n
		}
		var wg sync.WaitGroup
		for p := range publishers {
			wg.Go(func() {
				for i := range each {
					id, err := m.Put(t.Context(), "s", envelope(fmt.Sprint(p, "/", i%7)), nil, true)
					switch {
					case err == nil:
						accepted.Store(id, true)
					case !errors.Is(err, ErrClosed) && !errors.Is(err, ErrNoReader):
						t.Error(err)
					}
				}
			})
		}
		started := make(chan struct{})
		wg.Go(func() {
			for n := 0; ; n++ {
				msg, open := <-messages
				if !open {
					return
				}
				if _, twice := handled.LoadOrStore(msg.UUID, true); twice {
					t.Errorf("%s was handled twice", msg.UUID)
				}
				msg.Ack()
				if n == round*5 {
					close(started)
				}
			}
		})
		<-started
		for range 2 {
			wg.Go(func() {
				if err := m.Close(t.Context()); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				if err := sub.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if a, h := count(&accepted), count(&handled); m.Unhandled() != 0 || !m.Idle() || a != h {
			t.Errorf("round %d: %d accepted, %d handled, %d unhandled, idle %t", round, a, h, m.Unhandled(), m.Idle())
		}
	}
}
