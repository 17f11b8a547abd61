package bus

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

func TestRedisPublisherWritesFields(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r := newRig(t, srv.URL())
	for name, test := range map[string]struct {
		payload message.Payload
		meta    message.Metadata
		want    string // the XADD's arguments after the ID
		fault   string
	}{
		"payload only":  {payload: message.Payload(`{"a":1}`), want: `[data {"a":1}]`},
		"empty payload": {payload: message.Payload{}, want: "[data ]"},
		"fields sorted": {
			payload: message.Payload("x"), meta: message.Metadata{"reason": "r", "attempts": "3", "zeta": ""},
			want: "[attempts 3 reason r zeta  data x]",
		},
		"no payload": {meta: message.Metadata{"fields": "{}"}, want: "[fields {}]"},
		"nothing":    {fault: "neither payload nor metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			stream := "out:" + name
			msg := message.NewMessage("uuid", test.payload)
			for k, v := range test.meta {
				msg.Metadata.Set(k, v)
			}
			err := r.Publisher().Publish(stream, msg)
			if test.fault != "" {
				if err == nil || !strings.Contains(err.Error(), test.fault) {
					t.Fatalf("published: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			reply := client.Do(t.Context(), "XRANGE", stream, "-", "+").Val().([]any)[0].([]any)[1]
			if got := fmt.Sprint(reply); got != test.want {
				t.Errorf("fields %s, want %s", got, test.want)
			}
		})
	}
}

func TestRedisPublisherBoundsStreams(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r := newRig(t, srv.URL(), func(c *RedisConfig) { c.MaxLen, c.DeadLetterMaxLen = 1000, 300 })
	r.RetainDeadLetters("dead")
	var publishers sync.WaitGroup
	for range 20 {
		publishers.Go(func() {
			for range 150 {
				for _, stream := range []string{"out", "dead"} {
					if err := r.Publisher().Publish(stream, message.NewMessage("", message.Payload("x"))); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	publishers.Wait()
	// Redis trims whole nodes of 100 entries.
	for stream, most := range map[string]int64{"out": 1100, "dead": 400} {
		if n := client.XLen(t.Context(), stream).Val(); n > most || n < most-200 {
			t.Errorf("stream %s has %d entries", stream, n)
		}
	}
}

func TestRedisPublisherAndCancelledContexts(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r := newRig(t, srv.URL())
	r.RetainDeadLetters("dead")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for stream, want := range map[string]int64{"out": 0, "dead": 1} {
		err := r.Publisher().Publish(stream, message.NewMessageWithContext(ctx, "", message.Payload("x")))
		if (err == nil) != (want == 1) {
			t.Errorf("stream %s: %v", stream, err)
		}
		if n := client.XLen(t.Context(), stream).Val(); n != want {
			t.Errorf("stream %s has %d entries, want %d", stream, n, want)
		}
	}
}

func TestRedisPublisherWarnsOfLoss(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ctx := t.Context()
	r := newRig(t, srv.URL(), func(c *RedisConfig) { c.MaxLen = 100 })
	put := func(n int) {
		t.Helper()
		for range n {
			if _, err := r.Put(ctx, "out", []byte("x"), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(150)
	const warning = "loses entries that a group has not acknowledged"
	if r.log.lines(warning) != 0 {
		t.Error("warned without a group")
	}
	look := func() { // as if lookEvery had passed
		w := r.publish.writer
		w.mu.Lock()
		defer w.mu.Unlock()
		clear(w.looked)
	}
	// A group that has acknowledged everything loses nothing.
	if err := client.XGroupCreate(ctx, "out", "fast", "$").Err(); err != nil {
		t.Fatal(err)
	}
	look()
	put(1)
	if r.log.lines(warning) != 0 {
		t.Error("warned of a group that has read everything")
	}
	if err := client.XGroupCreate(ctx, "out", "slow", "0").Err(); err != nil {
		t.Fatal(err)
	}
	look()
	put(200)
	if got := r.log.lines(warning); got != 1 {
		t.Errorf("%d warnings, want 1", got)
	}
	if r.log.lines(`"group":"slow"`) != 1 {
		t.Error("the warning does not name the group")
	}
}

func TestRedisPublisherDoesNotRepeatItself(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r := newRig(t, srv.URL())
	if err := r.Publisher().Publish("out", message.NewMessage("", message.Payload("x"))); err != nil {
		t.Fatal(err)
	}
	// The server has the command, and its answer does not come in time.
	srv.Pause()
	err := r.Publisher().Publish("out", message.NewMessage("", message.Payload("x")))
	srv.Resume()
	if err == nil || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("published while the server hung: %v", err)
	}
	time.Sleep(100 * time.Millisecond)
	if n := client.XLen(t.Context(), "out").Val(); n > 2 {
		t.Errorf("%d entries, want at most 2", n)
	}
}

func TestRedisTrimsWhatAllHaveAcknowledged(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ctx := t.Context()
	fill(t, client, 1000, 10)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "all are acknowledged", func() bool { return seen.distinct() == 1000 && pending(t, client) == 0 })
	if err := client.XGroupCreate(ctx, testStream, "other", "0").Err(); err != nil {
		t.Fatal(err)
	}
	var sub *subscription
	for s := range r.subs {
		sub = s
	}
	k, now := newKeeper(sub), time.Now()
	trim := func() int64 {
		t.Helper()
		now = now.Add(trimEvery)
		if err := k.trim(ctx, now); err != nil {
			t.Fatal(err)
		}
		return client.XLen(ctx, testStream).Val()
	}
	if got := trim(); got != 1000 {
		t.Errorf("%d entries left while a group has read none, want 1000", got)
	}
	read := client.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: "other", Consumer: "c", Streams: []string{testStream, ">"}, Count: 500, Block: -1,
	}).Val()[0].Messages
	for _, m := range read[:250] {
		client.XAck(ctx, testStream, "other", m.ID)
	}
	// Trimming is rough: whole nodes of 100 entries, never one that is needed.
	if got := trim(); got < 750 || got > 900 {
		t.Errorf("%d entries left, want 750 or a few more", got)
	}
	first, _ := parseStreamID(client.XRangeN(ctx, testStream, "-", "+", 1).Val()[0].ID)
	if needed, _ := parseStreamID(read[250].ID); needed.less(first) {
		t.Errorf("the stream begins at %s, entry %s was needed", first, needed)
	}
	// A group that has just gone may be about to be made again; one that stays away does not count.
	for _, m := range read[250:] {
		client.XAck(ctx, testStream, "other", m.ID)
	}
	client.XGroupDestroy(ctx, testStream, "other")
	if got := trim(); got < 750 {
		t.Errorf("%d entries left right after a group has gone, want 750 or a few more", got)
	}
	now = now.Add(groupGone)
	if got := trim(); got > 100 {
		t.Errorf("%d entries left after a group has gone for good, want none or a few", got)
	}
	client.XGroupDestroy(ctx, testStream, testGroup)
	if err := newKeeper(sub).trim(ctx, now); err != nil {
		t.Errorf("trimming without a group: %v", err)
	}
	client.Del(ctx, testStream)
	if err := k.trim(ctx, now); !isNoGroup(err) {
		t.Errorf("trimming no stream: %v", err)
	}
}

func TestRedisPutNewestAndGroupInfo(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ctx := t.Context()
	r := newRig(t, srv.URL())
	if entries, err := r.Newest(ctx, testStream, 10); err != nil || len(entries) != 0 {
		t.Errorf("no stream: %v, %v", entries, err)
	}
	if _, err := r.GroupInfo(ctx, testStream, testGroup); !strings.Contains(fmt.Sprint(err), ErrNoGroup.Error()) {
		t.Errorf("no stream: %v", err)
	}
	var want []Entry
	for i := range 5 {
		id, err := r.Put(ctx, testStream, fmt.Append(nil, i), map[string]string{"replays": fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		want = append([]Entry{{ID: id, Fields: map[string]string{"data": fmt.Sprint(i), "replays": fmt.Sprint(i)}}}, want...)
	}
	got, err := r.Newest(ctx, testStream, 3)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want[:3], got); diff != "" {
		t.Errorf("newest (-want +got):\n%s", diff)
	}
	if _, err := r.GroupInfo(ctx, testStream, testGroup); !strings.Contains(fmt.Sprint(err), ErrNoGroup.Error()) {
		t.Errorf("no group: %v", err)
	}
	takeAs(t, client, "c", 2)
	info, err := r.GroupInfo(ctx, testStream, testGroup)
	if err != nil {
		t.Fatal(err)
	}
	if info.OldestPending <= 0 || info.OldestPending > time.Hour {
		t.Errorf("oldest pending %v", info.OldestPending)
	}
	info.OldestPending = 0
	behind := int64(3)
	if client.XInfoStream(ctx, testStream).Val().EntriesAdded == 0 {
		behind = -1 // Redis 6.2 does not count
	}
	if diff := cmp.Diff(GroupInfo{Lag: behind, Pending: 2, Consumers: 1}, info); diff != "" {
		t.Errorf("info (-want +got):\n%s", diff)
	}
}

func TestLagOfRedis62(t *testing.T) {
	t.Parallel()
	stream := &redis.XInfoStream{LastGeneratedID: "5-0"}
	if got := lag(redis.XInfoGroup{LastDeliveredID: "4-0"}, stream); got != -1 {
		t.Errorf("lag %d with entries left, want -1", got)
	}
	if got := lag(redis.XInfoGroup{LastDeliveredID: "5-0"}, stream); got != 0 {
		t.Errorf("lag %d with nothing left, want 0", got)
	}
}

func TestStreamID(t *testing.T) {
	t.Parallel()
	const most = "18446744073709551615"
	for id, want := range map[string][2]string{ // before and after
		"5-3":              {"5-2", "5-4"},
		"5-0":              {"4-" + most, "5-1"},
		"0-0":              {"0-0", "0-1"},
		"5-" + most:        {"5-18446744073709551614", "6-0"},
		most + "-" + most:  {most + "-18446744073709551614", most + "-" + most},
		"1764000000000-12": {"1764000000000-11", "1764000000000-13"},
	} {
		got, ok := parseStreamID(id)
		if !ok || got.String() != id {
			t.Errorf("%s is read as %s, %v", id, got, ok)
		}
		if got.before().String() != want[0] || got.after().String() != want[1] {
			t.Errorf("%s is between %s and %s, want %v", id, got.before(), got.after(), want)
		}
	}
	for _, id := range []string{"", "5", "$", ">", "5-", "-5", "5-x", "-1-0", "5-1-1", most + "0-0"} {
		if got, ok := parseStreamID(id); ok {
			t.Errorf("%q is read as %s", id, got)
		}
	}
}
