package bus

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// drained is a consumer that is being drained while one of its handlers does not end, and another consumer of its group
// that stays. The handler ends when finish is closed.
type drained struct {
	client *redis.Client
	ids    []string
	held   string // the entry that is being handled
	finish chan struct{}
	ended  chan struct{} // closed when the subscription has ended
	sub    *subscription // the one that is drained
	seen   *tally        // of the other consumer
}

// drain drains a consumer that holds one of n entries of one key.
func drain(t *testing.T, n int, change ...func(*RedisConfig)) *drained {
	t.Helper()
	srv := redistest.Start(t)
	d := &drained{client: srv.Client(t), finish: make(chan struct{}), ended: make(chan struct{}), seen: newTally()}
	d.ids = fill(t, d.client, n, 1)
	leaving := newRig(t, srv.URL(), change...)
	started := make(chan string, n)
	end := leaving.subscribe(t, StartOldest, 8, func(msg *message.Message) bool {
		started <- event.FromContext(msg.Context()).EntryID
		<-d.finish // whatever becomes of its context
		return true
	})
	d.held = <-started
	other := newRig(t, srv.URL(), append(change, func(c *RedisConfig) { c.Consumer = "other" })...)
	other.subscribe(t, StartOldest, 8, d.seen.handle(nil))
	until(t, "the other attaches", func() bool { return other.Up() == nil })
	sub, err := leaving.subscription()
	if err != nil {
		t.Fatal(err)
	}
	d.sub = sub
	go end()
	go func() {
		defer close(d.ended)
		<-sub.done
	}()
	return d
}

// subscription returns the one subscription of a rig.
func (r *rig) subscription() (*subscription, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s := range r.subs {
		return s, nil
	}
	return nil, ErrClosed
}

// A handler may take longer than a lease while its subscription drains; its entry stays its own.
func TestRedisDrainKeepsItsLease(t *testing.T) {
	t.Parallel()
	d := drain(t, 5, func(c *RedisConfig) { c.Lease, c.DrainTimeout = 300*time.Millisecond, soon })
	select {
	case <-d.ended:
		t.Fatal("the drain did not wait for the handler")
	case <-time.After(1500 * time.Millisecond): // five leases
	}
	if n := d.seen.distinct(); n != 0 {
		t.Errorf("another consumer ran %d entries of one that drains", n)
	}
	close(d.finish)
	<-d.ended
	until(t, "the rest is handled", func() bool { return d.seen.distinct() == 4 && pending(t, d.client) == 0 })
	if len(d.seen.of(d.held)) != 0 {
		t.Error("the entry ran twice")
	}
}

// Redis may have set the lease so late that it should have expired by the time its answer comes. It has not, and a drain
// renews it.
func TestRedisDrainRenewsALeaseThatWasAnsweredLate(t *testing.T) {
	t.Parallel()
	d := drain(t, 5, func(c *RedisConfig) { c.Lease, c.DrainTimeout = time.Second, soon })
	<-d.sub.live.Done()
	time.Sleep(100 * time.Millisecond) // the keeper has ended
	d.sub.who.mu.Lock()
	d.sub.who.until = time.Now()
	d.sub.who.mu.Unlock()
	time.Sleep(2500 * time.Millisecond)
	if n := d.seen.distinct(); n != 0 {
		t.Errorf("another consumer ran %d entries of one that drains", n)
	}
	close(d.finish)
	<-d.ended
}

// What a handler still holds when the drain has taken too long is not given back: it keeps its delivery, and runs
// elsewhere only once the lease of the consumer has run out.
func TestRedisDrainTimeoutLeavesWhatIsHeld(t *testing.T) {
	t.Parallel()
	const lease = 3 * time.Second
	d := drain(t, 5, func(c *RedisConfig) { c.Lease, c.DrainTimeout = lease, 50*time.Millisecond })
	<-d.ended
	ended := time.Now()
	want := map[string]int64{d.held: 1}
	for _, id := range d.ids {
		if id != d.held {
			want[id] = 0
		}
	}
	if diff := cmp.Diff(want, pendingCounts(t, d.client)); diff != "" {
		t.Errorf("deliveries of what is pending (-want +got):\n%s", diff)
	}
	until(t, "the entry runs elsewhere", func() bool { return len(d.seen.of(d.held)) == 1 })
	if took := time.Since(ended); took < lease/2 {
		t.Errorf("the entry ran elsewhere %v after the drain, while its handler was at it", took)
	}
	close(d.finish)
	until(t, "all are handled", func() bool { return d.seen.distinct() == 5 && pending(t, d.client) == 0 })
}

// A handler that ends once its context is cancelled has let go of its entry.
func TestRedisDrainTimeoutAwaitsTheAnswer(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	fill(t, client, 3, 1)
	r := newRig(t, srv.URL(), func(c *RedisConfig) { c.DrainTimeout = 50 * time.Millisecond })
	started := make(chan struct{}, 3)
	end := r.subscribe(t, StartOldest, 8, func(msg *message.Message) bool {
		started <- struct{}{}
		<-msg.Context().Done()
		return false
	})
	<-started
	end()
	for id, n := range pendingCounts(t, client) {
		if n != 0 {
			t.Errorf("entry %s has %d deliveries, want 0", id, n)
		}
	}
	if n := client.Exists(t.Context(), newRedisKeys(testStream, testGroup).lease("worker")).Val(); n != 0 {
		t.Error("the lease was not released")
	}
}

// An entry of a dead consumer runs in the lane of its key: not beside another entry of that.
func TestRedisSuspectsKeepToTheirLane(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	old := fill(t, client, 3, 1)
	takeAs(t, client, "dead", 3)
	enrol(t, client, "dead")
	lease := newRedisKeys(testStream, testGroup).lease("dead")
	if err := client.Set(t.Context(), lease, "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r, seen := newRig(t, srv.URL()), newTally()
	var active atomic.Int32
	holding, finish := make(chan struct{}, 20), make(chan struct{})
	r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		if active.Add(1) > 1 {
			t.Error("two entries of one key at the same time")
		}
		defer active.Add(-1)
		holding <- struct{}{}
		<-finish
		return true
	}))
	fill(t, client, 1, 1)
	<-holding // one of the same key is being handled
	if err := client.Del(t.Context(), lease).Err(); err != nil {
		t.Fatal(err)
	}
	until(t, "the dead one's are claimed", func() bool {
		return client.XPendingExt(context.Background(), &redis.XPendingExtArgs{
			Stream: testStream, Group: testGroup, Consumer: "worker", Start: "-", End: "+", Count: 10,
		}).Val()[0].ID == old[0]
	})
	time.Sleep(50 * time.Millisecond)
	close(finish)
	until(t, "all are handled", func() bool { return seen.distinct() == 4 && pending(t, client) == 0 })
}

// A process that was killed and started again within its lease waits for its own name, and runs what it left first.
func TestRedisWaitsForItsOwnName(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 20, 1)
	takeAs(t, client, "worker", 10)
	enrol(t, client, "worker")
	lease := newRedisKeys(testStream, testGroup).lease("worker")
	if err := client.Set(t.Context(), lease, "of the last life", time.Second).Err(); err != nil {
		t.Fatal(err)
	}
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "all are handled", func() bool { return seen.distinct() == 20 && pending(t, client) == 0 })
	if diff := cmp.Diff(ids, seen.order["c0"]); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	if got := r.log.lines("using another"); got != 0 {
		t.Error("it took another name")
	}
	if got := r.log.lines("waiting for a consumer name"); got != 1 {
		t.Errorf("%d lines say what it waits for, want 1", got)
	}
}

// A claim that was executed, but whose answer was lost, does not count against the entry.
func TestRedisClaimsWithoutAnswerDoNotCount(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 1, 1)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "it is handled", func() bool { return seen.distinct() == 1 && pending(t, client) == 0 })
	sub, err := r.subscription()
	if err != nil {
		t.Fatal(err)
	}
	giveTo(t, client, "lost", ids[0], 4)
	p := &pass{recovery: newRecovery(sub), owner: owner{name: "lost"}}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.takeOne(gone, ids[0], 4); err == nil {
		t.Fatal("claimed without a context")
	}
	// As if the script had run all the same.
	if err := client.XClaimJustID(t.Context(), &redis.XClaimArgs{
		Stream: testStream, Group: testGroup, Consumer: "worker", Messages: []string{ids[0]},
	}).Err(); err != nil {
		t.Fatal(err)
	}
	setDeliveries(t, client, "worker", ids[0], 5)
	p.owner = owner{name: "worker"}
	events, err := p.takeOne(t.Context(), ids[0], 5)
	if err != nil || len(events) != 1 {
		t.Fatalf("claimed %v, %v", events, err)
	}
	if e := events[0].event; e.Deliveries != 5 || e.Err != nil {
		t.Errorf("%d deliveries, %v; want 5, none", e.Deliveries, e.Err)
	}
	if len(p.unsure) != 0 {
		t.Errorf("unsure of %v", p.unsure)
	}
}

// An entry that is run again by one pass, while another waits for its turn with it, is claimed and counted once.
func TestRedisClaimsASuspectOnce(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	ids := fill(t, client, 3, 3)
	takeAs(t, client, "worker", len(ids))
	for _, id := range ids { // pending for long, so that the keeper looks for them beside the reader
		err := client.Do(t.Context(), "XCLAIM", testStream, testGroup, "worker", 0, id, "IDLE", 60_000, "JUSTID").Err()
		if err != nil {
			t.Fatal(err)
		}
	}
	r, seen := newRig(t, srv.URL(), func(c *RedisConfig) { c.MaxIdle = 700 * time.Millisecond }), newTally()
	hang := make(chan struct{})
	r.subscribe(t, StartOldest, 8, seen.handle(func(*event.Event) bool {
		<-hang
		return true
	}))
	sub, err := r.subscription()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "both have been through", func() bool {
		return r.log.lines("takes long to run again") == len(ids) && len(sub.owning) == 0 && len(sub.recovery.turn) == 0
	})
	for id, n := range pendingCounts(t, client) {
		if n != 2 {
			t.Errorf("entry %s has %d deliveries, want 2", id, n)
		}
	}
	close(hang)
	until(t, "all are handled", func() bool { return seen.distinct() == len(ids) && pending(t, client) == 0 })
}

// A server that hangs holds a drain up for no longer than one call that has begun, and the last words.
func TestRedisDrainsWhileTheServerHangs(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	fill(t, srv.Client(t), 1, 1)
	r := newRig(t, srv.URL(), func(c *RedisConfig) { c.DrainTimeout = 50 * time.Millisecond })
	started, finish := make(chan struct{}), make(chan struct{})
	end := r.subscribe(t, StartOldest, 1, func(*message.Message) bool {
		close(started)
		<-finish
		return true
	})
	<-started
	srv.Pause()
	defer srv.Resume()
	close(finish)
	// The acknowledgement is given up, and would be tried again, before what the others have begun.
	time.Sleep(callTimeout - time.Second)
	began := time.Now()
	end()
	if took := time.Since(began); took > callTimeout+finalTimeout+500*time.Millisecond {
		t.Errorf("drained after %v", took)
	} else {
		t.Logf("drained after %v", took)
	}
}
