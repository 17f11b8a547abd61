package bus

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

// benchEntries is how many entries each round of BenchmarkRedis reads.
const benchEntries = 200_000

// BenchmarkRedis compares, on one server, what Redis can deliver and have acknowledged with what the subscriber does:
// to a reader that acknowledges at once, and to a router whose handler does nothing. One operation is benchEntries
// entries.
func BenchmarkRedis(b *testing.B) {
	srv := redistest.Start(b)
	client := srv.Client(b)
	benchFill(b, client)
	reset := func(b *testing.B) {
		b.StopTimer()
		defer b.StartTimer()
		if err := client.XGroupDestroy(context.Background(), testStream, testGroup).Err(); err != nil {
			b.Fatal(err)
		}
		if err := client.XGroupCreate(context.Background(), testStream, testGroup, "0").Err(); err != nil {
			b.Fatal(err)
		}
	}
	if err := client.XGroupCreate(context.Background(), testStream, testGroup, "0").Err(); err != nil {
		b.Fatal(err)
	}
	for _, bench := range []struct {
		name string
		run  func(*testing.B)
	}{
		{"raw", func(b *testing.B) { benchRaw(b, client) }},
		{"subscriber", func(b *testing.B) { benchSubscriber(b, srv.URL(), client, readAll) }},
		{"router", func(b *testing.B) { benchSubscriber(b, srv.URL(), client, routeAll) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				reset(b)
				bench.run(b)
			}
			b.ReportMetric(float64(b.N)*benchEntries/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// benchFill adds the recorded entries that are nested.
func benchFill(b *testing.B, client *redis.Client) {
	b.Helper()
	var entries [][]byte
	for _, data := range captures(b) {
		if bytes.Contains(data, []byte("EventEnvelope")) {
			entries = append(entries, data)
		}
	}
	for n := 0; n < benchEntries; n += 1000 {
		_, err := client.Pipelined(context.Background(), func(p redis.Pipeliner) error {
			for i := range 1000 {
				p.XAdd(context.Background(), &redis.XAddArgs{
					Stream: testStream, Values: []any{fieldData, entries[i%len(entries)]},
				})
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func benchRaw(b *testing.B, client *redis.Client) {
	ctx := context.Background()
	for left := benchEntries; left > 0; {
		streams, err := client.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: testGroup, Consumer: "raw", Streams: []string{testStream, ">"}, Count: 1000, Block: -1,
		}).Result()
		if err != nil {
			b.Fatal(err)
		}
		ids := make([]string, 0, 1000)
		for _, m := range streams[0].Messages {
			ids = append(ids, m.ID)
		}
		if err := client.XAck(ctx, testStream, testGroup, ids...).Err(); err != nil {
			b.Fatal(err)
		}
		left -= len(ids)
	}
}

func benchSubscriber(b *testing.B, url string, client *redis.Client, consume func(*testing.B, message.Subscriber)) {
	r, err := NewRedis(RedisConfig{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	sub, err := r.Subscriber(testStream, testGroup, StartOldest, 0)
	if err != nil {
		b.Fatal(err)
	}
	consume(b, sub)
	for pending(b, client) > 0 {
		time.Sleep(100 * time.Microsecond)
	}
	b.StopTimer()
	defer b.StartTimer()
	if err := r.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// readAll acknowledges every message as it comes.
func readAll(b *testing.B, sub message.Subscriber) {
	messages, err := sub.Subscribe(context.Background(), "")
	if err != nil {
		b.Fatal(err)
	}
	for range benchEntries {
		(<-messages).Ack()
	}
}

// routeAll runs a router until its handler has seen every message.
func routeAll(b *testing.B, sub message.Subscriber) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: time.Second}, watermill.NopLogger{})
	if err != nil {
		b.Fatal(err)
	}
	var handled atomic.Int64
	done := make(chan struct{})
	router.AddConsumerHandler("bench", "topic", sub, func(*message.Message) error {
		if handled.Add(1) == benchEntries {
			close(done)
		}
		return nil
	})
	go func() {
		if err := router.Run(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	<-done
	b.StopTimer()
	defer b.StartTimer()
	if err := router.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRedisPublisher compares many goroutines that publish an entry each: through the publisher, whose client
// sends them together, and through a client that does not.
func BenchmarkRedisPublisher(b *testing.B) {
	srv := redistest.Start(b)
	client := srv.Client(b)
	r, err := NewRedis(RedisConfig{URL: srv.URL(), MaxLen: 100_000})
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close(context.Background())
	data := feedbackEntry(b, "k", 1)
	for name, publish := range map[string]func() error{
		"publisher": func() error { return r.Publisher().Publish("out", message.NewMessage("", data)) },
		"one by one": func() error {
			return client.XAdd(context.Background(), &redis.XAddArgs{
				Stream: "out", MaxLen: 100_000, Approx: true, Values: []any{fieldData, data},
			}).Err()
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := publish(); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
