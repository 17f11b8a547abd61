package rate

import (
	"fmt"
	"sync"
	"testing"
	"time"

	xrate "golang.org/x/time/rate"
)

// Plenty, so that nobody waits.
const plenty = 1e9

func BenchmarkAcquire(b *testing.B) {
	ctx := b.Context()
	b.Run("bucket=this", func(b *testing.B) {
		c := newTestCoordinator(b, nil, ProviderConfig{Rate: plenty})
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Acquire(ctx, "p", 1); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bucket=x-time-rate", func(b *testing.B) {
		l := xrate.NewLimiter(plenty, plenty)
		b.ReportAllocs()
		for b.Loop() {
			if err := l.WaitN(ctx, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkTryAcquire(b *testing.B) {
	b.Run("bucket=this", func(b *testing.B) {
		c := newTestCoordinator(b, nil, ProviderConfig{Rate: plenty})
		b.ReportAllocs()
		for b.Loop() {
			if ok, _, err := c.TryAcquire("p", 1); !ok || err != nil {
				b.Fatal(ok, err)
			}
		}
	})
	b.Run("bucket=x-time-rate", func(b *testing.B) {
		l := xrate.NewLimiter(plenty, plenty)
		b.ReportAllocs()
		for b.Loop() {
			if !l.AllowN(time.Now(), 1) {
				b.Fatal("refused")
			}
		}
	})
}

func BenchmarkAcquireParallel(b *testing.B) {
	ctx := b.Context()
	b.Run("bucket=this", func(b *testing.B) {
		c := newTestCoordinator(b, nil, ProviderConfig{Rate: plenty})
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := c.Acquire(ctx, "p", 1); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("bucket=x-time-rate", func(b *testing.B) {
		l := xrate.NewLimiter(plenty, plenty)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := l.WaitN(ctx, 1); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

// BenchmarkWaiters serves a queue of 1,000 during a pause, then raised.
func BenchmarkWaiters(b *testing.B) {
	const waiters = 1000
	ctx := b.Context()
	c := newTestCoordinator(b, nil, ProviderConfig{Rate: plenty, Burst: 1})
	event := time.Now() // the events' own clock, so that none is stale
	b.ReportAllocs()
	for b.Loop() {
		event = event.Add(1)
		mustApply(b, c, "a", Hard, event)
		var wg sync.WaitGroup
		for range waiters {
			wg.Go(func() {
				if err := c.Acquire(ctx, "p", 1); err != nil {
					b.Error(err)
				}
			})
		}
		event = event.Add(1)
		mustApply(b, c, "a", OK, event)
		wg.Wait()
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/waiters, "ns/waiter")
}

func BenchmarkApply(b *testing.B) {
	for _, coordinators := range []int{1, 100, DefaultMaxCoordinators} {
		b.Run(fmt.Sprintf("coordinators=%d", coordinators), func(b *testing.B) {
			c := newTestCoordinator(b, nil, ProviderConfig{Rate: 60})
			names := make([]string, coordinators)
			for i := range names {
				names[i] = fmt.Sprintf("coordinator-%d", i)
			}
			start := time.Now()
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				level := Level(i % levels)
				mustApply(b, c, names[i%coordinators], level, start.Add(time.Duration(i)))
				i++
			}
		})
	}
}
