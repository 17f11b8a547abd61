package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/stages"
)

// Fields of a dead letter beside data, docs/contract.md §5. The first two are
// those of the reference; the rest is ours.
const (
	FieldOriginalID = "original_id"
	FieldReason     = "reason"
	FieldFlow       = "flow"
	FieldStage      = "stage"
	FieldAttempts   = "attempts"
	FieldErrorKind  = "error_kind"
	FieldFailedAt   = "failed_at"
	FieldStream     = "stream"
	FieldGroup      = "group"
	FieldReplays    = "replays"
	// FieldFields is a JSON object of the whole entry, where it had no data field.
	FieldFields = "fields"
)

const (
	// maxReason bounds the reason, in bytes.
	maxReason = 1024
	// deadLetterTimeout bounds one write.
	deadLetterTimeout = 5 * time.Second
	// The wait between failed writes doubles from the first to the cap.
	deadLetterFirstWait = 100 * time.Millisecond
	deadLetterMaxWait   = 5 * time.Second
)

// errStopping ends a dead-letter write that the flow's stop interrupted.
var errStopping = errors.New("flow is stopping")

// deadLetters is the publisher behind Watermill's poison queue. It writes what
// docs/contract.md §5 asks for, and tries until it succeeds or the flow stops: the
// event is not acknowledged before.
type deadLetters struct{ flow *flow }

// Publish implements message.Publisher.
func (p deadLetters) Publish(stream string, msgs ...*message.Message) error {
	for _, msg := range msgs {
		if err := p.write(stream, msg); err != nil {
			return err
		}
	}
	return nil
}

// Close implements message.Publisher; the publisher behind it is shared.
func (p deadLetters) Close() error { return nil }

func (p deadLetters) write(stream string, msg *message.Message) error {
	f, d := p.flow, stages.From(msg.Context())
	meta, err := f.deadLetter(d, msg.Metadata)
	if err != nil {
		return err
	}
	wait := deadLetterFirstWait
	for {
		err := f.publishDeadLetter(stream, d, meta)
		if err == nil {
			break
		}
		f.watch.DeadLetterFailed()
		f.log.Error("dead letter not written", "stage", d.Stage, "event_id", d.Event.ID, "err", err)
		if f.clock.Sleep(f.stopped, jittered(wait, 0.2)) != nil {
			return errors.Join(errStopping, err)
		}
		wait = min(2*wait, deadLetterMaxWait)
	}
	d.Outcome = stages.OutcomeError
	f.watch.DeadLettered(meta[FieldErrorKind])
	f.log.Warn("event dead-lettered", "stage", d.Stage, "event_id", d.Event.ID, "outcome", d.Outcome.String(),
		"error_kind", meta[FieldErrorKind], "attempts", d.Attempts, "err", meta[FieldReason])
	return nil
}

// publishDeadLetter writes once. A drain that ran out of time cancels the event's
// context; the write it has come to is finished all the same.
func (f *flow) publishDeadLetter(stream string, d *stages.Delivery, meta message.Metadata) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d), deadLetterTimeout)
	defer cancel()
	out := message.NewMessage("", d.Received().Data)
	out.Metadata = meta
	out.SetContext(ctx)
	return f.publisher.Publish(stream, out)
}

// deadLetter makes the fields of a dead letter. poisoned is what Watermill's
// poison queue says; its reason is the error's text.
func (f *flow) deadLetter(d *stages.Delivery, poisoned message.Metadata) (message.Metadata, error) {
	e := d.Received()
	meta := make(message.Metadata, len(poisonKeys)+12)
	// Of the message's metadata only what the poison queue has set: the rest are the
	// entry's other fields, whose names could be those of a dead letter.
	for _, k := range poisonKeys {
		meta[k] = poisoned.Get(k)
	}
	reason := truncated(poisoned.Get(poisonReasonKey))
	meta[poisonReasonKey] = reason
	meta[FieldOriginalID] = e.OriginalID()
	meta[FieldReason] = reason
	meta[FieldFlow] = f.plan.Name
	meta[FieldStage] = d.Stage
	meta[FieldAttempts] = strconv.Itoa(d.Attempts)
	meta[FieldErrorKind] = d.ErrorKind
	meta[FieldFailedAt] = f.clock.Now().UTC().Format(time.RFC3339Nano)
	meta[FieldStream] = f.plan.Topic
	meta[FieldGroup] = f.plan.Group
	if e.Replays > 0 {
		meta[FieldReplays] = strconv.Itoa(e.Replays)
	}
	if e.Fields != nil {
		fields, err := json.Marshal(e.Fields)
		if err != nil {
			return nil, fmt.Errorf("encode entry fields: %w", err)
		}
		meta[FieldFields] = string(fields)
	}
	return meta, nil
}

func truncated(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason-3], "") + "..."
}
