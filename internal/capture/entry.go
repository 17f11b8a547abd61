package capture

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/mjdevaccount/pulseflow/event"
)

// MaxLine bounds one line, in bytes: an entry of the largest size, each byte escaped.
const MaxLine = 6*event.DefaultMaxSize + 4096

// Entry is one line: an entry as it stood on a stream, {"stream", "id", "fields": {...}},
// or an event by itself.
type Entry struct {
	Line int // from 1
	// Stream and ID are empty where the line does not give them.
	Stream, ID string
	// Data is the field data, or the event by itself; nil when the entry has no such field.
	Data []byte
	// Fields are the others.
	Fields map[string]string
}

// Read reads all lines of r, except for empty ones. An error names the line, as
// name:line where there is a name.
func Read(name string, r io.Reader) ([]Entry, error) {
	var list []Entry
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, MaxLine)
	n := 0
	failed := func(err error) error {
		if name == "" {
			return fmt.Errorf("line %d: %w", n, err)
		}
		return fmt.Errorf("%s:%d: %w", name, n, err)
	}
	for lines.Scan() {
		n++
		line := lines.Bytes()
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\uFEFF")) // a byte order mark, as editors write it
		}
		text := bytes.TrimSpace(line)
		if len(text) == 0 {
			continue
		}
		e, err := Parse(text)
		if err != nil {
			return nil, failed(err)
		}
		e.Line = n
		list = append(list, e)
	}
	if err := lines.Err(); err != nil {
		n++
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("the line is longer than %d KiB, and no entry is", MaxLine>>10)
		}
		return nil, failed(err)
	}
	return list, nil
}

// Parse reads one line. An object with a member fields is an entry as it stood on a
// stream; any other is the data of one. The entry keeps nothing of text.
func Parse(text []byte) (Entry, error) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil || object == nil {
		return Entry{}, errors.New("not a JSON object")
	}
	if _, captured := object["fields"]; !captured {
		return Entry{Data: bytes.Clone(text)}, nil
	}
	var captured struct {
		Stream string            `json:"stream"`
		ID     string            `json:"id"`
		Fields map[string]string `json:"fields"`
	}
	if err := json.Unmarshal(text, &captured); err != nil {
		return Entry{}, errors.New(`"fields" must be an object of strings`)
	}
	e := Entry{Stream: captured.Stream, ID: captured.ID, Fields: captured.Fields}
	if data, ok := captured.Fields["data"]; ok {
		e.Data = []byte(data)
		delete(captured.Fields, "data")
	}
	return e, nil
}
