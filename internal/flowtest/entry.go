package flowtest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// noTime stands for a time that the file does not give.
const noTime time.Duration = -1

// maxLine bounds a line of a recording, in bytes: an entry of the largest size, each
// byte escaped.
const maxLine = 6*event.DefaultMaxSize + 4096

// readRecording reads a JSONL file. Each line is an event, or an entry as it stood on
// a stream: {"id": ..., "fields": {"data": ...}}. An error names the line.
func readRecording(path string) ([]entry, error) {
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
	return readEntries(f)
}

func readEntries(r io.Reader) ([]entry, error) {
	var list []entry
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		e, err := ParseEntry(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		list = append(list, e.entry)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n+1, err)
	}
	return list, nil
}

// Entry is something to put on a stream.
type Entry struct{ entry }

// RawEntry is an entry of any bytes.
func RawEntry(data []byte) Entry { return Entry{entry{data: bytes.Clone(data)}} }

// ReadEntries reads lines as ParseEntry does. An error names the line.
func ReadEntries(r io.Reader) ([]Entry, error) {
	read, err := readEntries(r)
	if err != nil {
		return nil, err
	}
	list := make([]Entry, len(read))
	for i, e := range read {
		list[i] = Entry{e}
	}
	return list, nil
}

// ParseEntry reads an entry as it stood on a stream, {"id", "fields"}, or else takes
// the JSON object itself for the entry's data.
func ParseEntry(text []byte) (Entry, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return Entry{}, errors.New("not a JSON object")
	}
	if _, captured := object["fields"]; !captured {
		return Entry{entry{data: bytes.Clone(text)}}, nil
	}
	var captured struct {
		ID     string            `json:"id"`
		Fields map[string]string `json:"fields"`
	}
	if err := json.Unmarshal(text, &captured); err != nil {
		return Entry{}, errors.New(`"fields" must be an object of strings`)
	}
	e := entry{id: captured.ID, meta: captured.Fields}
	if data, ok := captured.Fields["data"]; ok {
		e.data = []byte(data)
		delete(captured.Fields, "data")
	}
	return Entry{e}, nil
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
		first := len(list)
		for _, e := range recording {
			list = append(list, timed{e, i, at})
			at = at.Add(i.Every)
		}
		if !i.KeepTimes {
			if err := shift(list[first:]); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

// shift moves the times of all entries by one amount, so that the newest event
// happens when it is put on its stream. What has no time stays as it is.
func shift(list []timed) error {
	newest, by := math.Inf(-1), 0.0
	for _, e := range list {
		if t, ok := (event.Decoder{}).Decode(e.id, e.data).EventTime(); ok && t > newest {
			newest, by = t, event.Seconds(e.at)-t
		}
	}
	if math.IsInf(newest, -1) {
		return nil
	}
	for i, e := range list {
		if (event.Decoder{}).Decode(e.id, e.data).Err != nil {
			continue
		}
		data, err := event.ShiftTime(e.data, by)
		if err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
		list[i].data = data
	}
	return nil
}

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
