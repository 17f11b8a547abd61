package flowtest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/capture"
)

// noTime stands for a time that the file does not give.
const noTime time.Duration = -1

// readRecording reads a JSONL file. Each line is an event, or an entry as it stood on
// a stream: {"id": ..., "fields": {"data": ...}}. An error names the line.
func readRecording(path string) ([]capture.Entry, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: must be a file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		var pathError *fs.PathError
		if errors.As(err, &pathError) {
			err = pathError.Err
		}
		return nil, fmt.Errorf("%s: cannot be read: %w", path, err)
	}
	defer f.Close()
	return capture.Read("", f)
}

// timed is an entry with the time at which it is put on a stream.
type timed struct {
	entry
	input *Input
	at    time.Time
}

// entries makes the entries of an input, whose form and files resolve has checked.
func (i *Input) entries(start time.Time) ([]timed, error) {
	form, err := i.form()
	if err != nil {
		return nil, err
	}
	at := start.Add(i.At)
	if form == "from" {
		return i.recorded(at)
	}
	list := make([]timed, i.Repeat)
	for k := range list {
		e := entry{id: i.ID}
		switch form {
		case "payload":
			e.data, err = i.envelope(start, at)
		case "envelope":
			e.data, err = encodeJSON(i.Envelope.Value())
		case "base64":
			e.data, err = base64.StdEncoding.DecodeString(i.Base64)
		default:
			e.data = []byte(i.Raw)
		}
		if err != nil {
			return nil, err
		}
		list[k] = timed{e, i, at}
		at = at.Add(i.Every)
	}
	return list, nil
}

// envelope makes a canonical envelope of the payload. at is when it is put on its
// stream.
func (i *Input) envelope(start, at time.Time) ([]byte, error) {
	when := at
	if i.Time != noTime {
		when = start.Add(i.Time)
	}
	payload, _ := i.Payload.Value().(map[string]any)
	schema := event.CanonicalSchema(i.Schema)
	if _, ok := payload["ts"]; !ok && (schema == event.SchemaFeedback || schema == event.SchemaRateAdjustment) {
		payload["ts"] = event.Seconds(when)
	}
	data, err := encodeJSON(payload)
	if err != nil {
		return nil, err
	}
	env := event.Envelope{Time: event.Seconds(when), Key: i.Key, Schema: schema, Track: i.Track, Payload: data}
	if coordinator, ok := payload["coordinator_id"].(string); ok && env.Key == "" {
		env.Key = coordinator
	}
	if len(i.Headers) > 0 {
		env.Headers = make(map[string]string, len(i.Headers))
		for _, h := range i.Headers {
			env.Headers[h.Name] = h.Value
		}
	}
	return env.Append(nil)
}

// recorded makes the entries of a recording.
func (i *Input) recorded(at time.Time) ([]timed, error) {
	recording, err := readRecording(i.From)
	if err != nil {
		return nil, err
	}
	var list []timed
	for range i.Repeat {
		times := make([]time.Time, len(recording))
		for k := range times {
			times[k] = at
			at = at.Add(i.Every)
		}
		entries := slices.Clone(recording)
		if !i.KeepTimes {
			if err := capture.Shift(entries, func(k int) time.Time { return times[k] }); err != nil {
				return nil, err
			}
		}
		for k, e := range entries {
			list = append(list, timed{entryOf(e), i, times[k]})
		}
	}
	return list, nil
}

func entryOf(e capture.Entry) entry { return entry{id: e.ID, data: e.Data, meta: e.Fields} }

// encodeJSON is json.Marshal without the escapes for HTML.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("not expressible in JSON: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// jsonOf is a YAML value as JSON has it: numbers are float64.
func jsonOf(n *flows.Node) (any, error) {
	text, err := encodeJSON(n.Value())
	if err != nil {
		return nil, err
	}
	var v any
	err = json.Unmarshal(text, &v)
	return v, err
}
