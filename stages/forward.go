package stages

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// fieldOriginalID is the entry field by which what is published twice is known as one
// event.
const fieldOriginalID = "original_id"

// forwarder publishes events as the stages have left them.
type forwarder struct {
	deps    Deps
	format  string
	enqueue func(topic string, msg *message.Message) (wait func() error)
}

func newForwarder(deps Deps, format string) *forwarder {
	return &forwarder{deps: deps, format: format, enqueue: enqueueTo(deps.Publisher)}
}

// Forward returns the handler that ends a flow by publishing its events to p, in a
// format of package flows.
func Forward(deps Deps, p Publication, format string) (message.NoPublishHandlerFunc, error) {
	if deps.Publisher == nil {
		return nil, errors.New("no publisher")
	}
	f, targets := newForwarder(deps, format), []Publication{p}
	return func(msg *message.Message) error {
		d := From(msg.Context())
		d.Stage = StageTo
		if d.Trace == nil {
			return f.forward(d, targets)
		}
		step := d.Trace.enter(StageTo, d.Trace.behind(), d.Attempts)
		d.Trace.Note("stream %s, format %s", p.Topic, format)
		err := f.forward(d, targets)
		if err == nil {
			d.Trace.pass()
		}
		d.Trace.leave(step, err)
		return err
	}, nil
}

// StageTo is what Delivery.Stage and dead letters call the publishing at the end of a
// flow.
const StageTo = "to"

// forward publishes the event to all targets at once, and returns when all have it or
// with the errors of those that do not. Those that have it from an earlier run of the
// stages are left out: while one is full or down, the others would get it again and
// again.
func (f *forwarder) forward(d *Delivery, targets []Publication) error {
	if len(targets) == 0 {
		return nil
	}
	data, err := f.data(d)
	if err != nil {
		return Permanent(fmt.Errorf("event to publish: %w", err))
	}
	waits := make([]func() error, len(targets))
	for i, t := range targets {
		if d.published[publishedBy{f, t.Key}] {
			if d.Trace != nil {
				d.Trace.Note("%s has it already", t.Topic)
			}
			continue
		}
		out := message.NewMessage("", data)
		// The stream is part of the id: entries of two streams may have the same.
		out.Metadata.Set(fieldOriginalID, f.deps.Stream+"/"+d.Event.ID)
		out.SetContext(d)
		waits[i] = f.enqueue(t.Key, out)
	}
	var errs []error
	for i, wait := range waits {
		if wait == nil {
			continue
		}
		outcome := OutcomeSuccess
		if err := wait(); err != nil {
			outcome = OutcomeError
			errs = append(errs, fmt.Errorf("publish %s: %w", targets[i].Topic, err))
		} else {
			if d.published == nil {
				d.published = make(map[publishedBy]bool, 1)
			}
			d.published[publishedBy{f, targets[i].Key}] = true
		}
		f.deps.Observer.Published(targets[i].Topic, d.Event.Track, outcome.String())
	}
	return errors.Join(errs...)
}

// data is what is published: an envelope, or the bytes that were received. A bare
// event needs an envelope, since what it lacks is taken from its entry's ID.
func (f *forwarder) data(d *Delivery) ([]byte, error) {
	if f.format == flows.FormatSame && d.Event.Dialect != event.DialectBare {
		return d.Event.Data, nil
	}
	return d.Event.Envelope().Append(make([]byte, 0, len(d.Event.Data)+256))
}
