package bus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// takeAs reads n new entries as a consumer that then does nothing more, as one that was killed.
func takeAs(t testing.TB, client *redis.Client, name string, n int) {
	t.Helper()
	ctx := context.Background()
	err := client.XGroupCreateMkStream(ctx, testStream, testGroup, "0").Err()
	if err != nil && !redis.HasErrorPrefix(err, "BUSYGROUP") {
		t.Fatal(err)
	}
	err = client.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: testGroup, Consumer: name, Streams: []string{testStream, ">"}, Count: int64(n), Block: -1,
	}).Err()
	if err != nil {
		t.Fatal(err)
	}
}

// setDeliveries sets the delivery count of an entry that name has pending.
func setDeliveries(t testing.TB, client *redis.Client, name, id string, n int) {
	t.Helper()
	err := client.Do(context.Background(), "XCLAIM", testStream, testGroup, name, 0, id, "RETRYCOUNT", n, "JUSTID").Err()
	if err != nil {
		t.Fatal(err)
	}
}

// giveTo makes an entry that nobody has pending one that name has, delivered n times.
func giveTo(t testing.TB, client *redis.Client, name, id string, n int) {
	t.Helper()
	err := client.Do(context.Background(), "XCLAIM", testStream, testGroup, name, 0, id,
		"FORCE", "RETRYCOUNT", n, "JUSTID").Err()
	if err != nil {
		t.Fatal(err)
	}
}

// enrol makes name one of our consumers, without a lease: one that has died.
func enrol(t testing.TB, client *redis.Client, name string) {
	t.Helper()
	keys := newRedisKeys(testStream, testGroup)
	if err := client.SAdd(context.Background(), keys.consumers(), name).Err(); err != nil {
		t.Fatal(err)
	}
}

// connections returns how many connections the server has.
func connections(t testing.TB, client *redis.Client) int {
	t.Helper()
	list, err := client.ClientList(context.Background()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(list, "\n")
}

// pendingCounts returns the delivery count of every pending entry.
func pendingCounts(t testing.TB, client *redis.Client) map[string]int64 {
	t.Helper()
	list, err := client.XPendingExt(context.Background(), &redis.XPendingExtArgs{
		Stream: testStream, Group: testGroup, Start: "-", End: "+", Count: 100_000,
	}).Result()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int64, len(list))
	for _, p := range list {
		counts[p.ID] = p.RetryCount
	}
	return counts
}

func TestRedisRunsItsOwnPendingFirstAndOneAtATime(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 60, 20)
	takeAs(t, client, "worker", 20)
	r, seen := newRig(t, srv.URL()), newTally()
	var mu sync.Mutex
	var order []string
	var suspects atomic.Int32
	r.subscribe(t, StartOldest, 8, seen.handle(func(e *event.Event) bool {
		if e.Deliveries == 2 {
			if suspects.Add(1) > 1 {
				t.Error("two suspects at the same time")
			}
			defer suspects.Add(-1)
			time.Sleep(time.Millisecond)
		}
		mu.Lock()
		defer mu.Unlock()
		order = append(order, e.EntryID)
		return true
	}))
	until(t, "all are handled", func() bool { return seen.distinct() == 60 && pending(t, client) == 0 })
	mu.Lock()
	defer mu.Unlock()
	if diff := cmp.Diff(ids[:20], order[:20]); diff != "" {
		t.Errorf("the first that ran are not what was pending (-want +got):\n%s", diff)
	}
	for i, id := range ids {
		want := int64(1)
		if i < 20 {
			want = 2
		}
		if e := seen.of(id)[0]; e.Deliveries != want {
			t.Errorf("entry %d: %d deliveries, want %d", i, e.Deliveries, want)
		}
	}
	if got := r.count.get(&r.count.reclaimed); got != 20 {
		t.Errorf("%d entries counted as reclaimed, want 20", got)
	}
}

// What was given back and what was in the hands of a process that died run in the order of the stream.
func TestRedisKeepsTheOrderOfWhatIsPending(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 500, 1)
	takeAs(t, client, "worker", 450)
	for i, id := range ids[:450] {
		if i%7 != 4 { // 200, where the second page of pending entries begins, is a suspect
			setDeliveries(t, client, "worker", id, 0)
		}
	}
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "all are handled", func() bool { return seen.distinct() == 500 && pending(t, client) == 0 })
	if diff := cmp.Diff(ids, seen.order["c0"]); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

// An entry that takes for ever stops neither what else its consumer left nor what is new for ever; nor does one that has
// died with its process before, for which everything else is made to wait.
func TestRedisReadsOnWhileASuspectHangs(t *testing.T) {
	for name, deliveries := range map[string]int{"first": 1, "again": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := redistest.Start(t)
			client := srv.Client(t)
			const patience = 300 * time.Millisecond
			r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.MaxIdle = patience }), newTally()
			var hot atomic.Value // the key of the one that hangs
			hangs, release := make(chan struct{}), make(chan struct{})
			r.subscribe(t, StartOldest, 8, seen.handle(func(e *event.Event) bool {
				if e.Deliveries == int64(deliveries)+1 && e.Key == hot.Load() {
					close(hangs)
					<-release
				}
				return true
			}))
			until(t, "it attaches", func() bool { return r.Up() == nil })
			keys := []string{"a", "b", "c"}
			hot.Store(keys[0])
			ids := []string{add(t, client, keys[0]), add(t, client, keys[1])}
			until(t, "they are handled once", func() bool { return seen.distinct() == 2 && pending(t, client) == 0 })
			for i, n := range []int{deliveries, 1} {
				giveTo(t, client, "dead", ids[i], n)
			}
			enrol(t, client, "dead")
			<-hangs
			began := time.Now()
			until(t, "the other is handled", func() bool { return len(seen.of(ids[1])) == 2 })
			if took := time.Since(began); took < patience/2 {
				t.Errorf("the second suspect ran beside the first after %v", took)
			}
			fresh := add(t, client, keys[2])
			until(t, "what is new is handled", func() bool { return len(seen.of(fresh)) == 1 })
			close(release)
			until(t, "all are handled", func() bool { return seen.distinct() == 3 && pending(t, client) == 0 })
			if seen.total != 5 {
				t.Errorf("%d were handled, want 5", seen.total)
			}
		})
	}
}

// add adds an entry and returns its ID.
func add(t testing.TB, client *redis.Client, key string) string {
	t.Helper()
	id, err := client.XAdd(context.Background(), &redis.XAddArgs{
		Stream: testStream, Values: []any{fieldData, feedbackEntry(t, key, 1)},
	}).Result()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestRedisLimitsDeliveries(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 3, 3)
	takeAs(t, client, "worker", 3)
	setDeliveries(t, client, "worker", ids[0], 4)
	setDeliveries(t, client, "worker", ids[1], 5)
	setDeliveries(t, client, "worker", ids[2], 7)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "all are handled", func() bool { return seen.distinct() == 3 && pending(t, client) == 0 })
	for i, want := range []int64{5, 6, 8} {
		e := seen.of(ids[i])[0]
		var limit *DeliveriesError
		if over := errors.As(e.Err, &limit); over != (want > 5) || e.Deliveries != want {
			t.Errorf("entry %d: %d deliveries, err %v; want %d", i, e.Deliveries, e.Err, want)
		}
		if limit != nil && limit.Kind() != event.KindDeliveries {
			t.Errorf("kind %q", limit.Kind())
		}
		if len(e.Data) == 0 {
			t.Errorf("entry %d has lost its data", i)
		}
	}
}

func TestRedisGivesBackWhatItDidNotRun(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 40, 1)
	before := connections(t, client)
	r, seen := newRig(t, srv.URL()), newTally()
	started, finish := make(chan struct{}), make(chan struct{})
	end := r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		close(started)
		<-finish
		return true
	}))
	<-started
	until(t, "all are taken", func() bool { return r.count.get(&r.count.mostInFlight) == len(ids) })
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		end()
	}()
	// The drain waits for what is being handled.
	select {
	case <-ended:
		t.Fatal("the subscription ended while an event was being handled")
	case <-time.After(50 * time.Millisecond):
	}
	close(finish)
	<-ended
	counts := pendingCounts(t, client)
	if len(counts) != 39 {
		t.Fatalf("%d pending after the drain, want 39", len(counts))
	}
	for id, n := range counts {
		if n != 0 {
			t.Errorf("entry %s counts %d deliveries, want 0", id, n)
		}
	}
	if n := client.Exists(context.Background(), newRedisKeys(testStream, testGroup).lease("worker")).Val(); n != 0 {
		t.Error("the lease was not released")
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "its connections are closed", func() bool { return connections(t, client) <= before })
	next, again := newRig(t, srv.URL(), func(c *RedisConfig) { c.Consumer = "other" }), newTally()
	next.subscribe(t, StartOldest, 8, again.handle(nil))
	until(t, "the rest is handled", func() bool { return again.distinct() == 39 && pending(t, client) == 0 })
	for _, id := range ids[1:] {
		if e := again.of(id)[0]; e.Deliveries != 1 {
			t.Errorf("entry %s: %d deliveries, want 1", id, e.Deliveries)
		}
	}
}

// What Redis gave to the consumer in a reply that its end cut off is given back too, but not what it had before.
func TestRedisGivesBackWhatItNeverSaw(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 3, 1)
	takeAs(t, client, "worker", 2)
	time.Sleep(5 * idleError)
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.MaxIdle = soon }), newTally()
	started, finish := make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(finish) })
	end := r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		close(started)
		<-finish
		return true
	}))
	t.Cleanup(letGo) // also when the test fails before
	<-started        // the first suspect; the reader waits for it and reads nothing
	time.Sleep(5 * idleError)
	takeAs(t, client, "worker", 1)
	go func() {
		time.Sleep(10 * time.Millisecond)
		letGo()
	}()
	end()
	counts := pendingCounts(t, client)
	delete(counts, ids[1]) // the second suspect may have been claimed in time or not
	if diff := cmp.Diff(map[string]int64{ids[2]: 0}, counts); diff != "" {
		t.Errorf("deliveries of what is pending (-want +got):\n%s", diff)
	}
	if n := pendingCounts(t, client)[ids[1]]; n != 1 {
		t.Errorf("the second suspect counts %d deliveries, want 1", n)
	}
}

// What was given back is claimed few at a time when it is large, so that no more is in flight than fits in memory.
func TestRedisClaimsLargeEntriesFewAtATime(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	large := make([]byte, 1<<20)
	const n = 170
	for range n {
		id, err := client.XAdd(t.Context(), &redis.XAddArgs{Stream: testStream, Values: []any{fieldData, large}}).Result()
		if err != nil {
			t.Fatal(err)
		}
		takeAs(t, client, "worker", 1)
		setDeliveries(t, client, "worker", id, 0)
	}
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.Block = DefaultBlock }), newTally()
	hold := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(hold) })
	r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		<-hold
		return true
	}))
	t.Cleanup(letGo)
	until(t, "no more is taken", func() bool { return r.count.get(&r.count.mostInFlight) >= flightBytes>>20 })
	time.Sleep(100 * time.Millisecond)
	if got := r.count.get(&r.count.mostInFlight); got > (flightBytes+replyBytes)>>20 {
		t.Errorf("%d MiB in flight, want at most %d and a reply", got, flightBytes>>20)
	}
	letGo()
	until(t, "all are handled", func() bool { return seen.distinct() == n && pending(t, client) == 0 })
}

func TestRedisDrainGivesUpInTime(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	fill(t, client, 10, 1)
	r := newRig(t, srv.URL(), func(c *RedisConfig) { c.DrainTimeout = 50 * time.Millisecond })
	started := make(chan struct{})
	cancelled := make(chan struct{})
	end := r.subscribe(t, StartOldest, 1, func(msg *message.Message) bool {
		close(started)
		<-msg.Context().Done()
		close(cancelled)
		return false
	})
	<-started
	select {
	case <-cancelled:
		t.Fatal("the context was cancelled before the drain")
	default:
	}
	end()
	<-cancelled
	if got := pending(t, client); got != 10 {
		t.Errorf("%d pending, want 10", got)
	}
}

func TestRedisTakesOverFromTheDead(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 30, 5)
	takeAs(t, client, "dead", 20)
	enrol(t, client, "dead")
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.MaxIdle = time.Hour }), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "all are handled", func() bool { return seen.distinct() == 30 && pending(t, client) == 0 })
	for i, id := range ids[:20] {
		if e := seen.of(id); len(e) != 1 || e[0].Deliveries != 2 {
			t.Errorf("entry %d ran %d times, %d deliveries", i, len(e), e[0].Deliveries)
		}
	}
}

func TestRedisLeavesTheLivingAlone(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 10, 5)
	takeAs(t, client, "alive", 10)
	enrol(t, client, "alive")
	key := newRedisKeys(testStream, testGroup).lease("alive")
	if err := client.Set(t.Context(), key, "token", 0).Err(); err != nil {
		t.Fatal(err)
	}
	// Idle time does not matter as long as there is a lease.
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.MaxIdle = 100 * time.Millisecond }), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "it attaches", func() bool { return r.Up() == nil })
	time.Sleep(2 * time.Second) // two leases' time
	if got := seen.distinct(); got != 0 {
		t.Fatalf("%d entries of a live consumer were run", got)
	}
	if err := client.Del(t.Context(), key).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "it is dead", func() bool { return seen.distinct() == len(ids) && pending(t, client) == 0 })
}

func TestRedisTakesOverFromForeignConsumersByIdleTime(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	fill(t, client, 10, 5)
	takeAs(t, client, "foreign", 10)
	taken := time.Now()
	const idle = 800 * time.Millisecond
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.MaxIdle = idle }), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		if time.Since(taken) < idle {
			t.Errorf("taken over after %v, before max idle", time.Since(taken))
		}
		return true
	}))
	until(t, "all are handled", func() bool { return seen.distinct() == 10 && pending(t, client) == 0 })
}

// A handler that takes longer than MaxIdle keeps its entry, against our own consumers and against foreign ones that go
// by idle time, and the entry's delivery count stays.
func TestRedisKeepsWhatASlowHandlerHolds(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	const idle = 1500 * time.Millisecond
	short := func(name string) func(*RedisConfig) {
		return func(c *RedisConfig) { c.MaxIdle, c.Consumer = idle, name }
	}
	seen := newTally()
	slow := func(*event.Event) bool {
		time.Sleep(3 * idle)
		return true
	}
	fill(t, client, 1, 1)
	a := newRig(t, srv.URL(), short("a"))
	a.subscribe(t, StartOldest, 8, seen.handle(slow))
	until(t, "the entry is being handled", func() bool { return pending(t, client) == 1 })
	b := newRig(t, srv.URL(), short("b"))
	b.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "it is handled", func() bool {
		// What another program would claim meanwhile, and what it counts.
		ids, _, err := client.XAutoClaimJustID(t.Context(), &redis.XAutoClaimArgs{
			Stream: testStream, Group: testGroup, Consumer: "foreign", MinIdle: idle, Start: "0",
		}).Result()
		if err != nil || len(ids) > 0 {
			t.Fatalf("a foreign consumer could claim %v, err %v", ids, err)
		}
		for id, n := range pendingCounts(t, client) {
			if n != 1 {
				t.Fatalf("entry %s counts %d deliveries while it is handled", id, n)
			}
		}
		return seen.distinct() == 1 && pending(t, client) == 0
	})
	if seen.total != 1 {
		t.Errorf("the entry ran %d times", seen.total)
	}
}

func TestRedisConsumerNames(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	names := func() []string {
		keys, err := client.Keys(context.Background(), "*:lease:*").Result()
		if err != nil {
			t.Fatal(err)
		}
		prefix := newRedisKeys(testStream, testGroup).lease("")
		for i := range keys {
			keys[i] = keys[i][len(prefix):]
		}
		slices.Sort(keys)
		return keys
	}
	a, b := newRig(t, srv.URL()), newRig(t, srv.URL())
	endA := a.subscribe(t, StartOldest, 1, func(*message.Message) bool { return true })
	until(t, "a attaches", func() bool { return a.Up() == nil })
	b.subscribe(t, StartOldest, 1, func(*message.Message) bool { return true })
	until(t, "b attaches", func() bool { return b.Up() == nil })
	if diff := cmp.Diff([]string{"worker", "worker-2"}, names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if got := b.log.lines("consumer name is taken by a live process"); got != 1 {
		t.Errorf("%d log lines about the name, want 1", got)
	}
	endA()
	c := newRig(t, srv.URL())
	c.subscribe(t, StartOldest, 1, func(*message.Message) bool { return true })
	until(t, "c attaches", func() bool { return c.Up() == nil })
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	d := newRig(t, srv.URL(), func(cfg *RedisConfig) { cfg.Consumer = "" })
	d.subscribe(t, StartOldest, 1, func(*message.Message) bool { return true })
	until(t, "d attaches", func() bool { return d.Up() == nil })
	want := []string{host + "-1", "worker", "worker-2"}
	slices.Sort(want)
	if diff := cmp.Diff(want, names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

// A consumer that was paused for longer than its lease, and whose name another has by now, goes on under another name.
func TestRedisFindsItsLeaseGone(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 1, seen.handle(nil))
	until(t, "it attaches", func() bool { return r.Up() == nil })
	key := newRedisKeys(testStream, testGroup).lease("worker")
	if err := client.Set(t.Context(), key, "another", 0).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "it takes another name", func() bool {
		return client.Exists(context.Background(), newRedisKeys(testStream, testGroup).lease("worker-2")).Val() == 1
	})
	if got := client.Get(context.Background(), key).Val(); got != "another" {
		t.Error("it took the lease of another")
	}
	fill(t, client, 10, 1)
	until(t, "it works", func() bool { return seen.distinct() == 10 && pending(t, client) == 0 })
	if got := r.log.lines("consumer lease was lost"); got != 1 {
		t.Errorf("%d log lines about the lease, want 1", got)
	}
}

// A lease that somebody deletes is taken again before another consumer takes the name for that of a dead one.
func TestRedisTakesADeletedLeaseAgain(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	a, b := newRig(t, srv.URL()), newRig(t, srv.URL(), func(c *RedisConfig) { c.Consumer = "other" })
	seen, again := newTally(), newTally()
	finish := make(chan struct{})
	fill(t, client, 5, 5)
	a.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		<-finish
		return true
	}))
	until(t, "all are being handled", func() bool { return pending(t, client) == 5 })
	b.subscribe(t, StartOldest, 8, again.handle(nil))
	until(t, "the other attaches", func() bool { return b.Up() == nil })
	key := newRedisKeys(testStream, testGroup).lease("worker")
	for range 3 {
		if err := client.Del(t.Context(), key).Err(); err != nil {
			t.Fatal(err)
		}
		until(t, "it is taken again", func() bool { return client.Exists(t.Context(), key).Val() == 1 })
	}
	until(t, "it is told", func() bool { return a.log.lines("consumer lease was gone and has been taken again") > 0 })
	close(finish)
	until(t, "all are handled", func() bool { return seen.distinct() == 5 && pending(t, client) == 0 })
	if n := again.distinct(); n != 0 {
		t.Errorf("%d entries ran elsewhere too", n)
	}
}

// An entry that Redis gave to this consumer in a reply that never arrived runs all the same.
func TestRedisFindsRepliesThatNeverArrived(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 1, seen.handle(nil))
	until(t, "it attaches", func() bool { return r.Up() == nil })
	// The reader of the live consumer competes for new entries, so take one from another consumer instead.
	ids := fill(t, client, 1, 1)
	until(t, "it is handled", func() bool { return seen.distinct() == 1 && pending(t, client) == 0 })
	giveTo(t, client, "worker", ids[0], 1)
	until(t, "it is handled again", func() bool { return len(seen.of(ids[0])) == 2 && pending(t, client) == 0 })
	if e := seen.of(ids[0])[1]; e.Deliveries != 2 {
		t.Errorf("%d deliveries, want 2", e.Deliveries)
	}
}

func TestRedisClearsTrimmedEntries(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 9, 3)
	takeAs(t, client, "worker", 3)
	takeAs(t, client, "dead", 3)
	enrol(t, client, "dead")
	takeAs(t, client, "foreign", 3)
	// One is left of each.
	if err := client.XDel(t.Context(), testStream, ids[0], ids[1], ids[3], ids[4], ids[6], ids[7]).Err(); err != nil {
		t.Fatal(err)
	}
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "nothing is pending", func() bool { return pending(t, client) == 0 && seen.distinct() == 3 })
	until(t, "it is counted", func() bool { return r.count.get(&r.count.trimmed) == 6 })
}

func TestDropConsumer(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ctx := t.Context()
	keys := newRedisKeys(testStream, testGroup)
	fill(t, client, 2, 1)
	takeAs(t, client, "busy", 1)
	takeAs(t, client, "done", 1)
	last := client.XInfoStream(ctx, testStream).Val().LastGeneratedID
	if err := client.XAck(ctx, testStream, testGroup, last).Err(); err != nil {
		t.Fatal(err)
	}
	enrol(t, client, "busy")
	enrol(t, client, "done")
	script := redis.NewScript(dropConsumer)
	drop := func(name string, idle int) int {
		all := []string{testStream, keys.lease(name), keys.consumers()}
		n, err := script.Run(ctx, client, all, testGroup, name, idle).Int()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := client.Set(ctx, keys.lease("done"), "token", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if drop("done", 0) != 0 {
		t.Error("a consumer with a lease was deleted")
	}
	client.Del(ctx, keys.lease("done"))
	for name, idle := range map[string]int{"busy": 0, "done": 1_000_000, "nobody": 0} {
		if drop(name, idle) != 0 {
			t.Errorf("consumer %s was deleted", name)
		}
	}
	if drop("done", 0) != 1 {
		t.Error("an idle consumer of a dead process was not deleted")
	}
	if got := client.SMembers(ctx, keys.consumers()).Val(); !slices.Equal(got, []string{"busy"}) {
		t.Errorf("registry has %v", got)
	}
}

func TestRedisKeysShareTheStreamsSlot(t *testing.T) {
	t.Parallel()
	if a, b := newRedisKeys("s", "a:b").lease("c"), newRedisKeys("s", "a").lease("b:c"); a == b {
		t.Errorf("groups a:b and a share the lease key %s", a)
	}
	for stream, want := range map[string]string{
		"mdp:mdp.x":  "{mdp:mdp.x}:pulseflow:lease:g:c",
		"{mdp}:x":    "{mdp}:x:pulseflow:lease:g:c",
		"mdp:{}":     "{mdp:{}}:pulseflow:lease:g:c",
		"mdp:{a":     "{mdp:{a}:pulseflow:lease:g:c",
		"a{b}c{d}:e": "a{b}c{d}:e:pulseflow:lease:g:c",
	} {
		if got := newRedisKeys(stream, "g").lease("c"); got != want {
			t.Errorf("stream %s: lease key %s, want %s", stream, got, want)
		}
	}
}

// childEnv tells a test binary that it is the consumer process of a test: the URL of the server.
const childEnv = "PULSEFLOW_BUS_TEST_CHILD"

// TestRedisChildProcess is a consumer that runs in a process of its own, to be killed. It notes what it handles in the
// Redis list "applied", and dies of the event whose queue_size is in the key "killer".
func TestRedisChildProcess(t *testing.T) {
	url := os.Getenv(childEnv)
	if url == "" {
		return // a test of its own only in the process that startChild starts
	}
	opts, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(opts)
	killer := client.Get(context.Background(), "killer").Val()
	r := newRig(t, url)
	r.subscribe(t, StartOldest, 8, func(msg *message.Message) bool {
		e := event.FromContext(msg.Context())
		if e.Err == nil && fmt.Sprint(queueSize(t, e)) == killer {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		note := e.EntryID
		if e.Err != nil {
			note = "dead:" + e.EntryID
		}
		return client.RPush(context.Background(), "applied", note).Err() == nil
	})
	select {} // until killed
}

func queueSize(t testing.TB, e *event.Event) int64 {
	t.Helper()
	f, err := e.Feedback()
	if err != nil {
		t.Fatal(err)
	}
	return f.QueueSize
}

// startChild starts a consumer in a process of its own. The channel is closed when it has ended.
func startChild(t testing.TB, url string) (*os.Process, <-chan struct{}) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestRedisChildProcess$")
	cmd.Env = append(os.Environ(), childEnv+"="+url)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-gone
	})
	return cmd.Process, gone
}

// applied returns how often each entry was handled in child processes.
func applied(t testing.TB, client *redis.Client) map[string]int {
	t.Helper()
	list, err := client.LRange(context.Background(), "applied", 0, -1).Result()
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]int{}
	for _, id := range list {
		times[id]++
	}
	return times
}

func TestRedisSurvivesKills(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	const n, kills = 10_000, 5
	ids := fill(t, client, n, 100)
	for i := range kills {
		child, gone := startChild(t, srv.URL())
		goal := int64((i + 1) * n / (kills + 1))
		until(t, "the child has handled some", func() bool { return client.LLen(t.Context(), "applied").Val() >= goal })
		if err := child.Kill(); err != nil {
			t.Fatal(err)
		}
		<-gone
	}
	startChild(t, srv.URL())
	until(t, "nothing is left", func() bool { return finished(client, ids) })
	times, dead := applied(t, client), 0
	for _, id := range ids {
		dead += times["dead:"+id]
		if times[id]+times["dead:"+id] == 0 {
			t.Errorf("entry %s was never handled", id)
		}
	}
	if dead > 0 {
		t.Errorf("%d entries were given up because of kills they had nothing to do with", dead)
	}
}

// One consumer's process is killed and the other runs what it had.
func TestRedisTakesOverFromAKilledProcess(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.Consumer, c.MaxIdle = "other", time.Hour }), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		time.Sleep(time.Millisecond)
		return true
	}))
	child, gone := startChild(t, srv.URL())
	ids := fill(t, client, 4000, 100)
	until(t, "the child has handled some", func() bool { return client.LLen(t.Context(), "applied").Val() > 100 })
	if err := child.Kill(); err != nil {
		t.Fatal(err)
	}
	<-gone
	left := pending(t, client)
	until(t, "nothing is left", func() bool { return finished(client, ids) })
	t.Logf("%d were pending when the process was killed", left)
	times := applied(t, client)
	for _, id := range ids {
		if times[id]+len(seen.of(id)) == 0 {
			t.Errorf("entry %s was never handled", id)
		}
	}
}

// A process that is stopped for longer than its lease goes on when it wakes, and nothing is lost.
func TestRedisSurvivesAPause(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 5000, 100)
	child, _ := startChild(t, srv.URL())
	until(t, "the child has handled some", func() bool { return client.LLen(t.Context(), "applied").Val() > 100 })
	if err := child.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.Consumer, c.MaxIdle = "other", time.Hour }), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	lease := newRedisKeys(testStream, testGroup).lease("worker")
	until(t, "the child's lease has expired", func() bool { return client.Exists(t.Context(), lease).Val() == 0 })
	until(t, "all it had is taken over", func() bool { return pending(t, client) == 0 })
	if err := child.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "the child is back", func() bool { return client.Exists(t.Context(), lease).Val() == 1 })
	ids = append(ids, fill(t, client, 1000, 100)...)
	until(t, "nothing is left", func() bool { return finished(client, ids) })
	times := applied(t, client)
	for _, id := range ids {
		if times[id]+len(seen.of(id)) == 0 {
			t.Errorf("entry %s was never handled", id)
		}
	}
}

// finished reports whether the group has had and acknowledged all of a stream's entries. It goes by IDs: Redis 6.2 counts
// no lag.
func finished(client *redis.Client, ids []string) bool {
	info := client.XInfoGroups(context.Background(), testStream).Val()
	return len(info) == 1 && info[0].LastDeliveredID == ids[len(ids)-1] && info[0].Pending == 0
}

// An entry that kills its process each time is given up after MaxDeliveries; the entries around it are handled.
func TestRedisGivesUpAKiller(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	const n, killer = 300, 123
	ids := fill(t, client, n, 300)
	if err := client.Set(t.Context(), "killer", strconv.Itoa(killer), 0).Err(); err != nil {
		t.Fatal(err)
	}
	deaths := 0
	for {
		_, gone := startChild(t, srv.URL())
		done := make(chan struct{})
		stop := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if finished(client, ids) {
					return
				}
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		}()
		select {
		case <-gone:
			close(stop)
			<-done
			if deaths++; deaths > DefaultMaxDeliveries {
				t.Fatalf("the entry has killed its process %d times", deaths)
			}
			continue
		case <-done:
		case <-time.After(soon):
			close(stop)
			<-done
			t.Fatal("waited in vain until nothing is left")
		}
		break
	}
	if deaths != DefaultMaxDeliveries {
		t.Errorf("the entry was given up after %d deaths, want %d", deaths, DefaultMaxDeliveries)
	}
	times := applied(t, client)
	for i, id := range ids {
		switch {
		case i == killer && (times["dead:"+id] != 1 || times[id] != 0):
			t.Errorf("the killer was handled %d times and given up %d times", times[id], times["dead:"+id])
		case i != killer && (times["dead:"+id] != 0 || times[id] == 0):
			t.Errorf("entry %d was handled %d times and given up %d times", i, times[id], times["dead:"+id])
		}
	}
}

func TestClaimEntries(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ctx := t.Context()
	keys := newRedisKeys(testStream, testGroup)
	ids := fill(t, client, 4, 1)
	takeAs(t, client, "dead", 3)
	if err := client.XDel(ctx, testStream, ids[1]).Err(); err != nil {
		t.Fatal(err)
	}
	script := redis.NewScript(claimEntries)
	claim := func(owner, idle string) ([]any, error) {
		args := []any{testGroup, "me", "token", owner, idle, ids[0], ids[1], ids[3], "9-9"}
		return script.Run(ctx, client, []string{testStream, keys.lease("me"), keys.lease(owner)}, args...).Slice()
	}
	if _, err := claim("dead", "0"); !redis.HasErrorPrefix(err, "NOLEASE") {
		t.Errorf("claimed without a lease of its own: %v", err)
	}
	client.Set(ctx, keys.lease("me"), "another", 0)
	if _, err := claim("dead", "0"); !redis.HasErrorPrefix(err, "NOLEASE") {
		t.Errorf("claimed with the lease of another: %v", err)
	}
	client.Set(ctx, keys.lease("me"), "token", 0)
	client.Set(ctx, keys.lease("dead"), "x", 0)
	if _, err := claim("dead", "0"); !redis.HasErrorPrefix(err, "LEASED") {
		t.Errorf("claimed from the living: %v", err)
	}
	client.Del(ctx, keys.lease("dead"))
	for _, test := range []struct{ owner, idle string }{{"dead", "1000000"}, {"nobody", "0"}} {
		if got, err := claim(test.owner, test.idle); err != nil || len(got) != 0 {
			t.Errorf("claimed %v from %s, idle for %s ms: %v", got, test.owner, test.idle, err)
		}
	}
	got, err := claim("dead", "0")
	if err != nil || len(got) != 2 {
		t.Fatalf("claimed %v, %v; want the one that is there and the one that was trimmed", got, err)
	}
	id, deliveries, fields, err := claimedEntry(got[0])
	if id != ids[0] || deliveries != 2 || fields[fieldData] == nil || err != nil {
		t.Errorf("claimed %s, %d deliveries, fields %v, %v", id, deliveries, fields, err)
	}
	if id, _, fields, err := claimedEntry(got[1]); id != ids[1] || fields != nil || err != nil {
		t.Errorf("claimed %s, fields %v, %v, which was trimmed", id, fields, err)
	}
	list, err := client.XPendingExt(ctx, &redis.XPendingExtArgs{
		Stream: testStream, Group: testGroup, Start: "-", End: "+", Count: 10,
	}).Result()
	if err != nil {
		t.Fatal(err)
	}
	owners := map[string]string{}
	for _, p := range list {
		owners[p.ID] = p.Consumer
	}
	if diff := cmp.Diff(map[string]string{ids[0]: "me", ids[2]: "dead"}, owners); diff != "" {
		t.Errorf("pending (-want +got):\n%s", diff)
	}
	for _, item := range []any{nil, "x", []any{}, []any{int64(1)}} {
		if _, _, _, err := claimedEntry(item); err == nil {
			t.Errorf("%v is read as an entry", item)
		}
	}
}
