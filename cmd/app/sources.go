package app

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/router"
)

// sources are what the admin listener shows of the service.
func (s *service) sources() admin.Sources {
	return admin.Sources{
		Gatherer: s.metrics, Ready: s.ready, Ingest: s.ingest, DeadLetters: s.deadLetters,
		RemoveDeadLetter: s.removeDeadLetter, ReplayDeadLetter: s.replayDeadLetter,
		Flows:  func() any { return s.router.Status() },
		Config: s.reloads.status, Reload: s.reloads.requested,
		Rates: func() any { return s.rates.Status() }, ForgetCoordinator: s.rates.Forget, Pacer: pacer{s.rates},
	}
}

// ready sums the flows up: one that should run and does not makes the whole
// degraded; when none should run, the service is disabled.
func (s *service) ready() admin.Readiness {
	statuses, faults := s.router.Health()
	r := admin.Readiness{Status: admin.Disabled}
	if len(s.buses) > 1 {
		r.Buses = s.busStates(faults)
	}
	for _, f := range statuses {
		switch f.State {
		case router.StateStopping:
			return admin.Readiness{Status: admin.Stopping, Reasons: []string{"the process is shutting down"}}
		case router.StateStarting:
			return admin.Readiness{Status: admin.Starting}
		case router.StateDegraded:
			r.Status = admin.Degraded
		case router.StateRunning:
			if r.Status == admin.Disabled {
				r.Status = admin.Ready
			}
		}
		if f.Reason != "" && !slices.Contains(r.Reasons, f.Reason) {
			r.Reasons = append(r.Reasons, f.Reason)
		}
	}
	s.ratesReady(&r)
	return r
}

// busStates tells of each bus whether it can be used; nothing while no flow runs.
func (s *service) busStates(faults map[string]error) []admin.BusState {
	var list []admin.BusState
	for _, b := range s.buses {
		err, asked := faults[b.Name]
		if !asked {
			continue
		}
		state := admin.BusState{Name: b.Name, Backend: b.Backend, Up: err == nil}
		if err != nil {
			state.Reason = err.Error()
		}
		list = append(list, state)
	}
	return list
}

// ratesReady adds how the rate levels are kept. Providers that grant nothing yet have
// not started.
func (s *service) ratesReady(r *admin.Readiness) {
	if unshared(s.plan()) {
		r.Warnings = append(r.Warnings, "rates are not shared: "+notShared)
	}
	reason, restoring := s.rates.Fault()
	if reason == "" {
		return
	}
	r.Reasons = append(r.Reasons, reason)
	if r.Status == admin.Ready {
		if r.Status = admin.Degraded; restoring {
			r.Status = admin.Starting
		}
	}
}

// unknownStream says which topics can be posted to.
func unknownStream(topic string, topics []string) error {
	if len(topics) == 0 {
		return admin.ErrUnknownStream
	}
	return fmt.Errorf("%w%s; streams: %s", admin.ErrUnknownStream, flows.DidYouMean(topic, topics), strings.Join(topics, ", "))
}

// ingest puts a posted event on the stream of its topic. A bare one becomes a
// canonical envelope here, so that its time is fixed whatever happens to it later.
func (s *service) ingest(ctx context.Context, e admin.Entry) (string, error) {
	if topics := activeTopics(s.plan()); !slices.Contains(topics, e.Topic) {
		return "", unknownStream(e.Topic, topics)
	}
	now := time.Now()
	data := e.Data
	decoded := (event.Decoder{MaxSize: len(data)}).Decode(strconv.FormatInt(now.UnixMilli(), 10)+"-0", data)
	if decoded.Err == nil && decoded.Dialect == event.DialectBare {
		canonical, err := event.CanonicalBare(data, now, s.track(e.Topic))
		if err != nil {
			return "", fmt.Errorf("make envelope: %w", err)
		}
		data = canonical
	}
	bus, key := source(s.plan(), e.Topic)
	if int64(len(data)) > bus.MaxEventSize {
		return "", admin.ErrTooLarge
	}
	return s.buses.of(bus.Name).put(ctx, key, data, replayFields(e.OriginalID, e.Replays))
}

// replayFields are the entry fields beside data of an event that comes back.
func replayFields(originalID, replays string) map[string]string {
	fields := make(map[string]string, 2)
	if originalID != "" {
		fields[router.FieldOriginalID] = originalID
	}
	if replays != "" {
		fields[router.FieldReplays] = replays
	}
	return fields
}

// track is the preferred schema track of the flow that reads topic.
func (s *service) track(topic string) string {
	for _, p := range s.plan().Flows {
		if p.Topic == topic && p.Disabled == "" {
			return p.Track
		}
	}
	return event.TrackV1
}

// deadLetters reads the newest dead letters of each flow, or of one.
func (s *service) deadLetters(ctx context.Context, flow string, n int) ([]admin.FlowDeadLetters, error) {
	return letters{s.plan(), s.buses.letters}.list(ctx, flow, n)
}

// removeDeadLetter removes one dead letter of a flow.
func (s *service) removeDeadLetter(ctx context.Context, flow, id string) error {
	return letters{s.plan(), s.buses.letters}.remove(ctx, flow, id)
}

// replayDeadLetter puts one dead letter back.
func (s *service) replayDeadLetter(ctx context.Context, flow, id string, keep bool) (string, error) {
	return letters{s.plan(), s.buses.letters}.replay(ctx, flow, id, keep)
}
