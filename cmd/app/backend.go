package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
)

// backend is a bus as the service uses it, beyond what the router does.
type backend interface {
	router.Transport
	letterBus
	// feed adds a recorded entry, keeping its identity, and waits for room.
	feed(ctx context.Context, stream string, e recorded) error
	// registers are where processes share rate levels; nil on a bus of one process.
	registers() adjust.Registers
	// follow makes what is measured that of other flows that read from it.
	follow(own []router.FlowPlan)
	// idle reports whether flows that read from it have nothing queued or in flight.
	idle(ctx context.Context, own []router.FlowPlan) (bool, error)
	// Close ends what is still open.
	Close(ctx context.Context) error
}

// The backends of a bus.
const (
	backendMemory = "inmem"
	backendRedis  = "redis"
)

// newBackend makes a bus of a plan. A bus that delivers entries again until they are
// acknowledged calls beforeAck before it acknowledges any, and has metrics.
func newBackend(plan *router.Plan, b *flows.Bus, metrics *telemetry.Streams, log *slog.Logger,
	beforeAck func(ctx context.Context, stream, group string) error,
) (backend, error) {
	if b.Name != flows.DefaultBus {
		log = log.With("bus", b.Name)
	}
	if b.Backend == backendRedis {
		return newRedisBackend(plan, b, metrics, log, beforeAck)
	}
	m, err := bus.NewInMemory(bus.InMemoryConfig{
		Capacity: b.Capacity, Lanes: b.Lanes, MaxEventSize: b.MaxEventSize,
		DeadLetterBuffer: b.DeadLetterBuffer, DrainTimeout: plan.File.ShutdownTimeout, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	return memoryBackend{m}, nil
}

type memoryBackend struct{ *bus.InMemory }

func (b memoryBackend) put(ctx context.Context, stream string, data []byte, fields map[string]string) (string, error) {
	id, err := b.Put(ctx, stream, data, fields, false)
	if errors.Is(err, bus.ErrFull) || errors.Is(err, bus.ErrClosed) || errors.Is(err, bus.ErrNoReader) {
		return "", fmt.Errorf("%w: %w", admin.ErrUnavailable, err)
	}
	return id, err
}

func (b memoryBackend) feed(ctx context.Context, stream string, e recorded) error {
	msg := message.NewMessage(e.ID, e.Data)
	for k, v := range e.Fields {
		msg.Metadata.Set(k, v)
	}
	return b.PublishWait(ctx, stream, msg)
}

func (memoryBackend) registers() adjust.Registers { return nil }

func (b memoryBackend) overflow(stream string) int64 { return b.DeadLetterOverflow(stream) }

func (memoryBackend) follow([]router.FlowPlan) {}

func (b memoryBackend) idle(context.Context, []router.FlowPlan) (bool, error) { return b.Idle(), nil }

// newRedis opens no connection: Redis may come later.
func newRedis(f *flows.File, b *flows.Bus, log *slog.Logger, observer bus.RedisObserver) (*bus.Redis, error) {
	return bus.NewRedis(redisConfig(f, b, log, observer))
}

func redisConfig(f *flows.File, b *flows.Bus, log *slog.Logger, observer bus.RedisObserver) bus.RedisConfig {
	r := b.Redis
	return bus.RedisConfig{
		URL:      r.URL,
		TLS:      bus.RedisTLS{CA: r.TLS.CA, Cert: r.TLS.Cert, Key: r.TLS.Key, ServerName: r.TLS.ServerName},
		Consumer: r.Consumer, Batch: r.Batch, MaxInFlight: r.MaxInFlight, AckEvery: r.AckEvery, AckBatch: r.AckBatch,
		Block: r.Block, Lease: r.Lease, MaxIdle: r.MaxIdle, MaxDeliveries: r.MaxDeliveries,
		MaxLen: r.MaxLen, DeadLetterMaxLen: unlimited(r.DeadLetterMaxLen), Trim: r.Trim, Lanes: b.Lanes,
		MaxEventSize: b.MaxEventSize, DrainTimeout: f.ShutdownTimeout, Logger: log, Observer: observer,
	}
}

// unlimited turns the file's 0, which sets no limit, into the transport's.
func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

func newRedisBackend(plan *router.Plan, b *flows.Bus, metrics *telemetry.Streams, log *slog.Logger,
	beforeAck func(ctx context.Context, stream, group string) error,
) (backend, error) {
	// The metrics ask the transport, and the transport reports to the metrics.
	var r *bus.Redis
	watch := metrics.Bus(b.Name, groupsOf(flowsOn(plan, b.Name)), func(ctx context.Context, key, group string) (telemetry.GroupState, error) {
		info, err := r.GroupInfo(ctx, key, group)
		return telemetry.GroupState{Lag: info.Lag, Pending: info.Pending, OldestPending: info.OldestPending}, err
	}, func() error { return r.Up() })
	config := redisConfig(plan.File, b, log, watch)
	config.BeforeAck = beforeAck
	var err error
	if r, err = bus.NewRedis(config); err != nil {
		return nil, err
	}
	return redisBackend{r, watch}, nil
}

// groupsOf are the consumer groups of flows.
func groupsOf(own []router.FlowPlan) []telemetry.StreamGroup {
	groups := make([]telemetry.StreamGroup, len(own))
	for i, p := range own {
		groups[i] = telemetry.StreamGroup{Key: p.StreamKey, Topic: p.Topic, Group: p.Group}
	}
	return groups
}

type redisBackend struct {
	*bus.Redis
	streams *telemetry.BusStreams // nil where nothing is measured
}

func (b redisBackend) put(ctx context.Context, stream string, data []byte, fields map[string]string) (string, error) {
	id, err := b.Put(ctx, stream, data, fields)
	if err != nil {
		return "", fmt.Errorf("%w: %w", admin.ErrUnavailable, err)
	}
	return id, nil
}

// feed gives the entry its recorded id as original_id: the stream numbers its
// entries itself.
func (b redisBackend) feed(ctx context.Context, stream string, e recorded) error {
	fields := e.Fields
	if e.ID != "" {
		fields = replayFields(e.ID, "")
		for k, v := range e.Fields {
			fields[k] = v
		}
	}
	_, err := b.Put(ctx, stream, e.Data, fields)
	return err
}

func (b redisBackend) registers() adjust.Registers { return b.Registers() }

// overflow is zero: the stream's own limit is Redis's business.
func (redisBackend) overflow(string) int64 { return 0 }

func (b redisBackend) follow(own []router.FlowPlan) { b.streams.Follow(groupsOf(own)) }

func (b redisBackend) idle(ctx context.Context, own []router.FlowPlan) (bool, error) {
	for _, p := range own {
		info, err := b.GroupInfo(ctx, p.StreamKey, p.Group)
		switch {
		case errors.Is(err, bus.ErrNoGroup): // not attached yet
			return false, nil
		case err != nil || info.Lag != 0 || info.Pending != 0:
			return false, err
		}
	}
	return true, nil
}
