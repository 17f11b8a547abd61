package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// troubled runs a consumer while entries are added all the time and trouble is made twice. Nothing may be lost, and
// nothing may run twice at the same time.
func troubled(t *testing.T, srv *redistest.Server, url string, trouble func(*rig)) (*rig, *tally) {
	t.Helper()
	client := srv.Client(t)
	r, seen := newRig(t, url), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		time.Sleep(100 * time.Microsecond)
		return true
	}))
	ids := fill(t, client, 2000, 20)
	until(t, "some are handled", func() bool { return seen.distinct() > 500 })
	trouble(r)
	ids = append(ids, fill(t, client, 1000, 20)...)
	until(t, "more are handled", func() bool { return seen.distinct() > 2500 })
	trouble(r)
	ids = append(ids, fill(t, client, 1000, 20)...)
	until(t, "all are handled", func() bool { return seen.distinct() == len(ids) })
	until(t, "all are acknowledged", func() bool { return pending(t, client) == 0 && r.Up() == nil })
	if len(seen.twice) > 0 {
		t.Errorf("%d entries ran twice at the same time", len(seen.twice))
	}
	return r, seen
}

func TestRedisGroupDestroyed(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r, _ := troubled(t, srv, srv.URL(), func(*rig) {
		if err := client.XGroupDestroy(context.Background(), testStream, testGroup).Err(); err != nil {
			t.Fatal(err)
		}
	})
	if got := r.log.lines("consumer group was gone"); got != 2 {
		t.Errorf("%d log lines about the group, want 2", got)
	}
}

// A group that was destroyed begins anew after what is known to be acknowledged, not at the oldest entry.
func TestRedisGroupDestroyedRepeatsLittle(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r, seen := newRig(t, srv.URL()), newTally()
	release := make(chan struct{})
	r.subscribe(t, StartOldest, 8, seen.handle(func(e *event.Event) bool {
		if e.Key == "c7" {
			<-release // the first of this key holds its lane
		}
		return true
	}))
	ids := fill(t, client, 100, 100) // one of each key
	until(t, "all but one lane are handled", func() bool { return seen.distinct() > 70 })
	held, _ := parseStreamID(ids[7])
	until(t, "the keeper has seen it", func() bool { return r.groupDone() == held.before() })
	if err := client.XGroupDestroy(t.Context(), testStream, testGroup).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "the group is back", func() bool { return pending(t, client) > 0 })
	close(release)
	ids = append(ids, fill(t, client, 10, 1)...)
	until(t, "all are handled", func() bool { return seen.distinct() == len(ids) && pending(t, client) == 0 })
	for i, id := range ids[:8] {
		if n := len(seen.of(id)); n != 1 {
			t.Errorf("entry %d ran %d times, want 1", i, n)
		}
	}
	if len(seen.twice) > 0 {
		t.Errorf("%d entries ran twice at the same time", len(seen.twice))
	}
}

// A group that is to begin with the newest entry does so once: when it is made again, by whatever process, what nobody
// is known to have acknowledged is not skipped, nor is what came before it repeated.
func TestRedisGroupDestroyedBeforeAnotherConsumer(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		first func(t *testing.T, client *redis.Client, srv *redistest.Server, seen *tally) (back func()) // has consumed
	}{
		{"the first is away for a moment", func(t *testing.T, client *redis.Client, srv *redistest.Server, seen *tally) func() {
			proxy := srv.Proxy(t)
			r := newRig(t, proxy.URL())
			r.subscribe(t, StartNewest, 8, seen.handle(nil))
			until(t, "it attaches", func() bool { return r.Up() == nil })
			consumed(t, client, r, seen)
			proxy.Refuse("LOADING Redis is loading the dataset in memory")
			until(t, "it is noticed", func() bool { return r.Up() != nil })
			return proxy.Pass
		}},
		{"the first has ended", func(t *testing.T, client *redis.Client, srv *redistest.Server, seen *tally) func() {
			r := newRig(t, srv.URL())
			end := r.subscribe(t, StartNewest, 8, seen.handle(nil))
			until(t, "it attaches", func() bool { return r.Up() == nil })
			consumed(t, client, r, seen)
			end()
			return func() {}
		}},
		{"the first has only made it", func(t *testing.T, _ *redis.Client, srv *redistest.Server, seen *tally) func() {
			r := newRig(t, srv.URL())
			end := r.subscribe(t, StartNewest, 8, seen.handle(nil))
			until(t, "it attaches", func() bool { return r.Up() == nil })
			end()
			return func() {}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			client := srv.Client(t)
			old := fill(t, client, 100, 10)
			seen := newTally()
			back := tt.first(t, client, srv, seen)
			before := seen.distinct()
			if err := client.XGroupDestroy(t.Context(), testStream, testGroup).Err(); err != nil {
				t.Fatal(err)
			}
			ids := fill(t, client, 100, 10)
			other := newRig(t, srv.URL(), func(c *RedisConfig) { c.Consumer = "other" })
			other.subscribe(t, StartNewest, 8, seen.handle(nil))
			until(t, "it attaches", func() bool { return other.Up() == nil })
			back()
			ids = append(ids, fill(t, client, 10, 10)...)
			until(t, "the last is handled", func() bool { return len(seen.of(ids[len(ids)-1])) > 0 && pending(t, client) == 0 })
			until(t, "all are handled", func() bool { return seen.distinct() == before+len(ids) })
			for _, id := range old {
				if len(seen.of(id)) > 0 {
					t.Fatalf("entry %s came before the group and was handled", id)
				}
			}
		})
	}
}

func TestLastSeen(t *testing.T) {
	l := lastSeen{done: streamID{1, 2}, delivered: "3-4", generated: streamID{5, 6}, added: 7}
	if got, ok := parseLastSeen(l.String()); !ok || got != l {
		t.Errorf("%q is read as %+v, %t", l, got, ok)
	}
	for _, text := range []string{"", "1-2 3-4 5-6", "1-2 3-4 5-6 7 8", "1-2 3-4 5-6 x", "1 3-4 5-6 7", "1-2 $ 5-6 7", "1-2 3-4 - 7"} {
		if got, ok := parseLastSeen(text); ok {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
}

// consumed fills the stream, and waits until the rig's consumer has acknowledged all, and knows that.
func consumed(t *testing.T, client *redis.Client, r *rig, seen *tally) {
	t.Helper()
	ids := fill(t, client, 100, 10)
	until(t, "all are handled", func() bool { return seen.distinct() == len(ids) && pending(t, client) == 0 })
	last, _ := parseStreamID(ids[len(ids)-1])
	until(t, "the keeper has seen it", func() bool { return r.groupDone() == last })
}

// groupDone returns the ID up to which the rig's only subscription knows every entry to be acknowledged.
func (r *rig) groupDone() streamID {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.subs {
		s.group.mu.Lock()
		defer s.group.mu.Unlock()
		return s.group.last.done
	}
	return streamID{}
}

func TestRedisConnectionsCut(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	proxy := srv.Proxy(t)
	troubled(t, srv, proxy.URL(), func(*rig) { proxy.Cut() })
}

func TestRedisServerRefusesForAWhile(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"LOADING Redis is loading the dataset in memory",
		"READONLY You can't write against a read only replica.",
		"MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
		"OOM command not allowed when used memory > 'maxmemory'.",
		"CLUSTERDOWN Hash slot not served",
	} {
		kind, _, _ := strings.Cut(text, " ")
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			proxy := srv.Proxy(t)
			r, _ := troubled(t, srv, proxy.URL(), func(r *rig) {
				until(t, "it is well", func() bool { return r.Up() == nil }) // after the first outage, in all its parts
				proxy.Refuse(text)
				until(t, "it is noticed", func() bool { return r.Up() != nil })
				if !strings.Contains(r.Up().Error(), kind) {
					t.Errorf("up: %v", r.Up())
				}
				proxy.Pass()
			})
			if got := r.log.lines("redis stream not available"); got != 2 {
				t.Errorf("%d log lines about two outages", got)
			}
		})
	}
}

func TestRedisServerRestarts(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.WithAOF())
	troubled(t, srv, srv.URL(), func(*rig) {
		srv.Kill()
		time.Sleep(300 * time.Millisecond)
		srv.Restart()
	})
}

// When the server comes back, the leases of all consumers have expired. One that is back sooner leaves the others the
// time to return.
func TestRedisConsumersReturnAfterAnOutage(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.WithAOF())
	proxy := srv.Proxy(t)
	client := srv.Client(t)
	fill(t, client, 32, 32)
	few := func(name string, lease time.Duration) func(*RedisConfig) {
		return func(c *RedisConfig) { c.Consumer, c.MaxInFlight, c.Lease = name, 16, lease }
	}
	seen, release := newTally(), make(chan struct{})
	hold := seen.handle(func(*event.Event) bool {
		<-release
		return true
	})
	newRig(t, srv.URL(), few("a", 3*time.Second)).subscribe(t, StartOldest, 16, hold)
	newRig(t, proxy.URL(), few("b", 600*time.Millisecond)).subscribe(t, StartOldest, 16, hold)
	until(t, "both have entries", func() bool { return pending(t, client) == 32 })
	srv.Kill()
	time.Sleep(3100 * time.Millisecond)
	proxy.Refuse("LOADING not yet")
	srv.Restart()
	time.Sleep(2200 * time.Millisecond) // a is back, and sees b without a lease for two beats or more
	proxy.Pass()
	time.Sleep(2 * time.Second)
	close(release)
	until(t, "all are acknowledged", func() bool { return seen.distinct() == 32 && pending(t, client) == 0 })
	if len(seen.twice) > 0 {
		t.Errorf("%d entries ran twice at the same time", len(seen.twice))
	}
}

// What is published while the server is killed and started again is read, each message at least once.
func TestRedisPublishesOverRestarts(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.WithAOF())
	client := srv.Client(t)
	r, seen := newRig(t, srv.URL()), newTally()
	var mu sync.Mutex
	read := map[string]bool{}
	r.subscribe(t, StartOldest, 8, seen.handle(func(e *event.Event) bool {
		mu.Lock()
		defer mu.Unlock()
		read[e.ID] = true
		return true
	}))
	const publishers, each = 20, 100
	var done atomic.Int32
	var work sync.WaitGroup
	for p := range publishers {
		work.Go(func() {
			for n := range each {
				id := fmt.Sprintf("%d/%d", p, n)
				msg := message.NewMessage("", feedbackEntry(t, fmt.Sprint(p), n))
				msg.Metadata.Set("original_id", id)
				for r.Publisher().Publish(testStream, msg) != nil {
					time.Sleep(20 * time.Millisecond)
				}
				done.Add(1)
			}
		})
	}
	for _, goal := range []int32{publishers * each / 3, publishers * each / 2} {
		until(t, "some are published", func() bool { return done.Load() >= goal })
		srv.Kill()
		srv.Restart()
	}
	work.Wait()
	until(t, "all are read", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(read) == publishers*each
	})
	until(t, "all are acknowledged", func() bool { return pending(t, client) == 0 })
	if len(seen.twice) > 0 {
		t.Errorf("%d entries ran twice at the same time", len(seen.twice))
	}
}

func TestRedisServerHangs(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "it attaches", func() bool { return r.Up() == nil })
	srv.Pause() // on an idle stream
	paused := time.Now()
	until(t, "it is noticed", func() bool { return r.Up() != nil })
	t.Logf("noticed after %v: %v", time.Since(paused).Round(time.Millisecond), r.Up())
	if !strings.Contains(r.Up().Error(), "no answer in time") {
		t.Errorf("up: %v", r.Up())
	}
	srv.Resume()
	resumed := time.Now()
	client := srv.Client(t)
	ids := fill(t, client, 100, 5)
	until(t, "all are handled", func() bool { return seen.distinct() == len(ids) && r.Up() == nil })
	t.Logf("resumed after %v", time.Since(resumed).Round(time.Millisecond))
	until(t, "all are acknowledged", func() bool { return pending(t, client) == 0 })
}

// After a flush the stream is another one, even if its entries have the IDs of old ones.
func TestRedisFlushed(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartNewest, 8, seen.handle(nil))
	until(t, "it attaches", func() bool { return r.Up() == nil })
	addition := func(ms int) *redis.XAddArgs {
		return &redis.XAddArgs{
			Stream: testStream, ID: fmt.Sprintf("%d-1", ms), Values: []any{fieldData, feedbackEntry(t, "k", ms)},
		}
	}
	for ms := 1; ms <= 10; ms++ {
		if err := client.XAdd(t.Context(), addition(ms)).Err(); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all are handled", func() bool { return seen.distinct() == 10 && pending(t, client) == 0 })
	until(t, "the keeper has seen it", func() bool { return r.groupDone() == streamID{10, 1} })
	_, err := client.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
		p.FlushAll(t.Context())
		for ms := 1; ms <= 10; ms++ {
			p.XAdd(t.Context(), addition(ms))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "all are handled again", func() bool { return len(seen.of("10-1")) == 2 && pending(t, client) == 0 })
	for ms := 1; ms <= 10; ms++ {
		if n := len(seen.of(fmt.Sprintf("%d-1", ms))); n != 2 {
			t.Errorf("entry %d ran %d times, want 2", ms, n)
		}
	}
	if got := r.log.lines("consumer group was gone"); got != 1 {
		t.Errorf("%d log lines about the group, want 1", got)
	}
}

func TestRedisStreamDeleted(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	fill(t, client, 100, 5)
	until(t, "all are handled", func() bool { return seen.distinct() == 100 && pending(t, client) == 0 })
	if err := client.Del(t.Context(), testStream).Err(); err != nil {
		t.Fatal(err)
	}
	fill(t, client, 100, 5)
	until(t, "all are handled", func() bool { return seen.distinct() == 200 && pending(t, client) == 0 })
}

func TestRedisStartsWithoutServer(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	srv.Stop()
	r, seen := newRig(t, srv.URL()), newTally()
	if err := r.Up(); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("up: %v", err)
	}
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "it has tried", func() bool {
		err := r.Up()
		return err != nil && !errors.Is(err, errNotAttached)
	})
	if err := r.Up(); !strings.Contains(err.Error(), "connection refused (127.0.0.1:") {
		t.Errorf("up: %v", err)
	}
	time.Sleep(300 * time.Millisecond) // several attempts
	srv.Restart()
	client := srv.Client(t)
	fill(t, client, 10, 2)
	until(t, "all are handled", func() bool { return seen.distinct() == 10 && pending(t, client) == 0 })
	if got := r.log.lines("redis stream not available"); got != 1 {
		t.Errorf("%d log lines about the outage, want 1", got)
	}
	if got := r.log.lines("redis stream attached"); got != 1 {
		t.Errorf("%d log lines about attaching, want 1", got)
	}
}

func TestRedisStreamKeyOfAnotherType(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	if err := client.Set(t.Context(), testStream, "text", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "it is reported", func() bool {
		err := r.Up()
		return err != nil && strings.Contains(err.Error(), "holds something that is not a stream")
	})
	client.Del(t.Context(), testStream)
	fill(t, client, 1, 1)
	until(t, "it works", func() bool { return seen.distinct() == 1 && r.Up() == nil })
}

// What the README asks an ACL user to have.
var aclRule = "on >secret resetkeys ~mdp:* ~{mdp:* resetchannels -@all +hello +auth +ping +select " +
	"+xreadgroup +xack +xclaim +xpending +xrange +xinfo +xgroup +xadd " +
	"+set +get +mget +del +exists +pexpire +pttl +sadd +srem +smismember +eval +evalsha +time"

// testOutput is a stream that what handles the test stream publishes to.
const testOutput = "mdp:mdp.telemetry.rate_adjustment"

func TestRedisNamesMissingPermissions(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		take string // from aclRule, by an ACL rule
		want string // in what Up says; empty = it works
	}{
		"enough":            {"", ""},
		"no read":           {"-xreadgroup", "may not run XREADGROUP: grant +xreadgroup"},
		"no ack":            {"-xack", "may not run XACK: grant +xack"},
		"no claim":          {"-xclaim", "may not run XCLAIM: grant +xclaim"},
		"no scripts":        {"-evalsha -eval", "may not run EVAL: grant +eval"},
		"no group":          {"-xgroup", "may not run XGROUP CREATE: grant +xgroup|create"},
		"no dead letters":   {"-xadd", "may not run XADD: grant +xadd"},
		"not what follows":  {"resetkeys ~mdp:mdp.telemetry.feedback* ~{mdp:*", `may not access the key "` + testOutput + `"`},
		"two":               {"-xack -xclaim", "grant +xclaim"},
		"not the stream":    {"resetkeys ~{mdp:*", `may not access the key "` + testStream + `"`},
		"not the lease":     {"resetkeys ~mdp:*", `may not access the key "{` + testStream + "}:pulseflow:"},
		"not the password":  {"resetpass >other", "refuses the user or password"},
		"not this password": {"off", "refuses the user or password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t, redistest.WithUser("alice "+aclRule+" "+test.take))
			client := srv.Client(t)
			fill(t, client, 1, 1)
			r, seen := newRig(t, srv.UserURL("alice", "secret")), newTally()
			r.RetainDeadLetters(testStream + ".dlq")
			r.ExpectPublish(testOutput)
			r.subscribe(t, StartOldest, 8, seen.handle(nil))
			if test.want == "" {
				until(t, "it works", func() bool { return seen.distinct() == 1 && pending(t, client) == 0 })
				if err := r.Up(); err != nil {
					t.Errorf("up: %v", err)
				}
				return
			}
			until(t, "it is named", func() bool {
				err := r.Up()
				return err != nil && strings.Contains(err.Error(), test.want)
			})
			if strings.Contains(r.Up().Error(), "secret") {
				t.Error("the password is in the error")
			}
			if err := client.Do(t.Context(), append([]any{"ACL", "SETUSER", "alice", "reset"},
				fields(aclRule)...)...).Err(); err != nil {
				t.Fatal(err)
			}
			until(t, "it works", func() bool { return seen.distinct() == 1 && pending(t, client) == 0 && r.Up() == nil })
		})
	}
}

// A permission that only the housekeeping needs is missed too.
func TestRedisNoticesAPermissionTakenAway(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.WithUser("alice "+aclRule))
	client := srv.Client(t)
	r := newRig(t, srv.UserURL("alice", "secret"))
	r.subscribe(t, StartOldest, 8, func(*message.Message) bool { return true })
	until(t, "it attaches", func() bool { return r.Up() == nil })
	setUser := func(rule string) {
		t.Helper()
		if err := client.Do(t.Context(), append([]any{"ACL", "SETUSER", "alice"}, fields(rule)...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	setUser("-xinfo")
	until(t, "it is named", func() bool {
		err := r.Up()
		return err != nil && strings.Contains(err.Error(), "grant +xinfo|")
	})
	if got := r.log.lines("redis stream not available"); got != 1 {
		t.Errorf("%d log lines about it, want 1", got)
	}
	setUser("+xinfo")
	until(t, "it works again", func() bool { return r.Up() == nil })
}

func fields(text string) []any {
	var all []any
	for f := range strings.FieldsSeq(text) {
		all = append(all, f)
	}
	return all
}

// What could not be acknowledged is acknowledged later, and is not run again meanwhile.
func TestRedisAcknowledgesLater(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	proxy := srv.Proxy(t)
	client := srv.Client(t)
	r, seen := newRig(t, proxy.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "it attaches", func() bool { return r.Up() == nil })
	proxy.Refuse("MISCONF not now", "XACK")
	ids := fill(t, client, 100, 5)
	until(t, "all are handled", func() bool { return seen.distinct() == len(ids) })
	until(t, "acknowledging fails", func() bool { return r.count.get(&r.count.ackFailed) > 0 })
	time.Sleep(time.Second) // beyond max idle and the lease
	if got := pending(t, client); got != len(ids) {
		t.Fatalf("%d pending while XACK is refused", got)
	}
	proxy.Pass()
	until(t, "all are acknowledged", func() bool { return pending(t, client) == 0 })
	if seen.total != len(ids) {
		t.Errorf("%d were handled, want %d", seen.total, len(ids))
	}
	if got := r.log.lines("redis stream not available"); got != 1 {
		t.Errorf("%d log lines about it, want 1", got)
	}
}

// When only the reading connection is refused, that is one fault, reported once, however often it is tried.
func TestRedisRefusesTheReadingConnection(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 1, seen.handle(nil))
	until(t, "it attaches", func() bool { return r.Up() == nil })
	fill(t, client, 10, 1)
	until(t, "it works", func() bool { return seen.distinct() == 10 && pending(t, client) == 0 })
	full := strconv.Itoa(connections(t, client) - 1)
	if err := client.ConfigSet(t.Context(), "maxclients", full).Err(); err != nil {
		t.Fatal(err)
	}
	before := infoNumber(t, client, "rejected_connections")
	list, err := client.ClientList(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(list) {
		if strings.Contains(line, "cmd=xreadgroup") {
			id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
			if err := client.ClientKillByFilter(t.Context(), "ID", id).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	until(t, "it has been refused often", func() bool { return infoNumber(t, client, "rejected_connections") >= before+4 })
	if r.Up() == nil {
		t.Error("it is up without reading")
	}
	if got := r.log.lines("redis stream not available"); got != 1 {
		t.Errorf("%d log lines about the fault, want 1", got)
	}
	if err := client.ConfigSet(t.Context(), "maxclients", "1000").Err(); err != nil {
		t.Fatal(err)
	}
	fill(t, client, 10, 1)
	until(t, "it works again", func() bool { return seen.distinct() == 20 && pending(t, client) == 0 && r.Up() == nil })
	if got := r.log.lines("redis stream attached"); got != 2 {
		t.Errorf("%d log lines about its return, want 2", got)
	}
}

// infoNumber returns a number of the server's INFO stats.
func infoNumber(t testing.TB, client *redis.Client, name string) int {
	t.Helper()
	info, err := client.Info(context.Background(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, name+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	n, err := strconv.Atoi(value)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Nothing is acknowledged before what has to be done before, and nothing is run again meanwhile; of many entries it is
// done once.
func TestRedisDoesFirstWhatComesBeforeAcknowledging(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	var refuse atomic.Bool
	var asked, done atomic.Int64
	refuse.Store(true)
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) {
		c.BeforeAck = func(_ context.Context, stream, group string) error {
			if stream != testStream || group != testGroup {
				t.Errorf("asked for %s, %s", stream, group)
			}
			asked.Add(1)
			if refuse.Load() {
				return errors.New("not now")
			}
			done.Add(1)
			return nil
		}
	}), newTally()
	end := r.subscribe(t, StartOldest, 8, seen.handle(nil))
	ids := fill(t, client, 100, 5)
	until(t, "all are handled", func() bool { return seen.distinct() == len(ids) })
	until(t, "it is asked again", func() bool { return asked.Load() > 2 })
	if got := pending(t, client); got != len(ids) {
		t.Errorf("%d pending, want all %d", got, len(ids))
	}
	until(t, "the reason shows", func() bool { err := r.Up(); return err != nil && strings.Contains(err.Error(), "not now") })
	refuse.Store(false)
	until(t, "all are acknowledged", func() bool { return pending(t, client) == 0 && r.Up() == nil })
	if n := done.Load(); n > 20 {
		t.Errorf("done %d times for %d entries", n, len(ids))
	}
	more := fill(t, client, 10, 5)
	until(t, "more are handled", func() bool { return seen.distinct() == len(ids)+len(more) })
	end()
	if got := pending(t, client); got != 0 || seen.total != len(ids)+len(more) {
		t.Errorf("%d pending after the end, %d handled", got, seen.total)
	}
}

// No more entries are taken than may be in flight, whether they are being handled or wait to be acknowledged.
func TestRedisBoundsWhatIsInFlight(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	proxy := srv.Proxy(t)
	client := srv.Client(t)
	fill(t, client, 1000, 50)
	proxy.Refuse("MISCONF not now", "XACK")
	r, seen := newRig(t, proxy.URL(), func(c *RedisConfig) { c.MaxInFlight = 100 }), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "all that may be are in flight", func() bool { return seen.distinct() == 100 })
	time.Sleep(200 * time.Millisecond)
	if got := pending(t, client); got != 100 {
		t.Errorf("%d pending, want 100", got)
	}
	proxy.Pass()
	until(t, "all are handled", func() bool { return seen.distinct() == 1000 && pending(t, client) == 0 })
}

// Large entries are read few at a time, and no more of them are taken than fit in memory.
func TestRedisBoundsBytesInFlight(t *testing.T) {
	t.Parallel()
	for _, field := range []string{fieldData, "blob"} {
		t.Run(field, func(t *testing.T) { boundsBytesInFlight(t, field) })
	}
}

func boundsBytesInFlight(t *testing.T, field string) {
	t.Helper()
	srv := redistest.Start(t)
	client := srv.Client(t)
	large := make([]byte, 1<<20)
	const n = 150
	for range n {
		if err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: testStream, Values: []any{field, large}}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.Block = DefaultBlock }), newTally()
	hold := make(chan struct{})
	r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		<-hold
		return true
	}))
	until(t, "no more is taken", func() bool { return pending(t, client) >= flightBytes>>20 })
	time.Sleep(100 * time.Millisecond)
	// A reply was on its way when the limit was reached.
	if got := pending(t, client); got > flightBytes>>20+replyBytes>>20 {
		t.Errorf("%d MiB taken, want at most %d and a reply", got, flightBytes>>20)
	}
	close(hold)
	until(t, "all are handled", func() bool { return seen.distinct() == n && pending(t, client) == 0 })
	if got := r.count.get(&r.count.readings); got < 8 {
		t.Errorf("%d readings of %d MiB, want replies of about %d", got, n, replyBytes>>20)
	}
	if got := r.count.get(&r.count.largestBatch); got > replyBytes>>20 {
		t.Errorf("%d MiB in one reply, want at most %d", got, replyBytes>>20)
	}
	sub, err := r.subscription()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "nothing is in flight", func() bool {
		sub.flight.mu.Lock()
		defer sub.flight.mu.Unlock()
		return sub.flight.bytes == 0 && len(sub.flight.entries) == 0
	})
}

func TestRedisConnections(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]redistest.Option{
		"socket": redistest.WithSocket(),
		"tls":    redistest.WithTLS(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t, opt)
			client := srv.Client(t)
			fill(t, client, 10, 2)
			r, seen := newRig(t, srv.URL(), func(c *RedisConfig) {
				if name == "tls" {
					certs := srv.Certificates()
					c.TLS = RedisTLS{CA: certs.CA, Cert: certs.ClientCert, Key: certs.ClientKey, ServerName: "localhost"}
				}
			}), newTally()
			r.subscribe(t, StartOldest, 8, seen.handle(nil))
			until(t, "all are handled", func() bool { return seen.distinct() == 10 && pending(t, client) == 0 })
		})
	}
}

func TestRedisTLSFaults(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t, redistest.WithTLS())
	certs := srv.Certificates()
	for name, test := range map[string]struct {
		tls  RedisTLS
		want string
	}{
		"unknown authority":     {RedisTLS{Cert: certs.ClientCert, Key: certs.ClientKey}, "unknown authority"},
		"no client certificate": {RedisTLS{CA: certs.CA}, ""},
		"another name": {
			RedisTLS{CA: certs.CA, Cert: certs.ClientCert, Key: certs.ClientKey, ServerName: "redis.example"}, "redis.example",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, srv.URL(), func(c *RedisConfig) { c.TLS = test.tls })
			if err := r.Up(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("up: %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestNewRedisRefuses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		cfg  RedisConfig
		want string
	}{
		"no url":       {RedisConfig{}, "url: redis: invalid URL scheme"},
		"scheme":       {RedisConfig{URL: "http://:hunter2@localhost"}, "url: redis: invalid URL scheme: http"},
		"port":         {RedisConfig{URL: "redis://:hunter2@localhost:x/0"}, "url: "},
		"control":      {RedisConfig{URL: "redis://:hunter2@localhost:1/0\x7f"}, "url: "},
		"database":     {RedisConfig{URL: "redis://:hunter2@localhost/x"}, "invalid database number"},
		"parameter":    {RedisConfig{URL: "redis://:hunter2@localhost/0?hunter=2"}, "url: "},
		"tls":          {RedisConfig{URL: "redis://localhost", TLS: RedisTLS{CA: file}}, "needs a rediss:// URL"},
		"no ca":        {RedisConfig{URL: "rediss://localhost", TLS: RedisTLS{CA: file + "x"}}, "no such file"},
		"empty ca":     {RedisConfig{URL: "rediss://localhost", TLS: RedisTLS{CA: file}}, "has no certificate"},
		"no key":       {RedisConfig{URL: "rediss://localhost", TLS: RedisTLS{Cert: file}}, "client certificate"},
		"batch":        {RedisConfig{URL: "redis://localhost", Batch: -1}, "batch: must be at least 1"},
		"block":        {RedisConfig{URL: "redis://localhost", Block: time.Microsecond}, "block: must be at least 1ms"},
		"lease":        {RedisConfig{URL: "redis://localhost", Lease: time.Millisecond}, "lease: must be at least 100ms"},
		"trim":         {RedisConfig{URL: "redis://localhost", Trim: "all"}, "trim: must be none or acked"},
		"several":      {RedisConfig{URL: "redis://localhost", Lanes: -1, MaxIdle: -1}, "lanes: must"},
		"max in fligt": {RedisConfig{URL: "redis://localhost", MaxInFlight: -5}, "max in flight: must be"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := NewRedis(test.cfg)
			if err == nil {
				_ = r.Close(context.Background())
				t.Fatal("it was taken")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password is in the error: %v", err)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	if describe("XADD", "k", nil) != nil {
		t.Error("no error is an error")
	}
	err := describe("XADD", "k", io.EOF)
	if again := describe("PING", "", fmt.Errorf("more: %w", err)); !errors.Is(again, io.EOF) ||
		again.Error() != "more: redis: XADD: EOF" {
		t.Errorf("described twice: %v", again)
	}
}

// answer is an error that a server answered.
type answer string

func (a answer) Error() string { return string(a) }
func (answer) RedisError()     {}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"LOADING Redis is loading the dataset in memory":                true,
		"NOPERM User alice has no permissions to run the 'xadd'":        true,
		"NOAUTH Authentication required.":                               true,
		"WRONGTYPE Operation against a key holding the wrong kind":      true,
		"ERR max number of clients reached":                             true,
		"ERR Protocol error: invalid bulk length":                       false,
		"ERR The ID specified in XADD is equal or smaller than the top": false,
	} {
		var op *operation
		if !errors.As(describe("XADD", "k", answer(text)), &op) || op.Unavailable() != want {
			t.Errorf("%s: unavailable is not %v", text, want)
		}
	}
	var op *operation
	if !errors.As(describe("XADD", "k", io.EOF), &op) || !op.Unavailable() {
		t.Error("a lost connection is not unavailable")
	}
}

// A hung server is noticed in time although nothing is read, since there is no place for it, and nothing acknowledged,
// since no handler ends.
func TestRedisServerHangsWhileNothingIsRead(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	fill(t, srv.Client(t), 10, 10)
	r := newRig(t, srv.URL(), func(c *RedisConfig) {
		c.MaxInFlight, c.Lease, c.Block = 2, DefaultLease, DefaultBlock
	})
	started, finish := make(chan struct{}, 10), make(chan struct{})
	r.subscribe(t, StartOldest, 8, func(*message.Message) bool {
		started <- struct{}{}
		<-finish
		return true
	})
	defer close(finish)
	<-started
	<-started
	until(t, "it is well", func() bool { return r.Up() == nil })
	time.Sleep(DefaultLease / 2) // the keeper and the lease are at their beat
	srv.Pause()
	defer srv.Resume()
	paused := time.Now()
	until(t, "it is noticed", func() bool { return r.Up() != nil })
	noticed := time.Since(paused)
	t.Logf("noticed after %v: %v", noticed.Round(time.Millisecond), r.Up())
	if noticed > 5*time.Second {
		t.Errorf("noticed after %v", noticed)
	}
}
