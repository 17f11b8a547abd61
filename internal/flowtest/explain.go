package flowtest

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/internal/capture"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Explanation is what a flow did with one event, and why.
type Explanation struct {
	Flow   string `json:"flow"`
	Stream string `json:"stream"`
	// ID is the event's, Dialect the form it was sent in. Schema, Track, Key and Time
	// are empty when it could not be decoded.
	ID      string `json:"id"`
	Bytes   int    `json:"bytes"`
	Dialect string `json:"dialect"`
	Schema  string `json:"schema,omitempty"`
	Track   string `json:"track,omitempty"`
	Key     string `json:"key,omitempty"`
	Time    string `json:"time,omitempty"`
	// Steps are the runs of stages, in order; a flow that tried again has some twice.
	Steps []ExplainedStep `json:"steps"`
	// Outcome is success, duplicate, filtered or error.
	Outcome    string               `json:"outcome"`
	Attempts   int                  `json:"attempts"`
	DeadLetter *ExplainedDeadLetter `json:"dead_letter,omitempty"`
	Published  []ExplainedMessage   `json:"published"`
	Rates      []ExplainedRate      `json:"rates"`
}

// ExplainedStep is one run of one stage.
type ExplainedStep struct {
	Stage   string `json:"stage"`
	Index   int    `json:"index"`
	Attempt int    `json:"attempt"`
	// Decision is passed, stopped or failed.
	Decision string `json:"decision"`
	// Nanoseconds is the time in the stage itself, in reality.
	Nanoseconds int64    `json:"nanoseconds"`
	Notes       []string `json:"notes"`
	Error       string   `json:"error,omitempty"`
}

// ExplainedDeadLetter is what the dead letter says.
type ExplainedDeadLetter struct {
	Stream string `json:"stream"`
	Stage  string `json:"stage"`
	Kind   string `json:"kind"`
	// Pointer is the JSON pointer of what is wrong, where the reason names one.
	Pointer string `json:"pointer,omitempty"`
	Reason  string `json:"reason"`
}

// ExplainedMessage is what the flow would publish.
type ExplainedMessage struct {
	Stream string          `json:"stream"`
	Data   json.RawMessage `json:"data"`
}

// ExplainedRate is what became of a provider.
type ExplainedRate struct {
	Provider string       `json:"provider"`
	Before   ProviderRate `json:"before"`
	After    ProviderRate `json:"after"`
}

// ProviderRate is a provider's state; Effective is in tokens a second.
type ProviderRate struct {
	Level     string  `json:"level"`
	Scale     float64 `json:"scale"`
	Effective float64 `json:"effective"`
}

// Decisions of a stage.
const (
	DecisionPassed  = "passed"
	DecisionStopped = "stopped"
	DecisionFailed  = "failed"
)

// explained words the runs of stages in a trace.
func explained(t *stages.Trace) []ExplainedStep {
	list := make([]ExplainedStep, len(t.Steps))
	for i, s := range t.Steps {
		list[i] = ExplainedStep{
			Stage: s.Stage, Index: s.Index, Attempt: s.Attempt, Decision: DecisionStopped, Nanoseconds: s.Own.Nanoseconds(),
			Notes: append([]string{}, s.Notes...),
		}
		switch {
		case s.Err != nil:
			list[i].Decision, list[i].Error = DecisionFailed, s.Err.Error()
		case s.Passed:
			list[i].Decision = DecisionPassed
		}
	}
	return list
}

// Explain puts one event through a flow of plan, after those in earlier, and tells
// what the flow did with it. The clock starts at now; nothing is connected to.
func Explain(ctx context.Context, plan *router.Plan, flow string, earlier []capture.Entry, e capture.Entry, now time.Time) (*Explanation, error) {
	w, err := newWorld(plan, nil, now)
	if err != nil {
		return nil, err
	}
	x, err := w.explain(ctx, flow, earlier, e, now)
	if closeErr := w.close(); err == nil && closeErr != nil {
		return nil, fmt.Errorf("end the flows: %w", closeErr)
	}
	return x, err
}

func (w *world) explain(ctx context.Context, flow string, earlier []capture.Entry, e capture.Entry, now time.Time) (*Explanation, error) {
	stream := w.streamKey("", flow)
	for _, before := range earlier {
		w.put(stream, entryOf(before), nil)
		if err := w.schedule.play(ctx, nil, now); err != nil {
			return nil, err
		}
	}
	first, published, before := len(w.line.tasks), len(w.line.published), w.states()
	w.put(stream, entryOf(e), nil)
	if err := w.schedule.play(ctx, nil, now); err != nil {
		return nil, err
	}
	after := w.states()
	for _, t := range w.line.tasks[first:] {
		if t.reader.flow == flow {
			x := w.explained(t, published)
			for i, p := range before {
				x.Rates = append(x.Rates, ExplainedRate{Provider: p.provider, Before: p.ProviderRate, After: after[i].ProviderRate})
			}
			return x, nil
		}
	}
	return nil, fmt.Errorf("flow %q does not read %s", flow, stream)
}

type providerState struct {
	provider string
	ProviderRate
}

func (w *world) states() []providerState {
	var list []providerState
	if w.rates == nil {
		return nil
	}
	for _, s := range w.rates.Status() {
		list = append(list, providerState{s.Provider, ProviderRate{s.Level, s.Scale, s.EffectiveRate}})
	}
	return list
}

// pointerOf finds the JSON pointer with which a reason starts.
var pointerOf = regexp.MustCompile(`(?:^|: )(/[^\s:]*): `)

func (w *world) explained(t *task, published int) *Explanation {
	e := t.event
	x := &Explanation{
		Flow: t.reader.flow, ID: e.ID, Bytes: len(e.Data), Dialect: e.Dialect.String(), Schema: e.Schema, Track: e.Track,
		Key: e.Key, Steps: []ExplainedStep{}, Published: []ExplainedMessage{}, Rates: []ExplainedRate{},
		Outcome: t.result.Outcome.String(), Attempts: t.result.Attempts,
	}
	for _, p := range w.plan.Flows {
		if p.Name == x.Flow {
			x.Stream = p.Topic
		}
	}
	if seconds, ok := e.EventTime(); ok && e.Err == nil {
		x.Time = event.At(seconds).Format(time.RFC3339Nano)
	}
	x.Steps = append(x.Steps, explained(t.result.Trace)...)
	for _, p := range w.line.published[published:] {
		if p.cause != t {
			continue
		}
		if p.meta[router.FieldFlow] == "" {
			data := json.RawMessage(p.data)
			if !json.Valid(data) {
				if text, err := encodeJSON(string(p.data)); err == nil {
					data = text
				}
			}
			x.Published = append(x.Published, ExplainedMessage{Stream: p.stream, Data: data})
			continue
		}
		x.DeadLetter = &ExplainedDeadLetter{
			Stream: p.stream, Stage: p.meta[router.FieldStage], Kind: p.meta[router.FieldErrorKind],
			Reason: p.meta[router.FieldReason],
		}
		if m := pointerOf.FindStringSubmatch(x.DeadLetter.Reason); m != nil {
			x.DeadLetter.Pointer = m[1]
		}
	}
	return x
}
