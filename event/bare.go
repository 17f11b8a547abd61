package event

import (
	"fmt"
	"slices"
	"time"
)

// bareHeaders returns the members of a bare event that are headers in an envelope.
func bareHeaders() [2]name { return [2]name{nameReason, nameUtilization} }

// headerText returns the text of a header that a bare event has as its member n, of value v, and false when the value
// cannot be a header.
func headerText(data []byte, n name, v value) (text string, ok bool) {
	switch {
	case v.kind == kindString:
		return v.text(data), true
	case v.kind == kindNumber && n == nameUtilization:
		return string(v.raw(data)), true
	default:
		return "", false
	}
}

// CanonicalBare returns the bare event in data, received at the given time, as a canonical entry: the envelope's ts
// is the time of receipt, its key the coordinator_id when that is a string, and its track the given one, an empty one
// being TrackV1. The payload's members are kept as they were sent, with these exceptions (docs/contract.md §2):
//
//   - reason, when it is a string, and utilization, when it is a string or a number, become headers; the header is
//     spelled as the member was.
//   - A payload without source gets the source "store", one without ts the time of receipt.
//
// Whether the payload is a feedback event that can be used is for Event.Feedback to say. Data that is no bare event,
// which is an object without meta and without payload, yields a *DecodeError; data may be larger than a
// Decoder's limit. To learn whether data is bare, look at the Dialect of what Decode returns for it.
func CanonicalBare(data []byte, received time.Time, track string) ([]byte, error) {
	var s scanner
	dialect, bad := s.entry(data)
	if bad == nil && dialect != DialectBare {
		bad = &DecodeError{Rule: "must be an event without meta and payload"}
	}
	if bad != nil {
		return nil, bad
	}
	f := &s.frames[0]
	envelope := Envelope{
		Time:   Seconds(received),
		Key:    s.stringAt(0, nameCoordinatorID),
		Schema: SchemaFeedback,
		Track:  track,
	}
	var moved []name
	for _, n := range bareHeaders() {
		if text, ok := headerText(data, n, f[n]); ok {
			if envelope.Headers == nil {
				envelope.Headers = make(map[string]string)
			}
			envelope.Headers[n.String()] = text
			moved = append(moved, n)
		}
	}
	body := bareBody{data: data, root: s.root, fields: fields(f[:payloadNames])}
	envelope.Payload = body.appendTo(nil, envelope.Time, moved)
	entry, err := envelope.Append(nil)
	if err != nil {
		return nil, fmt.Errorf("bare event: %w", err)
	}
	return entry, nil
}

// bareBody is the object that a bare entry consists of.
type bareBody struct {
	data   []byte
	root   value
	fields fields
}

// appendTo appends the object as the payload of an envelope: with the given time and the default source where it has
// none, and without the members that have moved.
func (b bareBody) appendTo(dst []byte, seconds float64, moved []name) []byte {
	separator := "{"
	for key, v := range members(b.data, b.root) {
		if slices.Contains(moved, lookup(key.bytes(b.data))) {
			continue
		}
		dst = append(dst, separator...)
		dst = append(dst, key.raw(b.data)...)
		dst = append(dst, ": "...)
		dst = append(dst, v.raw(b.data)...)
		separator = ", "
	}
	if b.fields[nameSource].kind == kindAbsent {
		dst = append(dst, separator...)
		dst = append(dst, `"source": "`+defaultSource+`"`...)
		separator = ", "
	}
	if b.fields[nameTS].kind == kindAbsent {
		dst = append(dst, separator...)
		dst = append(dst, `"ts": `...)
		dst = appendFloat(dst, seconds)
	}
	return append(dst, '}')
}
