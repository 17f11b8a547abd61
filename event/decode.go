package event

import (
	"fmt"
	"math"
	"strconv"
)

// DefaultMaxSize is the largest entry, in bytes, that a Decoder with a zero MaxSize accepts: 1 MiB (docs/contract.md
// §2).
const DefaultMaxSize = 1 << 20

// The fields of a stream entry that a Decoder reads.
const (
	fieldData       = "data"
	fieldOriginalID = "original_id"
	fieldReplays    = "replays"
)

// Decoder turns entries into events. The zero Decoder is ready for use, and a Decoder may be used by any number of
// goroutines.
type Decoder struct {
	// MaxSize is the largest entry, in bytes, that is decoded; a larger one is refused unread. Zero means
	// DefaultMaxSize.
	MaxSize int
}

// Decode decodes the data of the entry with the given ID. The event is never nil: what is no usable envelope yields
// one with Err set, an ID, and the data. Decode accepts the JSON that encoding/json accepts, provided it is valid
// UTF-8 and nests at most 512 deep, and of that the four dialects of docs/contract.md §2:
//
//   - An object without meta and payload is bare: a feedback event, track v1, whose time is the entry ID's, which must
//     be of the form milliseconds-sequence.
//   - Any other object is an envelope: meta and payload are objects, ts is a finite number, key is a string, null or
//     absent; of meta, schema_id is a non-empty string, track is v1, v2, null or absent (= v1), headers is an object
//     of strings, null or absent, hash is a string, null or absent. Other members are ignored, id among them: an
//     entry's ID is the stream's.
//   - When an envelope's schema_id is SchemaEnvelope it is nested: its payload must itself be an envelope by the same
//     rules, with a schema_id other than SchemaEnvelope, and an id that is a string, null or absent. The inner envelope
//     is then the event's, and its id, when not empty, the event's ID. No other payload is unwrapped.
//
// Of several members with one name the last counts. The event keeps data and its Payload is part of it: neither may
// be changed afterwards.
func (d Decoder) Decode(entryID string, data []byte) *Event {
	e := &Event{ID: entryID, EntryID: entryID, Data: data}
	e.Err = d.decode(e)
	return e
}

// DecodeFields decodes an entry given by its fields, as go-redis returns them in XMessage.Values. Besides the field
// data it reads original_id, the ID that an entry put back from the dead letters had at first, and replays, the
// decimal count of how often it was put back; a malformed count is 0. All other fields are ignored. When there is no
// field data, the event's Err is of KindNoData and its Fields are all of them.
func (d Decoder) DecodeFields(entryID string, fields map[string]any) *Event {
	e := &Event{ID: entryID, EntryID: entryID}
	if id := fieldText(fields[fieldOriginalID]); id != "" {
		e.ID, e.original = id, id
	}
	if text := fieldText(fields[fieldReplays]); text != "" {
		if n, err := strconv.ParseUint(text, 10, 31); err == nil {
			e.Replays = int(n)
		}
	}
	switch data := fields[fieldData].(type) {
	case string:
		// A copy, although sharing the string's memory would save about a fifth of the work: Data becomes the payload of
		// a message, which any stage may write to, and a string that changes breaks whoever else holds it.
		e.Data = []byte(data)
	case []byte:
		e.Data = data
	default:
		e.Fields = fieldTexts(fields)
		e.Err = &DecodeError{Rule: "entry has no field named data", kind: KindNoData}
		return e
	}
	e.Err = d.decode(e)
	return e
}

// fieldText returns a field's value, "" when it is absent or no text.
func fieldText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	default:
		return ""
	}
}

// fieldTexts returns all fields as text.
func fieldTexts(fields map[string]any) map[string]string {
	texts := make(map[string]string, len(fields))
	for name, v := range fields {
		switch v := v.(type) {
		case []byte:
			texts[name] = string(v)
		default:
			texts[name] = fmt.Sprint(v)
		}
	}
	return texts
}

// limit returns the largest size that is decoded.
func (d Decoder) limit() int {
	switch {
	case d.MaxSize <= 0:
		return DefaultMaxSize
	case d.MaxSize > math.MaxInt32:
		return math.MaxInt32
	default:
		return d.MaxSize
	}
}

// decode fills e from its Data.
func (d Decoder) decode(e *Event) error {
	if limit := d.limit(); len(e.Data) > limit {
		return sizeError(len(e.Data), limit)
	}
	var s scanner
	dialect, err := s.entry(e.Data)
	if err != nil {
		return err
	}
	if dialect == DialectBare {
		return e.fillBare(&s)
	}
	e.fillEnvelope(dialect, &s)
	return nil
}
