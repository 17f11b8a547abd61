package stages

import (
	"context"

	"github.com/mjdevaccount/pulseflow/event"
)

// Outcome is what became of an event; each event has exactly one.
type Outcome uint8

// The outcomes of docs/contract.md §7, in the order of the metric's label.
const (
	OutcomeSuccess Outcome = iota
	OutcomeError
	OutcomeDuplicate
	OutcomeFiltered
	outcomes // how many there are
)

// Outcomes is how many outcomes there are.
const Outcomes = int(outcomes)

// String returns the metric label.
func (o Outcome) String() string {
	switch o {
	case OutcomeSuccess:
		return "success"
	case OutcomeError:
		return "error"
	case OutcomeDuplicate:
		return "duplicate"
	default:
		return "filtered"
	}
}

// Delivery is one event's way through one flow: the event, and what the stages
// have found out so far. It is the message's context, so every stage reaches it
// with From, and belongs to the goroutine that handles the message.
type Delivery struct {
	context.Context

	// Event is the event as the stages have made it; never nil. A stage does not change
	// it: it gives the Delivery another by Replace.
	Event *event.Event
	// Outcome is success until a stage or the router says otherwise.
	Outcome Outcome
	// Attempts counts the runs of the stages, the present one included.
	Attempts int
	// Stage is the kind of the stage that is running, or that failed.
	Stage string
	// ErrorKind is the kind of the last failure; see ErrorKind.
	ErrorKind string
	// feedback is the event as a feedback event once a stage has found it to be one.
	feedback   event.Feedback
	isFeedback bool
	// Trace collects what the stages do; nil unless somebody asked.
	Trace *Trace
	// Adjustment is what handle decided and rate-apply applies; nil before.
	Adjustment *Adjustment
	// feedbackAdjustment has room for the one of a feedback event.
	feedbackAdjustment Adjustment
	// received is the decoded entry, once Event is another.
	received *event.Event
	// published are the streams that have the event already, by who published it: another
	// run leaves them out.
	published map[publishedBy]bool
}

// publishedBy is a stream, by key, and the forwarder that published to it.
type publishedBy struct {
	by     *forwarder
	stream string
}

// Received is the decoded entry as it came from the stream, whatever the stages have
// made of it: the one that a dead letter keeps.
func (d *Delivery) Received() *event.Event {
	if d.received != nil {
		return d.received
	}
	return d.Event
}

// Replace makes e the event for the stages behind and for what the flow publishes.
func (d *Delivery) Replace(e *event.Event) {
	if d.received == nil {
		d.received = d.Event
	}
	d.Event = e
	d.feedback, d.isFeedback = event.Feedback{}, false
}

// Restart counts another run of the stages and forgets what the last one has found
// and made.
func (d *Delivery) Restart() {
	d.Attempts++
	d.Outcome, d.Adjustment = OutcomeSuccess, nil
	if d.received != nil {
		d.Replace(d.received)
	}
}

// Feedback returns the event as a feedback event, as far as handling it takes; see
// event.Event.LenientFeedback for the error.
func (d *Delivery) Feedback() (event.Feedback, error) {
	if d.isFeedback {
		return d.feedback, nil
	}
	return d.Event.LenientFeedback()
}

type deliveryKey struct{}

// Value implements context.Context.
func (d *Delivery) Value(key any) any {
	if key == (deliveryKey{}) {
		return d
	}
	return d.Context.Value(key)
}

// From returns the Delivery that ctx carries, nil outside a flow.
func From(ctx context.Context) *Delivery {
	if d, ok := ctx.(*Delivery); ok { // nearly always, and many times an event
		return d
	}
	d, _ := ctx.Value(deliveryKey{}).(*Delivery)
	return d
}
