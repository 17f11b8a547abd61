package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
)

// latencySeconds is how long each rate is offered.
const latencySeconds = 5

// latency offers entries at fixed rates, whatever the consumer does, and measures
// the time from the moment an entry was due on the stream to the announcement of
// the adjustment it led to: XADD, decode, every stage, and the publish.
func latency(ctx context.Context, o options) error {
	server, err := startRedis()
	if err != nil {
		return err
	}
	defer server.stop()
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "offered, events/s for %d s\tp50 ms\tp99 ms\tp99.9 ms\tapplied\t\n", latencySeconds)
	for _, rate := range []int{1_000, 10_000, 50_000} {
		list, err := offered(ctx, o, server, rate)
		if err != nil {
			return fmt.Errorf("%d/s: %w", rate, err)
		}
		slices.Sort(list)
		at := func(q float64) float64 { return list[min(int(q*float64(len(list))), len(list)-1)].Seconds() * 1e3 }
		fmt.Fprintf(w, "%d\t%.2f\t%.2f\t%.2f\t%d\t\n", rate, at(0.5), at(0.99), at(0.999), len(list))
	}
	return w.Flush()
}

// offered returns the latency of each entry offered at rate.
func offered(ctx context.Context, o options, server *redisServer, rate int) ([]time.Duration, error) {
	if err := server.client.FlushAll(ctx).Err(); err != nil {
		return nil, err
	}
	file, err := flowFile("always")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(filepath.Dir(file))
	cmd := exec.CommandContext(ctx, o.binary, "run", "--config", file, "--backend", "redis", "--log-level", "error",
		"--listen", "off")
	cmd.Env = append(os.Environ(), "REDIS_URL="+server.url)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	for server.client.XInfoGroups(ctx, stream).Err() != nil {
		time.Sleep(10 * time.Millisecond)
	}
	if err := offer(ctx, server.client, rate); err != nil {
		return nil, err
	}
	if err := server.consumed(ctx); err != nil {
		return nil, err
	}
	return latencies(ctx, server.client)
}

// offer writes entries at their due times. Each carries its due time as the
// event's own, so the announcement tells it.
func offer(ctx context.Context, client *redis.Client, rate int) error {
	const tick = time.Millisecond
	total := rate * latencySeconds
	begin := time.Now()
	due := func(i int) time.Time {
		return begin.Add(time.Duration(float64(i) / float64(rate) * float64(time.Second)))
	}
	for sent := 0; sent < total; {
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

// latencies reads the announcements: when each was made, its envelope says; what it
// was made for, its payload.
func latencies(ctx context.Context, client *redis.Client) ([]time.Duration, error) {
	var list []time.Duration
	start := "-"
	for {
		page, err := client.XRangeN(ctx, "mdp:mdp.telemetry.rate_adjustment", start, "+", 10_000).Result()
		if err != nil {
			return nil, err
		}
		for _, m := range page {
			data, _ := m.Values["data"].(string)
			e := event.Decoder{}.Decode(m.ID, []byte(data))
			due, ok := e.EventTime()
			if e.Err != nil || !ok {
				return nil, fmt.Errorf("announcement %s does not decode: %w", m.ID, e.Err)
			}
			list = append(list, max(0, event.At(e.Time).Sub(event.At(due))))
		}
		if len(page) < 10_000 {
			if len(list) == 0 {
				return nil, fmt.Errorf("nothing was announced")
			}
			return list, nil
		}
		start = "(" + page[len(page)-1].ID
	}
}
