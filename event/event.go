package event

import (
	"strconv"
	"strings"
)

// Event is one stream entry, decoded once. It is not changed after it was decoded, except by the transport that
// carries it, before anyone else has it; so it may be read by any number of goroutines.
type Event struct {
	// ID identifies the event for dedupe: the inner envelope's id when that is not empty, else the entry's field
	// original_id when it has one, else EntryID.
	ID string
	// EntryID is the stream's ID of the entry, which is what is acknowledged.
	EntryID string
	// Dialect is the form in which the entry was sent.
	Dialect Dialect
	// Key is the envelope's key, the inner one's when nested. Empty when it is null or absent, and when bare.
	Key string
	// Time is the envelope's ts in epoch seconds, the inner one's when nested and the entry ID's when bare. It is for
	// lag only; when the event happened is EventTime.
	Time float64
	// Schema is the schema id, the inner one when nested, with aliases resolved; SchemaFeedback when bare.
	Schema string
	// Track is TrackV1 or TrackV2.
	Track string
	// Hash is the envelope's hash as it was sent; when nested and the inner envelope has none, the outer one's. Empty
	// when there is none.
	Hash string
	// Payload is the bytes of the event's payload, a part of Data; the whole object when bare.
	Payload []byte
	// Data is the entry's field data byte for byte; nil when it had none.
	Data []byte
	// Fields is the whole entry, set only when it has no field data.
	Fields map[string]string
	// Deliveries is how often the transport delivered the entry, this time included; 0 when it does not know.
	Deliveries int64
	// Replays is how often the entry was put back from the dead letters.
	Replays int
	// Err says why the entry is no usable envelope, as a *DecodeError; nil when it is one. With it, Key, Time, Schema,
	// Track, Hash and Payload are zero, and so is Dialect, unless all that a bare event lacks is the time of its entry
	// ID.
	Err error

	original     string // the entry's field original_id
	fields       fields // the payload's members of interest
	body         value  // the payload
	headers      value  // the envelope's headers
	hash         value  // the envelope's hash
	outerHash    value  // the outer envelope's hash, when nested
	outerPayload value  // the inner envelope, when nested
}

// OriginalID returns the ID that the entry had when it was first put on a stream: that in its field original_id, which
// an entry put back from the dead letters carries, else EntryID.
func (e *Event) OriginalID() string {
	if e.original != "" {
		return e.original
	}
	return e.EntryID
}

// fillBare fills e from a bare entry. It sets the dialect even where it fails, for the sake of whoever receives bare
// events that are not on a stream yet.
func (e *Event) fillBare(s *scanner) error {
	e.Dialect = DialectBare
	seconds, ok := entryTime(e.EntryID)
	if !ok {
		return &DecodeError{Rule: "entry without envelope must have an ID of the form milliseconds-sequence"}
	}
	e.Time = seconds
	e.Schema = SchemaFeedback
	e.Track = TrackV1
	e.fillPayload(&s.frames[0], s.root)
	return nil
}

// fillEnvelope fills e from an entry with one envelope, or with two when the dialect is nested.
func (e *Event) fillEnvelope(dialect Dialect, s *scanner) {
	level := 0
	if dialect == DialectNested {
		level = 1
		outer := &s.frames[0]
		e.outerHash, e.outerPayload = outer[nameHash], outer[namePayload]
		if id := s.stringAt(level, nameID); id != "" {
			e.ID = id
		}
	}
	own := &s.frames[level]
	e.Dialect = dialect
	e.Key = s.stringAt(level, nameKey)
	e.Time, _ = finite(own[nameTS].raw(e.Data))
	e.Track = TrackV1
	if v := own[nameTrack]; v.kind == kindString && string(s.content(v)) == TrackV2 {
		e.Track = TrackV2
	}
	var alias bool
	if e.Schema, alias = schemaOf(own[nameSchemaID].bytes(e.Data)); alias && dialect == DialectCanonical {
		e.Dialect = DialectDirect
	}
	e.headers, e.hash = own[nameHeaders], own[nameHash]
	if e.Hash = s.stringAt(level, nameHash); e.Hash == "" {
		e.Hash = s.stringAt(0, nameHash)
	}
	e.fillPayload(&s.frames[level+1], own[namePayload])
}

// fillPayload makes body the payload of e, and f its members of interest.
func (e *Event) fillPayload(f *frame, body value) {
	e.body = body
	e.Payload = body.raw(e.Data)
	e.fields = fields(f[:payloadNames])
}

// entryTime returns the time, in epoch seconds, of a stream entry ID of the form milliseconds-sequence.
func entryTime(id string) (seconds float64, ok bool) {
	before, after, _ := strings.Cut(id, "-")
	ms, err := strconv.ParseUint(before, 10, 64)
	if err != nil {
		return 0, false
	}
	if _, err := strconv.ParseUint(after, 10, 64); err != nil {
		return 0, false
	}
	return float64(ms) / 1e3, true
}

// Headers returns the envelope's headers, the inner one's when nested. Of a bare event they are reason, when that is
// a string, and utilization, when that is a string or a number, which is then spelled as it was sent. The map is the
// caller's, and never nil.
func (e *Event) Headers() map[string]string {
	headers := make(map[string]string)
	if e.Dialect == DialectBare {
		for _, n := range bareHeaders() {
			if text, ok := headerText(e.Data, n, e.fields[n]); ok {
				headers[n.String()] = text
			}
		}
		return headers
	}
	if e.headers.kind == kindObject {
		for key, v := range members(e.Data, e.headers) {
			if v.kind == kindString { // if not, a later member of the same name is
				headers[key.text(e.Data)] = v.text(e.Data)
			}
		}
	}
	return headers
}

// Document returns the payload as a schema for its type describes it. That is Payload, except that a bare event which
// was not sent with them has its ts and source added, as CanonicalBare does it.
func (e *Event) Document() []byte {
	if e.Dialect != DialectBare {
		return e.Payload
	}
	return bareBody{data: e.Data, root: e.body, fields: e.fields}.appendTo(nil, e.Time, nil)
}

// OrderKey returns the key within which events keep their order: Key, else the payload's coordinator_id when it is a
// string, else "".
func (e *Event) OrderKey() string {
	if v := e.fields[nameCoordinatorID]; e.Key == "" && v.kind == kindString {
		return v.text(e.Data)
	}
	return e.Key
}

// EventTime returns when the event happened, in epoch seconds: the payload's ts, and false when that is missing or
// not a finite number. A bare event without ts happened at Time.
func (e *Event) EventTime() (seconds float64, ok bool) {
	v := e.fields[nameTS]
	if v.kind == kindAbsent && e.Dialect == DialectBare {
		return e.Time, true
	}
	if v.kind != kindNumber {
		return 0, false
	}
	return finite(v.raw(e.Data))
}
