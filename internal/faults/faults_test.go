//go:build faults

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

const (
	keys     = 100
	patience = 60 * time.Second
)

// fixture is a server to be hurt, an oracle that is not, and what was produced.
type fixture struct {
	t         *testing.T
	server    *redistest.Server
	client    *redis.Client
	oracleURL string
	oracle    *redis.Client
	produced  int
	idle      int // connections of the server without any consumer
}

// What the transport promises of time, on a machine that is not overloaded.
const (
	takenOver = 10 * time.Second // from a consumer's death until its entries run again
	noticed   = 5 * time.Second  // from when a server hangs until that is known
	resumed   = 5 * time.Second  // from when a server is back until events are applied
)

// within checks that something happened in time.
func (f *fixture) within(limit time.Duration, since time.Time, what string) {
	f.t.Helper()
	took := time.Since(since)
	f.t.Logf("%s after %s", what, took.Round(time.Millisecond))
	if took > limit {
		f.t.Errorf("%s after %s, want within %s", what, took, limit)
	}
}

// progress waits until more is applied than now, or nothing is left.
func (f *fixture) progress() {
	f.t.Helper()
	before := f.applied()
	f.eventually("progress", func() bool { return f.applied() > before || before == f.produced })
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	oracle := redistest.Start(t)
	f := &fixture{
		t: t, server: redistest.Start(t, redistest.WithAOF()), oracleURL: oracle.URL(), oracle: oracle.Client(t),
	}
	f.client = f.server.Client(t)
	f.settle()
	return f
}

// settle opens the fixture's own connections, one of them for pipelines, and counts
// them before any consumer has one.
func (f *fixture) settle() {
	f.t.Helper()
	pipe := f.client.Pipeline()
	pipe.Ping(context.Background())
	pipe.Ping(context.Background())
	if _, err := pipe.Exec(context.Background()); err != nil {
		f.t.Fatal(err)
	}
	f.idle = f.connections()
}

// connections is how many clients the server has, a primary it follows not counted,
// -1 when it cannot be asked.
func (f *fixture) connections() int {
	list, err := f.client.ClientList(context.Background()).Result()
	if err != nil {
		return -1
	}
	return strings.Count(list, "\n") - strings.Count(list, " flags=M ")
}

// entry is the n-th numbered entry.
func entry(n int) string {
	ts := 1.7e9 + float64(n)/1e3
	return fmt.Sprintf(`{"ts": %f, "key": "c%d", "meta": {"schema_id": "telemetry.FeedbackEvent"}, "payload": `+
		`{"coordinator_id": "c%d", "queue_size": %d, "capacity": 1, "level": "ok", "ts": %f}}`, ts, n%keys, n%keys, n, ts)
}

// produce writes the next n entries, trying until each batch is written: a batch
// that was written although its answer was lost is written twice, as a producer
// would.
func (f *fixture) produce(n int) {
	f.t.Helper()
	const batch = 500
	for until := f.produced + n; f.produced < until; {
		count := min(batch, until-f.produced)
		deadline := time.Now().Add(patience)
		for {
			pipe := f.client.Pipeline()
			for i := range count {
				pipe.XAdd(context.Background(), &redis.XAddArgs{Stream: stream, Values: []string{"data", entry(f.produced + i)}})
			}
			_, err := pipe.Exec(context.Background())
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				f.t.Fatalf("produce: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		f.produced += count
	}
}

func (f *fixture) applied() int { return int(f.oracle.SCard(context.Background(), "applied").Val()) }

func (f *fixture) eventually(what string, holds func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			info, err := f.client.XInfoGroups(context.Background(), stream).Result()
			f.t.Fatalf("waited for %s: %d of %d applied, groups %+v (%v)", what, f.applied(), f.produced, info, err)
		}
	}
}

// drained waits until the group has nothing left. It goes by IDs: Redis 6.2 counts no
// lag.
func (f *fixture) drained() {
	f.t.Helper()
	ctx := context.Background()
	f.eventually("the group to be drained", func() bool {
		groups, err := f.client.XInfoGroups(ctx, stream).Result()
		if err != nil || len(groups) != 1 || groups[0].Pending != 0 {
			return false
		}
		info, err := f.client.XInfoStream(ctx, stream).Result()
		return err == nil && groups[0].LastDeliveredID == info.LastGeneratedID
	})
}

// account checks that every entry from first on was applied or dead-lettered, that
// no consumer ran an entry which another was running, and that no connection is left.
func (f *fixture) account(first int) {
	f.t.Helper()
	f.eventually("the consumers' connections to be closed", func() bool { return f.connections() == f.idle })
	ctx := context.Background()
	seen := make(map[int]bool)
	for _, s := range f.oracle.SMembers(ctx, "applied").Val() {
		n, err := strconv.Atoi(s)
		if err != nil {
			f.t.Fatal(err)
		}
		seen[n] = true
	}
	applied, runs := len(seen), 0
	for k := range keys {
		runs += int(f.oracle.LLen(ctx, fmt.Sprintf("applied:c%d", k)).Val())
	}
	letters, err := f.client.XRange(ctx, deadLetter, "-", "+").Result()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, l := range letters {
		data, _ := l.Values["data"].(string)
		fb, err := event.Decoder{}.Decode("1-0", []byte(data)).Feedback()
		if err != nil {
			f.t.Fatal(err)
		}
		seen[int(fb.QueueSize)] = true
	}
	missing := 0
	for n := first; n < f.produced; n++ {
		if !seen[n] {
			missing++
		}
	}
	conflicts := f.oracle.LRange(ctx, "conflicts", 0, -1).Val()
	f.t.Logf("%d produced, %d applied, %d of them again, %d dead letters, %d missing, %d run twice at once",
		f.produced-first, applied, runs-applied, len(letters), missing, len(conflicts))
	if missing != 0 || len(conflicts) != 0 || len(letters) != 0 {
		f.t.Errorf("%d missing, %d dead letters, run twice at once: %v", missing, len(letters), conflicts)
	}
}

// ordered checks that the entries of a key were applied in order, whether it was at
// their first delivery or at a later one. What was applied before and is once more
// does not count. It holds where one consumer runs at a time.
func (f *fixture) ordered() {
	f.t.Helper()
	for k := range keys {
		highest, seen := -1, map[int]bool{}
		for _, s := range f.oracle.LRange(context.Background(), fmt.Sprintf("applied:c%d", k), 0, -1).Val() {
			n, err := strconv.Atoi(s)
			if err != nil {
				f.t.Fatal(err)
			}
			if n < highest && !seen[n] {
				f.t.Errorf("key c%d: %d was first applied after %d", k, n, highest)
				return
			}
			seen[n] = true
			highest = max(highest, n)
		}
	}
}

// inProcess runs a consumer in this process until the returned function is called.
func (f *fixture) inProcess(s settings) (stop func()) {
	f.t.Helper()
	if s.server == "" {
		s.server = f.server.URL()
	}
	s.oracle = f.oracleURL
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- consume(ctx, s) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				f.t.Errorf("%s: %v", s.name, err)
			}
		})
	}
	f.t.Cleanup(stop)
	return stop
}

// produceAndSee produces n entries and waits until one of them was applied.
func (f *fixture) produceAndSee(n int) {
	f.t.Helper()
	first := f.produced
	f.produce(n)
	f.eventually("progress", func() bool {
		return f.oracle.SIsMember(context.Background(), "applied", first).Val()
	})
}

func TestKillTwentyTimes(t *testing.T) {
	f := setUp(t)
	f.produce(100_000)
	var slowest time.Duration
	for i := range 20 {
		begun := time.Now()
		c := f.spawn(fmt.Sprintf("life-%d", i))
		f.progress()
		slowest = max(slowest, time.Since(begun))
		target := f.applied() + 1000 + rand.IntN(2000)
		f.eventually("progress", func() bool { return f.applied() >= min(target, f.produced) })
		f.kill(c)
	}
	t.Logf("what a dead process left ran again within %s", slowest.Round(time.Millisecond))
	if slowest > takenOver {
		t.Errorf("what a dead process left ran again after %s, want within %s", slowest, takenOver)
	}
	c := f.spawn("last")
	f.drained()
	f.stop(c)
	f.ordered()
	f.account(0)
}

func TestTwoConsumersOneKilled(t *testing.T) {
	f := setUp(t)
	a, b := f.spawn("a"), f.spawn("b")
	f.eventually("both to work", func() bool {
		f.produce(500)
		n := f.oracle.MGet(context.Background(), "by:a", "by:b").Val()
		return n[0] != nil && n[1] != nil && f.applied() >= 5000
	})
	f.produce(10_000)
	f.progress()
	f.kill(a)
	killed := time.Now()
	f.produce(5000)
	f.drained()
	f.within(takenOver, killed, "all that the dead consumer had was done")
	f.stop(b)
	f.account(0)
}

// One consumer of two is shut down while its handlers take longer than a lease and
// max_idle: what they hold stays theirs, and the rest goes to the other.
func TestOneOfTwoIsShutDown(t *testing.T) {
	f := setUp(t)
	// So few in flight leave something for b.
	slow := settings{slow: 3 * time.Second, maxIdle: time.Second, maxInFlight: 64}
	slow.name = "a"
	f.produce(200)
	stopA := f.inProcess(slow)
	f.eventually("a to work", func() bool { return f.oracle.HLen(context.Background(), "running").Val() > 0 })
	slow.name = "b"
	stopB := f.inProcess(slow)
	f.eventually("b to work", func() bool {
		for _, who := range f.oracle.HGetAll(context.Background(), "running").Val() {
			if who == "b" {
				return true
			}
		}
		return false
	})
	stopA()
	f.drained()
	stopB()
	f.once()
	f.account(0)
}

// once checks that no entry was applied again.
func (f *fixture) once() {
	f.t.Helper()
	for k := range keys {
		seen := map[string]bool{}
		for _, n := range f.oracle.LRange(context.Background(), fmt.Sprintf("applied:c%d", k), 0, -1).Val() {
			if seen[n] {
				f.t.Errorf("entry %s was applied again", n)
			}
			seen[n] = true
		}
	}
}

func TestServerRestart(t *testing.T) {
	f := setUp(t)
	stop := f.inProcess(settings{name: "c"})
	for range 3 {
		f.produce(5000)
		f.eventually("progress", func() bool { return f.applied() >= f.produced-4000 })
		f.server.Kill()
		time.Sleep(300 * time.Millisecond)
		f.server.Restart()
		back := time.Now()
		f.produceAndSee(1000)
		f.within(resumed, back, "events were applied again")
	}
	f.produce(5000)
	f.drained()
	stop()
	f.ordered()
	f.account(0)
}

// A server that stops to answer is noticed by a consumer that is idle, and by one that
// works.
func TestServerHangs(t *testing.T) {
	f := setUp(t)
	var transport atomic.Pointer[bus.Redis]
	stop := f.inProcess(settings{name: "c", up: &transport})
	for _, n := range []int{1000, 10_000} {
		f.produce(n)
		f.eventually("progress", func() bool { return f.applied() >= f.produced-9000 })
		if n == 1000 {
			f.drained()
		}
		f.server.Pause()
		hung := time.Now()
		f.eventually("it to be noticed", func() bool { return transport.Load().Up() != nil })
		f.within(noticed, hung, "the hanging server was noticed")
		time.Sleep(4 * time.Second)
		f.server.Resume()
		back := time.Now()
		f.produceAndSee(1000)
		f.within(resumed, back, "events were applied again")
		f.eventually("it to be well", func() bool { return transport.Load().Up() == nil })
	}
	f.drained()
	stop()
	f.ordered()
	f.account(0)
}

// The primary dies, its address leads to a replica that still refuses writes, and that
// is then promoted.
func TestFailover(t *testing.T) {
	f := setUp(t)
	ctx := context.Background()
	replica := redistest.Start(t)
	second := replica.Client(t)
	host, port, err := net.SplitHostPort(f.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Do(ctx, "REPLICAOF", host, port).Err(); err != nil {
		t.Fatal(err)
	}
	f.eventually("the replica to follow", func() bool {
		return strings.Contains(second.Info(ctx, "replication").Val(), "master_link_status:up")
	})
	proxy := f.server.Proxy(t)
	stop := f.inProcess(settings{name: "c", server: proxy.URL()})
	f.produce(10_000)
	f.eventually("progress", func() bool { return f.applied() >= 2000 })
	// What was produced has reached the replica; acknowledgements of the last moment may not have.
	if n, err := f.client.Do(ctx, "WAIT", 1, 10_000).Int(); n != 1 || err != nil {
		t.Fatalf("%d replicas have everything, %v", n, err)
	}
	f.server.Kill()
	f.server, f.client = replica, second
	f.settle()
	proxy.SwitchTo(replica)
	time.Sleep(time.Second)
	if err := second.Do(ctx, "REPLICAOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	f.produceAndSee(5000)
	f.within(resumed, promoted, "events were applied again")
	f.drained()
	stop()
	f.ordered()
	f.account(0)
}

func TestFlushAll(t *testing.T) {
	f := setUp(t)
	stop := f.inProcess(settings{name: "c"})
	f.produce(10_000)
	f.eventually("progress", func() bool { return f.applied() >= 2000 })
	if err := f.client.FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
	first := f.produced // what was flushed is gone
	f.produce(10_000)
	f.eventually("all since", func() bool { return f.oracle.SIsMember(context.Background(), "applied", f.produced-1).Val() })
	f.drained()
	stop()
	f.ordered()
	f.account(first)
}

func TestGroupDestroyed(t *testing.T) {
	f := setUp(t)
	stop := f.inProcess(settings{name: "c"})
	for range 5 {
		f.produce(5000)
		f.eventually("progress", func() bool { return f.applied() >= f.produced-4500 })
		if err := f.client.XGroupDestroy(context.Background(), stream, group).Err(); err != nil {
			t.Fatal(err)
		}
		destroyed := time.Now()
		f.eventually("the group", func() bool {
			groups, err := f.client.XInfoGroups(context.Background(), stream).Result()
			return err == nil && len(groups) == 1
		})
		f.within(2*time.Second, destroyed, "the group was made again")
	}
	f.produce(5000)
	f.drained()
	stop()
	f.ordered()
	f.account(0)
}

// A handler that takes three times max_idle keeps its entries, although another
// consumer of the group is looking for some to take over.
func TestSlowHandler(t *testing.T) {
	f := setUp(t)
	slow := settings{slow: 3 * time.Second, maxIdle: time.Second}
	slow.name = "a"
	stopA := f.inProcess(slow)
	slow.name = "b"
	stopB := f.inProcess(slow)
	f.produce(100)
	f.eventually("all to be applied", func() bool { return f.applied() == f.produced })
	f.drained()
	stopA()
	stopB()
	f.once()
	f.account(0)
}

func TestConnectionsCut(t *testing.T) {
	f := setUp(t)
	p := f.server.Proxy(t)
	stop := f.inProcess(settings{name: "c", server: p.URL()})
	for range 20 {
		f.produce(1000)
		time.Sleep(time.Duration(100+rand.IntN(200)) * time.Millisecond)
		p.Cut()
	}
	f.drained()
	stop()
	f.ordered()
	f.account(0)
}
