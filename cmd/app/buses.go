package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
)

// buses are the buses of a plan that its flows use, in the order of the file.
type buses []openBus

// openBus is a bus of the file at work.
type openBus struct {
	*flows.Bus
	backend
}

// openBuses makes the buses of a plan, with their metrics. It connects to nothing. A
// bus that delivers entries again until they are acknowledged calls what beforeAck
// returns for it before it acknowledges any.
func openBuses(plan *router.Plan, reg prometheus.Registerer, log *slog.Logger,
	beforeAck func(*flows.Bus) func(ctx context.Context, stream, group string) error,
) (buses, error) {
	var (
		open    buses
		streams *telemetry.Streams
	)
	for _, b := range plan.File.UsedBuses() {
		var err error
		if b.Backend == backendRedis && streams == nil {
			if streams, err = telemetry.NewStreams(reg); err != nil {
				return open, fmt.Errorf("metrics: %w", err)
			}
		}
		one, err := newBackend(plan, b, streams, log, beforeAck(b))
		if err != nil {
			return open, fmt.Errorf("%s: %w", busKey(b.Name), err)
		}
		open = append(open, openBus{b, one})
	}
	return open, nil
}

// busKey is how the file calls a bus.
func busKey(name string) string {
	if name == flows.DefaultBus {
		return "bus"
	}
	return "buses: " + name
}

// of returns the bus with the name that a flow of the plan gives, which is there.
func (all buses) of(name string) openBus {
	return all[slices.IndexFunc(all, func(b openBus) bool { return b.Name == name })]
}

// letters is of for dead letters.
func (all buses) letters(name string) letterBus { return all.of(name) }

func (all buses) transports() map[string]router.Transport {
	t := make(map[string]router.Transport, len(all))
	for _, b := range all {
		t[b.Name] = b
	}
	return t
}

// idle reports whether the flows of plan have nothing queued or in flight.
func (all buses) idle(ctx context.Context, plan *router.Plan) (bool, error) {
	for _, b := range all {
		if idle, err := b.idle(ctx, flowsOn(plan, b.Name)); !idle || err != nil {
			return false, err
		}
	}
	return true, nil
}

// flowsOn are the flows of a plan that run and read from a bus.
func flowsOn(plan *router.Plan, bus string) []router.FlowPlan {
	return slices.DeleteFunc(slices.Clone(plan.Flows), func(p router.FlowPlan) bool {
		return p.Bus != bus || p.Disabled != ""
	})
}

// follow makes what is measured that of another plan's flows.
func (all buses) follow(plan *router.Plan) {
	for _, b := range all {
		b.follow(flowsOn(plan, b.Name))
	}
}

// Close ends all at once, within ctx.
func (all buses) Close(ctx context.Context) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, b := range all {
		wg.Go(func() {
			if err := b.Close(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", busKey(b.Name), err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// label is what the log calls a bus: the default one by its backend alone.
func label(b *flows.Bus) string {
	if b.Name == flows.DefaultBus {
		return b.Backend
	}
	return b.Name + " (" + b.Backend + ")"
}

// describeBuses words the buses that a file's flows use.
func describeBuses(f *flows.File) string {
	used := f.UsedBuses()
	if len(used) == 1 && used[0].Name == flows.DefaultBus {
		return "the " + used[0].Backend + " bus"
	}
	words := make([]string, len(used))
	for i, b := range used {
		words[i] = b.Name + " (" + b.Backend + ")"
	}
	noun := "buses "
	if len(used) == 1 {
		noun = "bus "
	}
	return noun + strings.Join(words, ", ")
}

// source is where a topic's events are put: the bus and full key of the flow that reads
// it; for a topic that none reads the default bus, and the key that its template gives.
func source(plan *router.Plan, topic string) (bus *flows.Bus, key string) {
	for _, p := range plan.Flows {
		if p.Topic == topic {
			return plan.File.BusNamed(p.Bus), p.StreamKey
		}
	}
	return &plan.File.Bus, plan.File.StreamKey(topic, "")
}
