package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// latencySeconds is how long each rate is offered.
const latencySeconds = 5

// latency offers entries at fixed rates, whatever the consumer does, and measures
// the time from the moment an entry was due on the stream until its adjustment was
// applied: XADD, decode, and every stage up to the rate coordinator.
func latency(ctx context.Context) error {
	server, err := startRedis()
	if err != nil {
		return err
	}
	defer server.stop()
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "offered, events/s for %d s\tp50 ms\tp99 ms\tp99.9 ms\tapplied\t\n", latencySeconds)
	for _, rate := range []int{1_000, 10_000, 50_000} {
		q, err := offered(ctx, server, rate)
		if err != nil {
			return fmt.Errorf("%d/s: %w", rate, err)
		}
		fmt.Fprintf(w, "%d\t%.2f\t%.2f\t%.2f\t%d\t\n", rate, q[0], q[1], q[2], rate*latencySeconds)
	}
	return w.Flush()
}

// offered returns the quantiles, in ms, at one rate.
func offered(ctx context.Context, server *redisServer, rate int) (q [3]float64, err error) {
	if err := server.client.FlushAll(ctx).Err(); err != nil {
		return q, err
	}
	self, err := os.Executable()
	if err != nil {
		return q, err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, self, "-worker", "latency", "-n", fmt.Sprint(rate*latencySeconds), "-url", server.url)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		return q, err
	}
	offering, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- cmd.Wait()
		stop() // nobody is there to be offered anything
	}()
	for server.client.XInfoGroups(offering, stream).Err() != nil && offering.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
	offerErr := offer(offering, server.client, rate)
	if err := <-ended; err != nil {
		return q, fmt.Errorf("worker: %w", err)
	}
	if offerErr != nil {
		return q, offerErr
	}
	_, err = fmt.Fscan(&out, &q[0], &q[1], &q[2])
	return q, err
}

// offer writes entries at their due times. Each carries its due time as the event's
// own, so that whoever applies it knows how late it is.
func offer(ctx context.Context, client *redis.Client, rate int) error {
	const tick = time.Millisecond
	total := rate * latencySeconds
	begin := time.Now()
	due := func(i int) time.Time {
		return begin.Add(time.Duration(float64(i) / float64(rate) * float64(time.Second)))
	}
	for sent := 0; sent < total; {
		if err := ctx.Err(); err != nil {
			return err
		}
		pipe := client.Pipeline()
		for ; sent < total && !due(sent).After(time.Now()); sent++ {
			data := entry(sent, event.Seconds(due(sent)))
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: stream, Values: []string{"data", data}})
		}
		if pipe.Len() > 0 {
			if _, err := pipe.Exec(ctx); err != nil {
				return err
			}
		}
		time.Sleep(tick)
	}
	return nil
}

// timedRates are the rate coordinator with a note of how late each adjustment was.
type timedRates struct {
	*adjust.Applier
	mu   sync.Mutex
	late []time.Duration
	n    int
	all  chan struct{}
}

// Apply implements stages.RateApplier.
func (r *timedRates) Apply(ctx context.Context, a stages.Adjustment) (stages.RateState, error) {
	s, err := r.Applier.Apply(ctx, a)
	late := time.Since(event.At(a.Time))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.late = append(r.late, late); len(r.late) == r.n {
		close(r.all)
	}
	return s, err
}

// appliedLatency is the worker: it applies n entries and prints the quantiles.
func appliedLatency(ctx context.Context, url string, n int) error {
	applier, err := adjust.New([]flows.Provider{{Name: "ibkr", Rate: 60, Burst: 60, MinRate: 1}}, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	rates := &timedRates{Applier: applier, n: n, late: make([]time.Duration, 0, n), all: make(chan struct{})}
	r, _, err := newFlow(func(*flows.File) (router.Transport, error) {
		return bus.NewRedis(bus.RedisConfig{URL: url})
	}, rates)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, nil) }()
	select {
	case <-rates.all:
	case <-time.After(time.Minute):
		return fmt.Errorf("only %d of %d applied within a minute", len(rates.late), n)
	}
	slices.Sort(rates.late)
	for _, q := range []float64{0.5, 0.99, 0.999} {
		fmt.Printf("%f ", rates.late[min(int(q*float64(n)), n-1)].Seconds()*1e3)
	}
	fmt.Println()
	cancel()
	return <-ended
}
