package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
)

// Defaults of RedisConfig.
const (
	DefaultRedisBatch       = 500
	DefaultRedisMaxInFlight = 4096
	DefaultAckEvery         = 5 * time.Millisecond
	DefaultAckBatch         = 500
	DefaultBlock            = 2 * time.Second
	DefaultLease            = 5 * time.Second
	DefaultMaxIdle          = 30 * time.Second
	DefaultMaxDeliveries    = 5
	DefaultDeadLetterMaxLen = 1_000_000
)

// Values of RedisConfig.Trim.
const (
	TrimNone  = "none"  // source streams are never trimmed
	TrimAcked = "acked" // entries that every group of the stream has acknowledged are deleted
)

// RedisConfig sets up a Redis transport. URL is required; for everything else the zero value means the default.
type RedisConfig struct {
	// URL of the server: redis://, rediss:// (TLS) or unix://, with user, password and database number. Query parameters
	// are those of go-redis (pool_size=…); time limits and retries are the transport's own.
	URL string
	// TLS has the certificates of a rediss:// connection.
	TLS RedisTLS

	// Consumer is this process's consumer name. When it is taken by a live process, "-2", "-3", … is appended. Empty
	// means the host name and a slot: "host-1", "host-2", ….
	Consumer string
	// Batch is how many entries one read asks for at most. Default 500.
	Batch int
	// MaxInFlight is how many entries of a subscription may be taken and not yet acknowledged to Redis. It bounds memory,
	// and how many entries run again after a crash. Default 4096.
	MaxInFlight int
	// AckEvery is the longest an acknowledgement waits for others to be sent with. Default 5ms.
	AckEvery time.Duration
	// AckBatch is how many acknowledgements are sent without waiting, and the most in one command. Default 500.
	AckBatch int
	// Block is how long one read waits for entries, in whole milliseconds. A server that hangs is noticed within Block
	// and two seconds. Default 2s.
	Block time.Duration
	// Lease is how long a consumer counts as alive after it was last heard of. The entries of a dead one run again within
	// Lease and three seconds. A process that is paused, or cut off from Redis, for longer than its lease may therefore
	// see its entries run elsewhere too. At least 100ms. Default 5s.
	Lease time.Duration
	// MaxIdle is how long an entry must have been pending untouched before it is taken from a consumer that keeps no
	// lease, that is, of another program. Entries that are still being handled are touched every third of it. It is also
	// the longest that one entry of a dead consumer, which are run again one at a time, keeps the others waiting. Default
	// 30s.
	MaxIdle time.Duration
	// MaxDeliveries is how often an entry may be delivered. One that is delivered again, because its consumer died with
	// it each time, has a *DeliveriesError and is not to be run. Negative means no limit. Default 5.
	MaxDeliveries int

	// MaxLen is about how many entries a published stream keeps. Zero or less means all.
	MaxLen int64
	// DeadLetterMaxLen is about how many entries each stream named to RetainDeadLetters keeps. Negative means all.
	// Default 1,000,000.
	DeadLetterMaxLen int64
	// Trim is TrimNone or TrimAcked. Default TrimNone.
	Trim string

	// Lanes is how many events of a subscription are handled at once, when the subscriber does not say. Default 16 for
	// each CPU the process may use (GOMAXPROCS), and at least 128.
	Lanes int
	// MaxEventSize is the largest event, in bytes, that is decoded; a larger one is delivered with an error in its Event.
	// Default event.DefaultMaxSize.
	MaxEventSize int64
	// DrainTimeout is how long a subscription that ends waits for the events the router holds. Default 8s.
	DrainTimeout time.Duration

	// BeforeAck is called before a subscription acknowledges entries to Redis, with its stream and group. They are
	// acknowledged when it returns nil; after an error it is called again. What handlers leave to be written somewhere
	// is made safe here, for many entries at once. Default none.
	BeforeAck func(ctx context.Context, stream, group string) error

	// Logger is told what changes: one line when Redis is lost and one when it is back, not one an attempt. Default none.
	Logger *slog.Logger
	// Observer is told what is done, for metrics. Default none.
	Observer RedisObserver

	// The backoff of redelivery, for tests. Zero means the usual one.
	redeliverFirst, redeliverMost time.Duration
}

// withDefaults returns c with every default filled in.
func (c RedisConfig) withDefaults() RedisConfig {
	c.Batch = cmp.Or(c.Batch, DefaultRedisBatch)
	c.MaxInFlight = cmp.Or(c.MaxInFlight, DefaultRedisMaxInFlight)
	c.AckEvery = cmp.Or(c.AckEvery, DefaultAckEvery)
	c.AckBatch = cmp.Or(c.AckBatch, DefaultAckBatch)
	c.Block = cmp.Or(c.Block, DefaultBlock)
	c.Lease = cmp.Or(c.Lease, DefaultLease)
	c.MaxIdle = cmp.Or(c.MaxIdle, DefaultMaxIdle)
	c.MaxDeliveries = cmp.Or(c.MaxDeliveries, DefaultMaxDeliveries)
	c.DeadLetterMaxLen = cmp.Or(c.DeadLetterMaxLen, DefaultDeadLetterMaxLen)
	c.Trim = cmp.Or(c.Trim, TrimNone)
	c.Lanes = cmp.Or(c.Lanes, defaultLanes())
	c.MaxEventSize = cmp.Or(c.MaxEventSize, event.DefaultMaxSize)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, DefaultDrainTimeout)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.Observer == nil {
		c.Observer = noObserver{}
	}
	return c
}

// Validate reports every setting that is out of range.
func (c RedisConfig) Validate() error {
	c = c.withDefaults()
	var errs []error
	least := func(name string, value, bound int64, text string) {
		if value < bound {
			errs = append(errs, fmt.Errorf("%s: must be at least %s", name, text))
		}
	}
	least("batch", int64(c.Batch), 1, "1")
	least("max in flight", int64(c.MaxInFlight), 1, "1")
	least("ack batch", int64(c.AckBatch), 1, "1")
	least("ack every", int64(c.AckEvery), 1, "1ns")
	least("block", int64(c.Block), int64(time.Millisecond), "1ms")
	least("lease", int64(c.Lease), int64(100*time.Millisecond), "100ms")
	least("max idle", int64(c.MaxIdle), int64(100*time.Millisecond), "100ms")
	least("lanes", int64(c.Lanes), 1, "1")
	least("max event size", c.MaxEventSize, 1, "1")
	least("drain timeout", int64(c.DrainTimeout), 1, "1ns")
	if c.Trim != TrimNone && c.Trim != TrimAcked {
		errs = append(errs, fmt.Errorf("trim: must be %s or %s", TrimNone, TrimAcked))
	}
	return errors.Join(errs...)
}

// Redis is a bus over Redis Streams, 6.2 or later: at-least-once delivery to consumer groups, each event to one
// consumer, acknowledged after it was handled. It needs no Redis to start; whatever it does begins when Redis is there.
type Redis struct {
	cfg      RedisConfig
	log      *slog.Logger
	client   redis.UniversalClient // everything but reads that block
	dial     func(reads bool) redis.UniversalClient
	publish  *redisPublisher
	probeRun chan struct{} // one token: one probe at a time

	mu     sync.Mutex
	subs   map[*subscription]struct{}
	probed time.Time // when probe was
	probe  error     // what the last probe found
	closed bool
	done   chan struct{} // closed when Close has finished
}

// NewRedis returns a transport without connecting to Redis. It refuses settings that can never work: a malformed URL,
// certificates that cannot be read, numbers out of range. Its errors never have the URL in them.
//
// It silences go-redis's own logger, which is one for the whole process and would report each attempt to connect.
func NewRedis(cfg RedisConfig) (*Redis, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	cfg = cfg.withDefaults()
	dial, err := clients(cfg)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	r := &Redis{
		cfg: cfg, log: cfg.Logger, dial: dial, client: dial(false),
		subs: map[*subscription]struct{}{}, probeRun: make(chan struct{}, 1),
		done: make(chan struct{}),
	}
	if r.publish, err = newRedisPublisher(r); err != nil {
		return nil, errors.Join(fmt.Errorf("redis: %w", err), r.client.Close())
	}
	return r, nil
}

// Subscriber returns a subscriber of the stream (its full key) for the consumer group. Each of its Subscribes is a
// consumer of the group. start, StartOldest or StartNewest, is where a group begins that does not exist yet. lanes is
// how many events are handled at once; zero means the transport's default, one keeps the order of the stream.
func (r *Redis) Subscriber(stream, group, start string, lanes int) (message.Subscriber, error) {
	if err := checkSubscriber(stream, group, start, lanes); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fmt.Errorf("subscriber for %s, group %s: %w", stream, group, ErrClosed)
	}
	return &redisSubscriber{
		redis: r, stream: stream, group: group, start: start,
		lanes: cmp.Or(lanes, r.cfg.Lanes),
		subs:  map[*subscription]struct{}{},
	}, nil
}

// Publisher returns the transport's publisher, which any number of goroutines may share. Its Close does nothing.
func (r *Redis) Publisher() message.Publisher { return r.publish }

// RetainDeadLetters names a stream of dead letters: it keeps DeadLetterMaxLen entries, and what is published to it is
// written even when the message's context has been cancelled, since a shutdown must not lose a dead letter.
func (r *Redis) RetainDeadLetters(stream string) { r.publish.retain(stream) }

// ExpectPublish names another stream that will be published to, so that a permission that lacks for it is found before
// the first event is read, not after it was handled.
func (r *Redis) ExpectPublish(stream string) { r.publish.expect(stream) }

// Up returns nil when Redis can be used, else why not, in words an operator can act on. A subscription that cannot
// work makes the transport not up. Without a subscription the server is asked, at most once a second and for at most a
// second.
func (r *Redis) Up() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return ErrClosed
	}
	subs := len(r.subs)
	for s := range r.subs {
		if err := s.fault(); err != nil {
			r.mu.Unlock()
			return err
		}
	}
	r.mu.Unlock()
	if subs > 0 {
		return nil
	}
	return r.ask()
}

// probeEvery is how long the answer to a probe stands, and the longest a probe takes.
const probeEvery = time.Second

// ask pings the server, or returns what the last ping found when that is fresh.
func (r *Redis) ask() error {
	r.probeRun <- struct{}{}
	defer func() { <-r.probeRun }()
	r.mu.Lock()
	fresh, err := time.Since(r.probed) < probeEvery, r.probe
	r.mu.Unlock()
	if fresh {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeEvery)
	defer cancel()
	err = describe("PING", "", r.client.Ping(ctx).Err())
	if redis.HasErrorPrefix(err, "NOPERM") {
		err = nil // an answer all the same
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probed, r.probe = time.Now(), err
	return err
}

// add registers a subscription; false when the transport is closed.
func (r *Redis) add(s *subscription) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.subs[s] = struct{}{}
	return true
}

func (r *Redis) remove(s *subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.subs, s)
}

// Close ends every subscription as its Close does, waits for them until ctx ends, and closes the connections. When it
// is called again, it waits for the first call.
func (r *Redis) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		select {
		case <-r.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("redis: still draining: %w", ctx.Err())
		}
	}
	r.closed = true
	subs := slices.Collect(maps.Keys(r.subs))
	r.mu.Unlock()
	defer close(r.done)

	for _, s := range subs {
		s.stop()
	}
	var errs []error
	for _, s := range subs {
		select {
		case <-s.done:
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("redis: stream %s, group %s: still draining: %w",
				s.stream, s.group.name, ctx.Err()))
		}
	}
	return errors.Join(append(errs, r.publish.shut(r.client.Close))...)
}
