package event

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"
)

// Envelope is an event to be sent, in the canonical dialect of docs/contract.md §2.
type Envelope struct {
	Time    float64           // when it is sent, epoch seconds
	Key     string            // what its order is kept by; empty = null
	Schema  string            // the schema id of Payload; an alias is written as what it stands for
	Track   string            // TrackV1 or TrackV2; empty = TrackV1
	Headers map[string]string // written in the order of their names
	Payload []byte            // a JSON object, which is written as it is
}

// Append appends the envelope as a JSON object to dst, in the spelling of Python's json.dumps and with the payload's
// hash. What it writes, a Decoder accepts. It refuses a time that is not finite, an unknown track, an empty schema id
// or SchemaEnvelope, text that is not valid UTF-8, and a payload that is not a JSON object; then dst is returned as
// it was.
func (e Envelope) Append(dst []byte) ([]byte, error) {
	if err := e.check(); err != nil {
		return dst, fmt.Errorf("envelope: %w", err)
	}
	payload := trimSpace(e.Payload)
	dst = append(dst, `{"ts": `...)
	dst = appendFloat(dst, e.Time)
	dst = append(dst, `, "key": `...)
	if e.Key == "" {
		dst = append(dst, "null"...)
	} else {
		dst = appendQuoted(dst, e.Key, true)
	}
	dst = append(dst, `, "meta": {"schema_id": `...)
	dst = appendQuoted(dst, CanonicalSchema(e.Schema), true)
	dst = append(dst, `, "track": "`...)
	dst = append(dst, e.track()...)
	dst = append(dst, `", "headers": {`...)
	for i, key := range slices.Sorted(maps.Keys(e.Headers)) {
		if i > 0 {
			dst = append(dst, ", "...)
		}
		dst = appendQuoted(dst, key, true)
		dst = append(dst, ": "...)
		dst = appendQuoted(dst, e.Headers[key], true)
	}
	dst = append(dst, `}, "hash": "`...)
	dst = appendHash(dst, payload)
	dst = append(dst, `"}, "payload": `...)
	dst = append(dst, payload...)
	return append(dst, '}'), nil
}

// track returns the track to write.
func (e Envelope) track() string {
	if e.Track == "" {
		return TrackV1
	}
	return e.Track
}

// check reports the first rule that the envelope breaks.
func (e Envelope) check() error {
	switch {
	case math.IsNaN(e.Time) || math.IsInf(e.Time, 0):
		return errors.New("time must be finite")
	case !utf8.ValidString(e.Key):
		return errors.New("key must be valid UTF-8")
	case e.Schema == "" || e.Schema == SchemaEnvelope:
		return errors.New("schema must be the id of an event type")
	case !utf8.ValidString(e.Schema):
		return errors.New("schema must be valid UTF-8")
	case !validTrack(e.track()):
		return errors.New("track must be v1 or v2")
	}
	for key, text := range e.Headers {
		if !utf8.ValidString(key) || !utf8.ValidString(text) {
			return errors.New("headers must be valid UTF-8")
		}
	}
	// The payload is one level deeper in the entry.
	s := scanner{depth: 1}
	s.document(e.Payload)
	switch {
	case s.fault != faultNone:
		return fmt.Errorf("payload: %w", s.err())
	case s.root.kind != kindObject:
		return errors.New("payload must be an object")
	default:
		return nil
	}
}

// trimSpace returns text without JSON's white space around it.
func trimSpace(text []byte) []byte {
	for len(text) > 0 && isSpace(text[0]) {
		text = text[1:]
	}
	for len(text) > 0 && isSpace(text[len(text)-1]) {
		text = text[:len(text)-1]
	}
	return text
}
