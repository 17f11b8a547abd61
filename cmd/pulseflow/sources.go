package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/router"
)

// sources are what the admin listener shows of the service.
func (s *service) sources() admin.Sources {
	src := admin.Sources{
		Gatherer: s.metrics, Ready: s.ready, Ingest: s.ingest, DeadLetters: s.deadLetters,
		RemoveDeadLetter: s.removeDeadLetter,
		Flows:            func() any { return s.router.Status() },
	}
	if s.rates != nil {
		src.Rates = func() any { return s.rates.Status() }
	}
	return src
}

// ready sums the flows up: one that should run and does not makes the whole
// degraded; when none should run, the service is disabled.
func (s *service) ready() admin.Readiness {
	statuses := s.router.Status()
	r := admin.Readiness{Status: admin.Disabled}
	for _, f := range statuses {
		switch f.State {
		case router.StateStopping:
			return admin.Readiness{Status: admin.Stopping, Reasons: []string{"the process is shutting down"}}
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
	return r
}

// ingest puts a posted event on the stream of its topic. A bare one becomes a
// canonical envelope here, so that its time is fixed whatever happens to it later.
func (s *service) ingest(ctx context.Context, e admin.Entry) (string, error) {
	if !slices.Contains(activeTopics(s.plan), e.Topic) {
		return "", admin.ErrUnknownStream
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
	return s.bus.put(ctx, sourceKey(s.plan, e.Topic), data, replayFields(e.OriginalID, e.Replays))
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
	for _, p := range s.plan.Flows {
		if p.Topic == topic && p.Disabled == "" {
			return p.Track
		}
	}
	return event.TrackV1
}

// deadLetters reads the newest dead letters of each flow, or of one.
func (s *service) deadLetters(ctx context.Context, flow string, n int) ([]admin.FlowDeadLetters, error) {
	return deadLettersOf(ctx, s.plan, s.bus, flow, n)
}

// removeDeadLetter removes one dead letter of a flow.
func (s *service) removeDeadLetter(ctx context.Context, flow, id string) error {
	for _, p := range s.plan.Flows {
		if p.Name == flow {
			return s.bus.remove(ctx, p.DeadLetterKey, id)
		}
	}
	return fmt.Errorf("no flow %q", flow)
}

func deadLettersOf(
	ctx context.Context, plan *router.Plan, b backend, flow string, n int,
) ([]admin.FlowDeadLetters, error) {
	list := []admin.FlowDeadLetters{}
	for _, p := range plan.Flows {
		if flow != "" && flow != p.Name {
			continue
		}
		f := admin.FlowDeadLetters{Flow: p.Name, Stream: p.DeadLetterKey, DeadLetters: []admin.DeadLetter{}}
		entries, err := b.newest(ctx, p.DeadLetterKey, n)
		if err != nil {
			f.Error = err.Error()
		}
		for _, e := range entries {
			f.DeadLetters = append(f.DeadLetters, deadLetterOf(e))
		}
		f.Overflow = b.overflow(p.DeadLetterKey)
		list = append(list, f)
	}
	if flow != "" && len(list) == 0 {
		return nil, fmt.Errorf("no flow %q", flow)
	}
	return list, nil
}

// deadLetterOf reads an entry of a dead-letter stream: ours, or the reference's
// three fields.
func deadLetterOf(e bus.Entry) admin.DeadLetter {
	d := admin.DeadLetter{
		ID: e.ID, OriginalID: e.Fields[router.FieldOriginalID], Reason: e.Fields[router.FieldReason],
		ErrorKind: e.Fields[router.FieldErrorKind], Stage: e.Fields[router.FieldStage],
		FailedAt: e.Fields[router.FieldFailedAt],
	}
	d.Attempts, _ = strconv.Atoi(e.Fields[router.FieldAttempts])
	d.Replays, _ = strconv.Atoi(e.Fields[router.FieldReplays])
	if data, ok := e.Fields["data"]; ok {
		if utf8.ValidString(data) {
			d.Data = data
		} else {
			d.DataBase64 = []byte(data)
		}
	}
	if fields, ok := e.Fields[router.FieldFields]; ok {
		// Written by this program as an object of strings; anything else is shown empty.
		_ = json.Unmarshal([]byte(fields), &d.Fields)
	}
	return d
}
