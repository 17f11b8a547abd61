//go:build faults

package faults

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/event"
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
	idle      int             // connections of the server without any consumer
	killed    map[string]bool // consumers that were killed
}

func setUp(t *testing.T) *fixture {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	oracle := redistest.Start(t)
	f := &fixture{
		t: t, server: redistest.Start(t, redistest.WithAOF()), oracleURL: oracle.URL(), oracle: oracle.Client(t),
		killed: make(map[string]bool),
	}
	f.client = f.server.Client(t)
	// The fixture's own connections, one of them for pipelines, are there before any
	// consumer's are counted.
	pipe := f.client.Pipeline()
	pipe.Ping(context.Background())
	pipe.Ping(context.Background())
	if _, err := pipe.Exec(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.idle = f.connections()
	return f
}

// connections is how many clients the server has, -1 when it cannot be asked.
func (f *fixture) connections() int {
	list, err := f.client.ClientList(context.Background()).Result()
	if err != nil {
		return -1
	}
	return strings.Count(list, "\n")
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

// drained waits until the group has nothing left.
func (f *fixture) drained() {
	f.t.Helper()
	f.eventually("the group to be drained", func() bool {
		groups, err := f.client.XInfoGroups(context.Background(), stream).Result()
		return err == nil && len(groups) == 1 && groups[0].Pending == 0 && groups[0].Lag == 0
	})
}

// account checks that every entry from first on was applied or dead-lettered, that
// no live consumer ran an entry which another was running, that the entries of a key
// were applied in order, redeliveries aside, and that no connection is left.
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
	applied := len(seen)
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
	conflicts := 0
	for _, c := range f.oracle.LRange(ctx, "conflicts", 0, -1).Val() {
		if parts := strings.Fields(c); !f.killed[parts[1]] {
			conflicts++
			f.t.Logf("conflict: %s", c)
		}
	}
	f.t.Logf("%d produced, %d applied, %d dead letters, %d missing, %d run twice at once", f.produced-first, applied,
		len(letters), missing, conflicts)
	if missing != 0 || conflicts != 0 {
		f.t.Errorf("%d missing, %d run twice at once", missing, conflicts)
	}
	f.ordered()
}

// ordered checks that the numbers of a key that were applied at their first delivery
// never go back.
func (f *fixture) ordered() {
	f.t.Helper()
	for k := range keys {
		highest := -1
		for _, s := range f.oracle.LRange(context.Background(), fmt.Sprintf("first:c%d", k), 0, -1).Val() {
			n, err := strconv.Atoi(s)
			if err != nil {
				f.t.Fatal(err)
			}
			if n < highest {
				f.t.Errorf("key c%d: %d was first applied after %d", k, n, highest)
				return
			}
			highest = n
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

func TestKillTwentyTimes(t *testing.T) {
	f := setUp(t)
	f.produce(100_000)
	for i := range 20 {
		c := f.spawn(fmt.Sprintf("life-%d", i))
		target := f.applied() + 1000 + rand.IntN(2000)
		f.eventually("progress", func() bool { return f.applied() >= min(target, f.produced) })
		f.kill(c)
	}
	c := f.spawn("last")
	f.drained()
	f.stop(c)
	f.account(0)
}

func TestTwoConsumersOneKilled(t *testing.T) {
	f := setUp(t)
	f.produce(20_000)
	a, b := f.spawn("a"), f.spawn("b")
	f.eventually("progress", func() bool { return f.applied() >= 5000 })
	f.kill(a)
	begun := time.Now()
	f.produce(5000)
	f.drained()
	t.Logf("the dead consumer's entries were done %s after its death", time.Since(begun).Round(time.Millisecond))
	f.stop(b)
	// Across processes the order of a key is not promised, so only counts are checked.
	f.oracle.Del(context.Background(), keyLists()...)
	f.account(0)
}

func keyLists() []string {
	list := make([]string, keys)
	for k := range keys {
		list[k] = fmt.Sprintf("first:c%d", k)
	}
	return list
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
	}
	f.produce(5000)
	f.drained()
	stop()
	f.account(0)
}

func TestServerHangs(t *testing.T) {
	f := setUp(t)
	stop := f.inProcess(settings{name: "c"})
	f.produce(10_000)
	f.eventually("progress", func() bool { return f.applied() >= 1000 })
	f.server.Pause()
	time.Sleep(8 * time.Second)
	f.server.Resume()
	begun := time.Now()
	f.produce(5000)
	f.drained()
	t.Logf("done %s after the server went on", time.Since(begun).Round(time.Millisecond))
	stop()
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
	}
	f.produce(5000)
	f.drained()
	stop()
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
	for k := range keys {
		if n := f.oracle.LLen(context.Background(), fmt.Sprintf("applied:c%d", k)).Val(); n > 1 {
			t.Errorf("c%d was applied %d times", k, n)
		}
	}
	f.account(0)
}

func TestConnectionsCut(t *testing.T) {
	f := setUp(t)
	p := startProxy(t, f.server.Addr())
	stop := f.inProcess(settings{name: "c", server: "redis://" + p.Addr().String() + "/0"})
	for range 20 {
		f.produce(1000)
		time.Sleep(time.Duration(100+rand.IntN(200)) * time.Millisecond)
		p.cut()
	}
	f.drained()
	stop()
	f.account(0)
}

// proxy passes connections on to a server until it cuts them.
type proxy struct {
	net.Listener
	to string

	mu   sync.Mutex
	open map[net.Conn]struct{}
	wg   sync.WaitGroup
}

func startProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{Listener: ln, to: to, open: make(map[net.Conn]struct{})}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		ln.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		in, err := p.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.to)
		if err != nil {
			in.Close()
			continue
		}
		p.mu.Lock()
		p.open[in], p.open[out] = struct{}{}, struct{}{}
		p.mu.Unlock()
		for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
			p.wg.Go(func() {
				_, _ = io.Copy(pair[0], pair[1])
				in.Close()
				out.Close()
				p.mu.Lock()
				delete(p.open, in)
				delete(p.open, out)
				p.mu.Unlock()
			})
		}
	}
}

// cut resets every connection that is open now.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.Close()
	}
}
