package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/router"
)

// letters are the dead letters of a plan's flows. A flow's are on the bus that it reads
// from, which bus returns by its name.
type letters struct {
	plan *router.Plan
	bus  func(name string) letterBus
}

// letterBus is what of a bus dead letters need.
type letterBus interface {
	// put adds an entry to a stream and returns its id. It does not wait: a bus that
	// is full or down is admin.ErrUnavailable.
	put(ctx context.Context, stream string, data []byte, fields map[string]string) (string, error)
	// Newest returns the newest n entries of a stream, newest first.
	Newest(ctx context.Context, stream string, n int) ([]bus.Entry, error)
	// Entry returns, and Delete deletes, an entry of a stream of dead letters;
	// bus.ErrNoEntry when it is not there.
	Entry(ctx context.Context, stream, id string) (bus.Entry, error)
	Delete(ctx context.Context, stream, id string) error
	// overflow is how many entries of a stream a bounded buffer has dropped.
	overflow(stream string) int64
}

func (l letters) flow(name string) (router.FlowPlan, error) {
	for _, p := range l.plan.Flows {
		if p.Name == name {
			return p, nil
		}
	}
	return router.FlowPlan{}, fmt.Errorf("flow %q: %w", name, admin.ErrNotFound)
}

// list reads the newest n of each flow, or of one.
func (l letters) list(ctx context.Context, flow string, n int) ([]admin.FlowDeadLetters, error) {
	list := []admin.FlowDeadLetters{}
	for _, p := range l.plan.Flows {
		if flow != "" && flow != p.Name {
			continue
		}
		f := admin.FlowDeadLetters{Flow: p.Name, Stream: p.DeadLetterKey, DeadLetters: []admin.DeadLetter{}}
		own := l.bus(p.Bus)
		entries, err := own.Newest(ctx, p.DeadLetterKey, n)
		if err != nil {
			f.Error = err.Error()
		}
		for _, e := range entries {
			// Flows that read one stream in several groups share its dead letters' stream;
			// those of the reference name no flow.
			if of := e.Fields[router.FieldFlow]; of == "" || of == p.Name {
				f.DeadLetters = append(f.DeadLetters, deadLetterOf(e))
			}
		}
		f.Overflow = own.overflow(p.DeadLetterKey)
		list = append(list, f)
	}
	if flow != "" && len(list) == 0 {
		return nil, fmt.Errorf("flow %q: %w", flow, admin.ErrNotFound)
	}
	return list, nil
}

func (l letters) remove(ctx context.Context, flow, id string) error {
	p, err := l.flow(flow)
	if err != nil {
		return err
	}
	return found(l.bus(p.Bus).Delete(ctx, p.DeadLetterKey, id))
}

// replay puts a dead letter back on its flow's stream as it came, with the id it had
// first and the number of times it has come back.
func (l letters) replay(ctx context.Context, flow, id string, keep bool) (string, error) {
	p, err := l.flow(flow)
	if err != nil {
		return "", err
	}
	own := l.bus(p.Bus)
	e, err := own.Entry(ctx, p.DeadLetterKey, id)
	if err != nil {
		return "", found(err)
	}
	d := deadLetterOf(e)
	fields := make(map[string]string)
	var data []byte
	if text, ok := e.Fields["data"]; ok {
		data = []byte(text)
	} else {
		for k, v := range d.Fields {
			fields[k] = v
		}
	}
	for k, v := range replayFields(d.OriginalID, strconv.Itoa(d.Replays+1)) {
		fields[k] = v
	}
	put, err := own.put(ctx, p.StreamKey, data, fields)
	if err != nil || keep {
		return put, err
	}
	if err := own.Delete(ctx, p.DeadLetterKey, id); err != nil && !errors.Is(err, bus.ErrNoEntry) {
		return put, fmt.Errorf("put back as %s, but not removed: %w", put, err)
	}
	return put, nil
}

// found turns the bus's word for an entry that is not there into the listener's.
func found(err error) error {
	if errors.Is(err, bus.ErrNoEntry) {
		return fmt.Errorf("dead letter: %w", admin.ErrNotFound)
	}
	return err
}

// deadLetterOf reads an entry of a dead-letter stream: ours, or the reference's
// three fields.
func deadLetterOf(e bus.Entry) admin.DeadLetter {
	d := admin.DeadLetter{
		ID: e.ID, OriginalID: e.Fields[router.FieldOriginalID], Reason: e.Fields[router.FieldReason],
		ErrorKind: e.Fields[router.FieldErrorKind], Stage: e.Fields[router.FieldStage],
		FailedAt: e.Fields[router.FieldFailedAt],
	}
	d.Attempts = count(e.Fields[router.FieldAttempts])
	d.Replays = count(e.Fields[router.FieldReplays])
	if data, ok := e.Fields["data"]; ok {
		if utf8.ValidString(data) {
			d.Data = data
		} else {
			d.DataBase64 = []byte(data)
		}
	}
	if fields, ok := e.Fields[router.FieldFields]; ok && d.Data == "" && d.DataBase64 == nil {
		// Written by this program as an object of strings; anything else is shown empty.
		_ = json.Unmarshal([]byte(fields), &d.Fields)
	}
	return d
}

// count reads a number of times; anything else is none.
func count(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n >= math.MaxInt32 {
		return 0
	}
	return n
}
