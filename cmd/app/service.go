package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

const (
	// idlePoll is how often --drain looks whether the flows are idle.
	idlePoll = 20 * time.Millisecond
	// adminGrace is how long requests in progress may take at the end, ratesGrace how
	// long the last rate levels take to be kept, busGrace how long connections take to
	// close.
	adminGrace = time.Second
	ratesGrace = 500 * time.Millisecond
	busGrace   = time.Second
	// exitGrace is how long the process lives on after shutdown_timeout at most: with
	// the default of 8 s it is gone within 10.
	exitGrace = time.Second
)

// service is a running process: buses, the flows over them, the rate coordinator and
// the admin listener.
type service struct {
	running atomic.Pointer[router.Plan]
	adjusts atomic.Pointer[adjusting]
	log     *slog.Logger
	buses   buses
	rates   *adjust.Applier
	router  *router.Router
	reloads *reloader
	metrics *prometheus.Registry
	admin   *admin.Server // nil when the file asks for none
}

// plan is the one that runs.
func (s *service) plan() *router.Plan { return s.running.Load() }

// newService builds the parts. load plans the file again. On an error it closes what it
// opened.
func newService(plan *router.Plan, load loadPlan, log *slog.Logger) (s *service, err error) {
	s = &service{log: log, metrics: prometheus.NewRegistry()}
	s.running.Store(plan)
	s.adjusts.Store(adjustingOf(plan))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
			s = nil
		}
	}()
	s.metrics.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	watch, err := telemetry.New(s.metrics)
	if err != nil {
		return s, fmt.Errorf("metrics: %w", err)
	}
	if s.buses, err = openBuses(plan, s.metrics, log, s.commitRates); err != nil {
		return s, configError(err)
	}
	if s.rates, err = newRates(plan, s.buses, s); err != nil {
		return s, fmt.Errorf("rate coordinator: %w", err)
	}
	deps := router.Deps{
		Observer: watch, Logger: log, Rates: s.rates,
		Limiters: adjust.NewLimiter,
		Observe:  func(flow, topic string) router.FlowObserver { return watch.Flow(flow, topic, stages.ErrorKinds()...) },
	}
	if err := telemetry.RegisterRates(s.metrics, s.rates.Gauges); err != nil {
		return s, fmt.Errorf("metrics: %w", err)
	}
	deps.Transports = s.buses.transports()
	if s.router, err = router.Build(plan, deps); err != nil {
		return s, err
	}
	if s.reloads, err = newReloader(s, load); err != nil {
		return s, fmt.Errorf("metrics: %w", err)
	}
	if listening(plan.File) {
		if s.admin, err = admin.New(adminConfig(plan.File), s.sources(), log); err != nil {
			return s, err
		}
	}
	return s, nil
}

// run runs the flows until ctx ends, or with drain until the feed is consumed. It
// returns in time whatever hangs: what is not finished then was not acknowledged.
func (s *service) run(ctx context.Context, feed []recorded, drain bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- s.runToTheEnd(ctx, cancel, feed, drain) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(s.plan().File.ShutdownTimeout + exitGrace):
		s.log.Warn("stopped with work unfinished; what was not acknowledged is delivered again")
		return nil
	}
}

func (s *service) runToTheEnd(ctx context.Context, cancel context.CancelCauseFunc, feed []recorded, drain bool) error {
	var listener, feeding sync.WaitGroup
	if s.admin != nil {
		listener.Go(func() {
			if err := s.admin.Serve(); err != nil {
				cancel(err)
			}
		})
		s.log.Info("admin listener is up", "address", "http://"+s.admin.Addr())
	}
	s.announce()
	s.rates.Start()
	err := s.router.Run(ctx, func() {
		feeding.Go(func() { s.reloads.run(ctx) })
		feeding.Go(func() {
			if err := s.feedAll(ctx, feed); err != nil {
				if ctx.Err() == nil {
					cancel(err)
				}
				return
			}
			if drain {
				cancel(s.idle(ctx))
			}
		})
	})
	cancel(nil)
	feeding.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		err = errors.Join(err, cause)
	}
	err = errors.Join(err, s.close())
	listener.Wait()
	return err
}

// announce says what the process is about to do.
func (s *service) announce() {
	for _, p := range s.plan().Flows {
		if p.Disabled != "" {
			s.log.Warn("flow does not run", "flow", p.Name, "stream", p.Topic, "err", p.Disabled)
			continue
		}
		s.log.Info("flow runs", "flow", p.Name, "stream", p.Topic, "bus", label(s.plan().File.BusNamed(p.Bus)), "group", p.Group)
	}
}

// idle waits until nothing is queued or in flight. A bus is asked for one flow after
// another, and meanwhile a flow may hand an event on to one that has been looked at:
// so it must be idle once more for each flow that publishes to another.
func (s *service) idle(ctx context.Context) error {
	for seen := 0; ; {
		idle, err := s.buses.idle(ctx, s.plan())
		if err != nil {
			return fmt.Errorf("drain: %w", err)
		}
		if seen++; !idle {
			seen = 0
		}
		if seen > links(s.plan()) {
			return nil
		}
		if err := (stages.SystemClock{}).Sleep(ctx, idlePoll); err != nil {
			return nil
		}
	}
}

// links counts the flows that publish what another flow of the plan reads.
func links(plan *router.Plan) int {
	read := make(map[router.Target]bool, len(plan.Flows))
	for _, p := range plan.Flows {
		read[router.Target{Bus: p.Bus, Key: p.StreamKey}] = true
	}
	n := 0
	for _, p := range plan.Flows {
		if slices.ContainsFunc(p.Targets(), func(out router.Target) bool { return read[out] }) {
			n++
		}
	}
	return n
}

// close ends the parts in the order in which they stop being needed.
func (s *service) close() error {
	var errs []error
	if s.admin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), adminGrace)
		defer cancel()
		errs = append(errs, s.admin.Shutdown(ctx))
	}
	if s.rates != nil {
		ctx, cancel := context.WithTimeout(context.Background(), ratesGrace)
		defer cancel()
		if err := s.rates.Close(ctx); err != nil {
			// On Redis the events are not acknowledged, and come again.
			s.log.Warn("rate levels not kept at the end", "err", err)
		}
	}
	if len(s.buses) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), busGrace)
		defer cancel()
		if err := s.buses.Close(ctx); err != nil {
			// The flows have ended; all that is left are connections.
			s.log.Warn("bus not closed in time", "err", err)
		}
	}
	return errors.Join(errs...)
}

// summary tells what became of the events.
func (s *service) summary(w io.Writer, took time.Duration) {
	fmt.Fprintf(w, "\nsummary after %s\n", took.Round(time.Millisecond))
	for _, f := range s.router.Status() {
		fmt.Fprintf(w, "  flow %-12s %d success, %d duplicate, %d error", f.Name, f.Success, f.Duplicate, f.Error)
		if f.Filtered > 0 {
			fmt.Fprintf(w, ", %d filtered", f.Filtered)
		}
		switch {
		case f.State == router.StateDisabled:
			fmt.Fprintf(w, " (%s)", f.Reason)
		case f.Lost > 0:
			fmt.Fprintf(w, ", %d lost with the in-memory bus", f.Lost)
		}
		fmt.Fprintln(w)
	}
	for _, r := range s.rates.Status() {
		fmt.Fprintf(w, "  provider %-8s level %s, scale %g, %g tokens/s\n", r.Provider, r.Level, r.Scale, r.EffectiveRate)
	}
}
