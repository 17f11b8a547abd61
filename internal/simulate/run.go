package simulate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/adjust"
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/internal/virtual"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Coordinator is the id that the queue's events carry.
const Coordinator = "bars_1"

// maxSamples bounds what a run keeps, maxFetches and maxItems how long it takes: a
// few minutes at most.
const (
	maxSamples = 100_000
	maxFetches = 10_000_000
	maxItems   = 10_000_000_000
)

// Config is what happens to a flow, whichever it is.
type Config struct {
	// Duration is how long it runs, in virtual time, and Interval the time
	// between two samples.
	Duration, Interval time.Duration
	// Offered is what the source fetches when nothing holds it up, in items/s,
	// and Items what it fetches with one token.
	Offered float64
	Items   int
	Drain   Drain
	Queue   QueueConfig
	// Delay is the time from the queue's signal to the flow.
	Delay time.Duration
	// Lose are the events that never arrive, and LoseFor is how long it goes on
	// from each of them.
	Lose    []Loss
	LoseFor time.Duration
}

// Validate reports everything that is out of range.
func (c Config) Validate() error {
	var errs []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	require(c.Duration > 0, "duration %v must be above 0", c.Duration)
	require(c.Interval > 0 && c.Interval <= c.Duration, "interval %v must be above 0 and at most the duration %v",
		c.Interval, c.Duration)
	require(c.Interval <= 0 || c.Duration/c.Interval <= maxSamples, "interval %v makes more than %d samples of %v",
		c.Interval, maxSamples, c.Duration)
	require(c.Offered > 0 && c.Offered <= maxRate, "offered: %v items/s must be above 0 and at most %v", c.Offered, maxRate)
	require(c.Items >= 1 && c.Items <= 1_000_000, "items per token %d must be from 1 to 1000000", c.Items)
	require(c.Delay >= 0 && c.Delay < farAway, "delay %v must not be negative, and at most %v", c.Delay, farAway)
	require(c.LoseFor >= 0, "lose for %v must not be negative", c.LoseFor)
	return errors.Join(append(errs, c.Drain.validate(), c.Queue.validate())...)
}

// bound refuses what would take too long with a provider.
func (c Config) bound(p flows.Provider) error {
	seconds := c.Duration.Seconds()
	fetches := min(seconds*c.Offered/float64(c.Items), seconds*p.Rate+max(p.Burst, p.Rate))
	switch {
	case fetches > maxFetches:
		return fmt.Errorf("duration %v has about %.0f fetches, and at most %d can be simulated: "+
			"let it be shorter, or more items come with a token", c.Duration, fetches, maxFetches)
	case fetches*float64(c.Items) > maxItems:
		return fmt.Errorf("duration %v has about %.0f items, and at most %d can be simulated: "+
			"let it be shorter, or fewer items come with a token", c.Duration, fetches*float64(c.Items), maxItems)
	}
	return nil
}

// Flow is what is simulated: a planned flow and the providers of its file.
type Flow struct {
	Name string
	// Track is the schema track of the events.
	Track     string
	Stages    []stages.Planned
	Providers []flows.Provider
	// Provider is the one whose tokens the source takes.
	Provider string
}

// Result is what came of a run.
type Result struct {
	Samples []Sample
	// Overflow, Fetched and Drained are in items. Fetched includes the overflow.
	Overflow, Fetched, Drained uint64
	MaxDepth                   int // in items
	// Utilisation is the share of what the drain could have taken that it took,
	// and Throughput what it took in items/s. 0 when it could take nothing.
	Utilisation, Throughput float64
	// InLevel is the time in each level of the provider, by level.
	InLevel [3]time.Duration
	// Sent counts the queue's events by level, also the lost ones, which Lost
	// lists. Published counts what the flow announced.
	Sent      [3]int
	Lost      []Lost
	Published int
	// Refused counts the events that became dead letters, Reason is the first's.
	Refused int
	Reason  error
	// Pinned is the time that the provider was in a worse level than the queue
	// had last signalled, events under way not counted. AtEnd says that it still
	// was, and in which since when.
	Pinned time.Duration
	AtEnd  *Pin
	// Early is the time that the provider was in a better level than the queue
	// had last signalled.
	Early time.Duration
}

// Lost is an event that did not arrive.
type Lost struct {
	At    time.Duration
	Level event.Level
}

// Pin is a level that nothing will end.
type Pin struct {
	// Level is the provider's, by the event of Since; Signalled is what the queue
	// said last.
	Level, Signalled event.Level
	Since            time.Duration
}

// epoch is when every run begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Run simulates a flow. It returns ctx's error when that ends first.
func Run(ctx context.Context, config Config, flow Flow) (*Result, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	for _, p := range flow.Providers {
		if p.Name != flow.Provider {
			continue
		}
		if err := config.bound(p); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	clock := virtual.New(epoch)
	applier, err := adjust.New(flow.Providers, slog.New(slog.DiscardHandler), adjust.WithClock(clock))
	switch {
	case err != nil:
		return nil, err
	case applier == nil:
		return nil, rate.ErrUnknownProvider
	}
	r := &run{config: config, flow: flow, clock: clock, rates: applier.Coordinator(), result: &Result{}}
	for _, l := range config.Lose {
		r.losses = append(r.losses, loss{Loss: l})
	}
	if r.pipeline, err = newPipeline(clock, flow, applier); err != nil {
		return nil, err
	}
	defer r.pipeline.close()
	r.source = newSource(ctx, r.rates, flow.Provider)
	defer r.source.close()
	r.queue = newQueue(config.Queue, config.Drain.Rate, r.signal)
	r.recorder = recorder{result: r.result, interval: config.Interval}
	if err := r.loop(ctx); err != nil {
		return nil, err
	}
	return r.finish(), nil
}

// run is a simulation in progress. Everything happens in the goroutine of loop,
// or while that waits for it.
type run struct {
	config   Config
	flow     Flow
	clock    *virtual.Clock
	rates    *rate.Coordinator
	pipeline *pipeline
	source   *source
	queue    *queue
	recorder recorder
	losses   []loss
	result   *Result

	// What the timers say is due, for settle.
	fetchDue, sampleDue bool
	changes             int // of the drain, that are due in all
	changed             int // of these, made

	recovery   rate.Timer // for when the queue recovers
	recoveryAt time.Duration
	nextSignal time.Time // the earliest time of the next event
	sent       int
	underWay   int
	err        error
}

// now is the time since the beginning.
func (r *run) now() time.Duration { return r.clock.Now().Sub(epoch) }

func (r *run) loop(ctx context.Context) error {
	r.clock.AfterFunc(0, func() { r.fetchDue = true })
	for i, c := range r.config.Drain.Changes {
		r.clock.AfterFunc(c.At, func() { r.changes = i + 1 })
	}
	r.sampleAfter(r.config.Interval)
	if err := r.settle(); err != nil {
		return err
	}
	end := epoch.Add(r.config.Duration)
	for at, ok := r.clock.Next(); ok && !at.After(end); at, ok = r.clock.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.recorder.pass(at.Sub(epoch))
		r.clock.AdvanceTo(at)
		if err := r.settle(); err != nil {
			return err
		}
	}
	r.recorder.pass(r.config.Duration)
	r.clock.AdvanceTo(end)
	return r.settle()
}

func (r *run) sampleAfter(d time.Duration) {
	r.clock.AfterFunc(d, func() {
		r.sampleDue = true
		r.sampleAfter(d)
	})
}

// settle does what is due at this instant, after the timers.
func (r *run) settle() error {
	now := r.now()
	r.queue.drain(now)
	r.recorder.depth(r.queue.depth)
	for ; r.changed < r.changes; r.changed++ {
		r.queue.setRate(r.config.Drain.Changes[r.changed].Rate, now)
	}
	if err := r.fetch(now); err != nil {
		return err
	}
	state, err := r.rates.State(r.flow.Provider)
	if err != nil {
		return err
	}
	i := instant{at: now, state: state, queue: r.queue, drainRate: r.queue.rate}
	if r.underWay == 0 && !r.pipeline.busy {
		level := event.Level(state.Level)
		i.pinned, i.early = level > r.queue.level, level < r.queue.level
	}
	r.recorder.note(i)
	if r.sampleDue {
		r.sampleDue = false
		r.recorder.sample(now)
	}
	r.awaitRecovery(now)
	return r.err
}

// fetch lets the source go on as far as it can at this instant.
func (r *run) fetch(now time.Duration) error {
	if r.fetchDue {
		r.fetchDue = false
		if err := r.source.fetch(); err != nil {
			return err
		}
	}
	state, err := r.rates.State(r.flow.Provider)
	if err != nil {
		return err
	}
	granted, err := r.source.granted(state.Waiters)
	if err != nil || !granted {
		return err
	}
	r.result.Fetched += uint64(r.config.Items)
	r.recorder.fetched += uint64(r.config.Items)
	r.queue.put(r.config.Items, now)
	r.clock.AfterFunc(pace(r.config.Offered, r.config.Items), func() { r.fetchDue = true })
	return nil
}

// awaitRecovery sets the timer to when the queue signals next by itself.
func (r *run) awaitRecovery(now time.Duration) {
	at, ok := r.queue.recovers()
	switch {
	case !ok:
		if r.recovery != nil {
			r.recovery.Stop()
			r.recoveryAt = -1
		}
	case r.recovery == nil:
		r.recovery = r.clock.AfterFunc(at-now, func() { r.recoveryAt = -1 })
		r.recoveryAt = at
	case at != r.recoveryAt:
		r.recovery.Reset(at - now)
		r.recoveryAt = at
	}
}

// signal puts an event of the queue on its way. Of two at one instant the later
// one is a microsecond younger, as on a clock that goes on meanwhile.
func (r *run) signal(level event.Level, depth int) {
	at := r.clock.Now()
	if at.Before(r.nextSignal) {
		at = r.nextSignal
	}
	r.nextSignal = at.Add(time.Microsecond)
	r.sent++
	r.result.Sent[level]++
	id := entryID(at, r.sent)
	lost := false
	for i := range r.losses {
		lost = r.losses[i].takes(level, r.now(), r.config.LoseFor) || lost
	}
	if lost {
		r.result.Lost = append(r.result.Lost, Lost{r.now(), level})
		return
	}
	s := signal{coordinator: Coordinator, level: level, depth: depth, capacity: r.config.Queue.Capacity, at: at}
	data, err := s.entry(r.flow.Track)
	if err != nil {
		r.err = errors.Join(r.err, err)
		return
	}
	r.underWay++
	r.clock.AfterFunc(r.config.Delay, func() {
		r.underWay--
		r.pipeline.deliver(entry{id, data})
	})
}

func (r *run) finish() *Result {
	result, last := r.result, r.recorder.last
	result.Overflow, result.Drained = r.queue.overflow, r.queue.drained
	if could := r.recorder.couldAll; could > 0 {
		result.Utilisation = min(1, float64(result.Drained)/could)
	}
	result.Throughput = float64(result.Drained) / r.config.Duration.Seconds()
	result.Published, result.Refused, result.Reason = r.pipeline.published, r.pipeline.refused, r.pipeline.reason
	if last.pinned {
		result.AtEnd = &Pin{
			Level: event.Level(last.state.Level), Signalled: r.queue.level,
			Since: max(0, last.state.Since.Sub(epoch)),
		}
	}
	return result
}
