package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// workCounted runs one worker to its end, or until it is told to end, and notes how
// many objects it has made.
func workCounted(ctx context.Context, name string, o options) error {
	told, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- work(ctx, name, o) }()
	var err error
	select {
	case err = <-ended:
	case <-told.Done():
	}
	if o.mallocs != "" {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		err = errors.Join(err, os.WriteFile(o.mallocs, []byte(strconv.FormatUint(m.Mallocs, 10)), 0o600))
	}
	return err
}

// work runs one worker. Those on Redis run until they are stopped; the others
// print how long they took.
func work(ctx context.Context, name string, o options) error {
	switch name {
	case "raw":
		return raw(ctx, o.url)
	case "stock1":
		return stock(ctx, o.url, 1)
	case "stock16":
		return stock(ctx, o.url, 16)
	case "gochannel":
		return bareGochannel(ctx, o.entries)
	case "chain":
		return chain(ctx, o.entries)
	case "latency":
		return appliedLatency(ctx, o.url, o.entries)
	default:
		return fmt.Errorf("no worker %q", name)
	}
}

// raw reads and acknowledges in batches, and does nothing else.
func raw(ctx context.Context, url string) error {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	client := redis.NewClient(opts)
	if err := client.XGroupCreateMkStream(ctx, stream, group, "0").Err(); err != nil {
		return err
	}
	for {
		streams, err := client.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: group, Consumer: "raw", Streams: []string{stream, ">"}, Count: 1000, Block: time.Second,
		}).Result()
		if err != nil {
			continue // nothing new within a second
		}
		ids := make([]string, 0, 1000)
		for _, m := range streams[0].Messages {
			ids = append(ids, m.ID)
		}
		if err := client.XAck(ctx, stream, group, ids...).Err(); err != nil {
			return err
		}
	}
}

// dataOnly reads the entries of foreign producers, which carry no Watermill UUID.
type dataOnly struct{}

func (dataOnly) Unmarshal(values map[string]any) (*message.Message, error) {
	data, _ := values["data"].(string)
	return message.NewMessage(watermill.NewULID(), []byte(data)), nil
}

// stock is the stock library as its documentation uses it: subscriptions of one
// group, each with a handler that does nothing.
func stock(ctx context.Context, url string, subscriptions int) error {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return err
	}
	client := redis.NewClient(opts)
	r, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	for i := range subscriptions {
		sub, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
			Client: client, Unmarshaller: dataOnly{}, ConsumerGroup: group, Consumer: fmt.Sprintf("stock-%d", i),
		}, watermill.NopLogger{})
		if err != nil {
			return err
		}
		r.AddConsumerHandler(fmt.Sprintf("stock-%d", i), stream, sub, func(*message.Message) error { return nil })
	}
	return r.Run(ctx)
}

// bareGochannel is Watermill's in-memory bus and router with a handler that does
// nothing: what any in-memory flow could reach at most.
func bareGochannel(ctx context.Context, n int) error {
	pubsub := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 1024}, watermill.NopLogger{})
	r, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	var handled sync.WaitGroup
	handled.Add(n)
	r.AddConsumerHandler("noop", "in", pubsub, func(*message.Message) error { handled.Done(); return nil })
	go func() { _ = r.Run(ctx) }()
	<-r.Running()
	data := entries(n)
	begun := time.Now()
	for i := range n {
		if err := pubsub.Publish("in", message.NewMessage(fmt.Sprintf("1-%d", i), data[i])); err != nil {
			return err
		}
	}
	handled.Wait()
	fmt.Println(time.Since(begun).Nanoseconds())
	return nil
}

func entries(n int) [][]byte {
	begin := float64(time.Now().Unix() - 3600)
	list := make([][]byte, n)
	for i := range list {
		list[i] = []byte(entry(i, begin+float64(i)/1e4))
	}
	return list
}

// newFlow builds the shipped flow over a transport, with rates in the place of the
// coordinator where they are given.
func newFlow(transport func(*flows.File) (router.Transport, error), rates stages.RateApplier) (*router.Router, *router.Plan, error) {
	path, err := flowFile("change", false)
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(filepath.Dir(path))
	file, d := flows.Load(path, os.LookupEnv)
	if d.HasErrors() {
		return nil, nil, d.Err()
	}
	plan, d := router.NewPlan(file, stages.Builtin())
	if d.HasErrors() {
		return nil, nil, d.Err()
	}
	log := slog.New(slog.DiscardHandler)
	t, err := transport(file)
	if err != nil {
		return nil, nil, err
	}
	if rates == nil {
		if rates, err = adjust.New(file.Providers, log); err != nil {
			return nil, nil, err
		}
	}
	watch, err := telemetry.New(prometheus.NewRegistry())
	if err != nil {
		return nil, nil, err
	}
	r, err := router.Build(plan, router.Deps{
		Transport: t, Rates: rates, Observer: watch, Logger: log,
		Observe: func(flow, topic string) router.FlowObserver { return watch.Flow(flow, topic) },
	})
	return r, plan, err
}

// chain is the shipped flow on the in-memory bus.
func chain(ctx context.Context, n int) error {
	m, err := bus.NewInMemory(bus.InMemoryConfig{})
	if err != nil {
		return err
	}
	r, plan, err := newFlow(func(*flows.File) (router.Transport, error) { return m, nil }, nil)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Run(ctx, func() { close(started) }) }()
	<-started
	data := entries(n)
	key := plan.Flows[0].StreamKey
	begun := time.Now()
	for i := range n {
		if err := m.PublishWait(ctx, key, message.NewMessage(fmt.Sprintf("1-%d", i), data[i])); err != nil {
			return err
		}
	}
	if err := m.WaitIdle(ctx); err != nil {
		return err
	}
	fmt.Println(time.Since(begun).Nanoseconds())
	cancel()
	return <-ended
}
