package app

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
)

// maxLine bounds one line of a recording, in bytes: an entry of the largest size,
// each byte escaped.
const maxLine = 6*event.DefaultMaxSize + 4096

// recorded is one entry of a recording: a line of JSON, either an entry as it
// stood on a stream, {"stream", "id", "fields": {...}}, or an event by itself.
type recorded struct {
	line   int
	topic  string // where it goes
	stream string
	id     string
	data   []byte            // nil when the entry has no data field
	fields map[string]string // the fields beside data
}

// openRecording reads a recording from a file, or from stdin for "-", which it gives
// up when ctx ends: standard input may never do.
func openRecording(ctx context.Context, path string, stdin io.Reader) ([]recorded, error) {
	if path == "-" {
		type result struct {
			list []recorded
			err  error
		}
		read := make(chan result, 1)
		go func() {
			list, err := readRecording("standard input", stdin)
			read <- result{list, err}
		}()
		select {
		case r := <-read:
			return r.list, r.err
		case <-ctx.Done():
			return nil, fmt.Errorf("read standard input: %w", ctx.Err())
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	defer f.Close()
	return readRecording(path, f)
}

// readRecording reads lines of JSON. An error names the line.
func readRecording(name string, r io.Reader) ([]recorded, error) {
	var list []recorded
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		e, err := parseRecorded(text)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		e.line = n
		list = append(list, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, n+1, err)
	}
	return list, nil
}

func parseRecorded(text []byte) (recorded, error) {
	var entry struct {
		Stream string            `json:"stream"`
		ID     string            `json:"id"`
		Fields map[string]string `json:"fields"`
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return recorded{}, errors.New("not a JSON object")
	}
	if _, captured := object["fields"]; !captured {
		return recorded{data: bytes.Clone(text)}, nil
	}
	if err := json.Unmarshal(text, &entry); err != nil {
		return recorded{}, errors.New(`"fields" must be an object of strings`)
	}
	e := recorded{stream: entry.Stream, id: entry.ID, fields: entry.Fields}
	if data, ok := entry.Fields["data"]; ok {
		e.data = []byte(data)
		delete(entry.Fields, "data")
	}
	return e, nil
}

// shiftTimes moves the times of all entries by one amount, so that the newest
// event happens now. Entries without a time stay as they are.
func shiftTimes(list []recorded, now time.Time) error {
	newest := math.Inf(-1)
	for _, e := range list {
		if t, ok := (event.Decoder{}).Decode(e.id, e.data).EventTime(); ok && t > newest {
			newest = t
		}
	}
	if math.IsInf(newest, -1) {
		return nil
	}
	by := event.Seconds(now) - newest
	for i, e := range list {
		if ev := (event.Decoder{}).Decode(e.id, e.data); ev.Err != nil {
			continue
		}
		data, err := event.ShiftTime(e.data, by)
		if err != nil {
			return fmt.Errorf("line %d: shift time: %w", e.line, err)
		}
		list[i].data = data
	}
	return nil
}

// topicOf finds the topic an entry goes to: the one asked for, else the one its
// recorded stream names, else the only one there is.
func topicOf(e recorded, asked string, topics []string) (string, error) {
	if asked != "" {
		if !slices.Contains(topics, asked) {
			return "", fmt.Errorf("no flow reads %q; the flows read %s", asked, strings.Join(topics, ", "))
		}
		return asked, nil
	}
	for _, topic := range topics {
		if e.stream == topic || strings.HasSuffix(e.stream, "."+topic) {
			return topic, nil
		}
	}
	if len(topics) == 1 {
		return topics[0], nil
	}
	return "", fmt.Errorf("line %d: which stream? the flows read %s: name one with --stream", e.line,
		strings.Join(topics, ", "))
}
