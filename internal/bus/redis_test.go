package bus

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

const (
	testStream = "mdp:mdp.telemetry.feedback"
	testGroup  = "pipeline"
)

// soon is how long a test waits for what must happen. It is far beyond what that takes, so it decides nothing but when
// a test that fails gives up.
const soon = 30 * time.Second

// rig is a transport under test, with what it logs and counts.
type rig struct {
	*Redis
	log   *logbook
	count *counts
}

// newRig returns a transport with short time limits, closed when the test ends.
func newRig(t testing.TB, url string, change ...func(*RedisConfig)) *rig {
	t.Helper()
	r := &rig{log: &logbook{}, count: &counts{}}
	cfg := RedisConfig{
		URL: url, Consumer: "worker", Lanes: 8,
		Block: 100 * time.Millisecond, Lease: time.Second, MaxIdle: 2 * time.Second,
		DrainTimeout: 2 * time.Second,
		Logger:       slog.New(slog.NewJSONHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Observer:     r.count,
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if r.Redis, err = NewRedis(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
		if t.Failed() {
			t.Logf("log of %s:\n%s", cfg.Consumer, r.log)
		}
	})
	return r
}

// subscribe starts a consumer that handles each message with handle, and acknowledges it when that is true. The
// returned function ends it and waits.
func (r *rig) subscribe(t testing.TB, start string, lanes int, handle func(*message.Message) bool) (end func()) {
	t.Helper()
	sub, err := r.Subscriber(testStream, testGroup, start, lanes)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := sub.Subscribe(context.Background(), "telemetry.feedback")
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for msg := range messages {
			handlers.Go(func() {
				if handle(msg) {
					msg.Ack()
				} else {
					msg.Nack()
				}
			})
		}
	})
	var once sync.Once
	end = func() {
		once.Do(func() {
			if err := sub.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			handlers.Wait()
		})
	}
	t.Cleanup(end)
	return end
}

// logbook keeps log lines.
type logbook struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lines returns how many lines contain text.
func (l *logbook) lines(text string) int {
	n := 0
	for line := range strings.Lines(l.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// counts is an observer that adds up.
type counts struct {
	mu                                             sync.Mutex
	read, settled, ackFailed, reclaimed, trimmed   int
	inFlight, mostInFlight, largestBatch, readings int
}

var _ RedisObserver = (*counts)(nil)

func (c *counts) Read(_, _ string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read, c.largestBatch, c.readings = c.read+n, max(c.largestBatch, n), c.readings+1
}

func (c *counts) InFlight(_, _ string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight, c.mostInFlight = n, max(c.mostInFlight, n)
}

func (c *counts) Settled(string, string, time.Duration) { c.add(&c.settled, 1) }
func (c *counts) AckFailed(_, _ string, n int)          { c.add(&c.ackFailed, n) }
func (c *counts) Reclaimed(_, _ string, n int)          { c.add(&c.reclaimed, n) }
func (c *counts) Trimmed(_, _ string, n int)            { c.add(&c.trimmed, n) }

func (c *counts) add(to *int, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*to += n
}

func (c *counts) get(from *int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *from
}

// tally counts how often each event was handled, and what was seen of it.
type tally struct {
	mu     sync.Mutex
	events map[string][]*event.Event // by entry ID
	active map[string]int            // being handled now
	twice  []string                  // handled twice at the same time
	order  map[string][]string       // entry IDs by key, in the order they were handled
	most   int                       // handled at the same time
	total  int
}

func newTally() *tally {
	return &tally{events: map[string][]*event.Event{}, active: map[string]int{}, order: map[string][]string{}}
}

// handle notes that a message is handled by do; nil does nothing.
func (c *tally) handle(do func(*event.Event) bool) func(*message.Message) bool {
	return func(msg *message.Message) bool {
		e := event.FromContext(msg.Context())
		c.enter(e)
		defer c.leave(e)
		return do == nil || do(e)
	}
}

func (c *tally) enter(e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active[e.EntryID]++
	if c.active[e.EntryID] > 1 {
		c.twice = append(c.twice, e.EntryID)
	}
	c.most = max(c.most, len(c.active))
}

func (c *tally) leave(e *event.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active[e.EntryID]--
	if c.active[e.EntryID] == 0 {
		delete(c.active, e.EntryID)
	}
	c.events[e.EntryID] = append(c.events[e.EntryID], e)
	c.order[e.Key] = append(c.order[e.Key], e.EntryID)
	c.total++
}

// distinct returns how many different entries were handled.
func (c *tally) distinct() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.events)
}

// of returns the events handled for an entry.
func (c *tally) of(id string) []*event.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.events[id]
}

// feedbackEntry returns a canonical entry's data.
func feedbackEntry(t testing.TB, key string, n int) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{
		"ts": 1764000000.5, "key": key,
		"meta": map[string]any{"schema_id": event.SchemaFeedback, "track": "v1", "headers": map[string]string{}},
		"payload": map[string]any{
			"coordinator_id": key, "queue_size": n, "capacity": 1000, "level": "ok", "source": "store", "ts": 1764000000.5,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fill adds n entries of some keys to the test stream and returns their IDs.
func fill(t testing.TB, client *redis.Client, n, keys int) []string {
	t.Helper()
	ids := make([]string, 0, n)
	for len(ids) < n {
		cmds, err := client.Pipelined(context.Background(), func(p redis.Pipeliner) error {
			for i := range min(500, n-len(ids)) {
				seq := len(ids) + i
				p.XAdd(context.Background(), &redis.XAddArgs{
					Stream: testStream,
					Values: []any{fieldData, feedbackEntry(t, fmt.Sprintf("c%d", seq%keys), seq)},
				})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, cmd := range cmds {
			ids = append(ids, cmd.(*redis.StringCmd).Val())
		}
	}
	return ids
}

// until waits until ok is true.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(soon)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// pending returns how many entries the group has pending, -1 when there is no group.
func pending(t testing.TB, client *redis.Client) int {
	t.Helper()
	p, err := client.XPending(context.Background(), testStream, testGroup).Result()
	if err != nil {
		if isNoGroup(err) {
			return -1
		}
		t.Fatal(err)
	}
	return int(p.Count)
}

func TestRedisReadsAndAcknowledges(t *testing.T) {
	t.Parallel()
	srv := redistest.Start(t)
	client := srv.Client(t)
	const n = 5000
	ids := fill(t, client, n, 50)
	r, seen := newRig(t, srv.URL()), newTally()
	r.subscribe(t, StartOldest, 8, seen.handle(nil))
	until(t, "all are handled", func() bool { return seen.distinct() == n })
	until(t, "all are acknowledged", func() bool { return pending(t, client) == 0 })
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if seen.total != n || len(seen.twice) > 0 {
		t.Errorf("%d handled, %d of them twice at a time; want %d, 0", seen.total, len(seen.twice), n)
	}
	for key, order := range seen.order {
		for i := 1; i < len(order); i++ {
			a, _ := parseStreamID(order[i-1])
			b, _ := parseStreamID(order[i])
			if !a.less(b) {
				t.Fatalf("key %s: %s was handled before %s", key, order[i-1], order[i])
			}
		}
	}
	if e := seen.events[ids[7]][0]; e.Deliveries != 1 || e.Err != nil || e.Key != "c7" {
		t.Errorf("event has deliveries %d, key %q, err %v", e.Deliveries, e.Key, e.Err)
	}
	until(t, "all are counted", func() bool { return r.count.get(&r.count.settled) == n })
	if got := r.count.get(&r.count.largestBatch); got > 500 {
		t.Errorf("a read brought %d entries", got)
	}
}
