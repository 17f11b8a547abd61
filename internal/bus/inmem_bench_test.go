package bus

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
)

// captures returns the data of the recorded feedback entries.
func captures(tb testing.TB) [][]byte {
	tb.Helper()
	file, err := os.Open("../../event/testdata/feedback.jsonl")
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	var entries [][]byte
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var entry struct{ Fields map[string]string }
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			tb.Fatal(err)
		}
		entries = append(entries, []byte(entry.Fields[fieldData]))
	}
	if len(entries) == 0 {
		tb.Fatal("no captures")
	}
	return entries
}

// BenchmarkInMemory runs recorded entries through a Watermill router with a
// handler that does nothing: over gochannel alone, which neither decodes nor
// orders nor bounds, and over the bus. of-gochannel is the ratio of the two.
func BenchmarkInMemory(b *testing.B) {
	entries := captures(b)
	const bound = 4096
	var bare float64

	b.Run("gochannel", func(b *testing.B) {
		channel := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
		free := make(chan struct{}, bound)
		bare = throughRouter(b, channel, func() { <-free }, func(i int) error {
			free <- struct{}{}
			return channel.Publish("stream", message.NewMessage("", entries[i%len(entries)]))
		})
	})
	b.Run("bus", func(b *testing.B) {
		m, err := NewInMemory(InMemoryConfig{Capacity: bound})
		if err != nil {
			b.Fatal(err)
		}
		defer m.Close(b.Context())
		sub, err := m.Subscriber("stream", "group", StartOldest, 0)
		if err != nil {
			b.Fatal(err)
		}
		rate := throughRouter(b, sub, func() {}, func(i int) error {
			return m.PublishWait(b.Context(), "stream", message.NewMessage("", entries[i%len(entries)]))
		})
		if bare > 0 {
			b.ReportMetric(rate/bare, "of-gochannel")
		}
	})
}

// throughRouter publishes b.N messages and waits until they are handled. It
// returns how many that was a second.
func throughRouter(b *testing.B, sub message.Subscriber, handle func(), publish func(i int) error) float64 {
	b.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		b.Fatal(err)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	done := make(chan struct{})
	router.AddConsumerHandler("handler", "stream", sub, func(*message.Message) error {
		handle()
		if left.Add(-1) == 0 {
			close(done)
		}
		return nil
	})
	go func() {
		if err := router.Run(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	<-router.Running()
	b.ReportAllocs()
	b.ResetTimer()
	start := time.Now()
	for i := range b.N {
		if err := publish(i); err != nil {
			b.Fatal(err)
		}
	}
	<-done
	rate := float64(b.N) / time.Since(start).Seconds()
	b.StopTimer()
	b.ReportMetric(rate, "events/s")
	if err := router.Close(); err != nil {
		b.Fatal(err)
	}
	return rate
}
