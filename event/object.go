package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Source returns the payload's source when that is a string, else "".
func (e *Event) Source() string {
	if v := e.fields[nameSource]; v.kind == kindString {
		return v.text(e.Data)
	}
	return ""
}

// Object returns the payload's members as plain values: nil, bool, int, float64, string, []any and map[string]any. A
// number that is written as an integer and fits is an int. With names, only the members of those names are decoded,
// which costs little more than finding them; a member that the payload lacks is not in the map. A bare event has the
// ts and source that Document adds. The map is the caller's.
//
// It returns an error when e has Err set, and when a number is too large for a float64.
func (e *Event) Object(names []string) (map[string]any, error) {
	if e.Err != nil {
		return nil, e.Err
	}
	data, body := e.Data, e.body
	if e.Dialect == DialectBare {
		data = e.Document()
		body = value{end: uint32(len(data)), shape: shape{kind: kindObject}}
	}
	object := make(map[string]any, max(len(names), 4))
	for key, v := range members(data, body) {
		if names != nil && !key.among(data, names) {
			continue
		}
		x, err := plainValue(data, v)
		if err != nil {
			return nil, err
		}
		object[key.text(data)] = x
	}
	return object, nil
}

// among reports whether the string v is one of names.
func (v value) among(data []byte, names []string) bool {
	content := v.bytes(data)
	for _, name := range names {
		if string(content) == name {
			return true
		}
	}
	return false
}

// plainValue decodes a value. What nests is left to encoding/json, which is linear in its length.
func plainValue(data []byte, v value) (any, error) {
	raw := v.raw(data)
	switch v.kind {
	case kindNull:
		return nil, nil
	case kindBool:
		return raw[0] == 't', nil
	case kindString:
		return v.text(data), nil
	case kindNumber:
		return plainNumber(string(raw))
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	var nested any
	if err := decoder.Decode(&nested); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return plainNumbers(nested)
}

// errNumber does not quote the number: it is part of a payload.
var errNumber = errors.New("payload: a number is too large")

func plainNumber(text string) (any, error) {
	if n, err := strconv.Atoi(text); err == nil {
		return n, nil
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, errNumber
	}
	return x, nil
}

// plainNumbers replaces the numbers that UseNumber left as text.
func plainNumbers(x any) (any, error) {
	var err error
	switch x := x.(type) {
	case json.Number:
		return plainNumber(x.String())
	case []any:
		for i := range x {
			if x[i], err = plainNumbers(x[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for key := range x {
			if x[key], err = plainNumbers(x[key]); err != nil {
				return nil, err
			}
		}
	}
	return x, nil
}

// AppendValue appends a plain value, as Object returns them, as JSON to dst: an object's members in the order of their
// names, a number that is not an integer in the spelling of Python's json.dumps. It refuses numbers that are not finite,
// text that is not valid UTF-8, what nests deeper than an entry may, and values of any other type; its errors do not
// quote the value.
func AppendValue(dst []byte, x any) ([]byte, error) { return appendValue(dst, x, 0) }

func appendValue(dst []byte, x any, depth int) ([]byte, error) {
	if depth > maxDepth {
		return dst, errors.New("nested too deep")
	}
	var err error
	switch x := x.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, x), nil
	case int:
		return strconv.AppendInt(dst, int64(x), 10), nil
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return dst, errors.New("a number is not finite")
		}
		return appendFloat(dst, x), nil
	case string:
		if !utf8.ValidString(x) {
			return dst, errors.New("text is not valid UTF-8")
		}
		return appendQuoted(dst, x, false), nil
	case []any:
		dst = append(dst, '[')
		for i, item := range x {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			if dst, err = appendValue(dst, item, depth+1); err != nil {
				return dst, err
			}
		}
		return append(dst, ']'), nil
	case map[string]string:
		copied := make(map[string]any, len(x))
		for key, text := range x {
			copied[key] = text
		}
		return appendValue(dst, copied, depth)
	case map[string]any:
		dst = append(dst, '{')
		for i, key := range slices.Sorted(maps.Keys(x)) {
			if i > 0 {
				dst = append(dst, ", "...)
			}
			if dst, err = appendValue(dst, key, depth); err != nil {
				return dst, err
			}
			dst = append(dst, ": "...)
			if dst, err = appendValue(dst, x[key], depth+1); err != nil {
				return dst, err
			}
		}
		return append(dst, '}'), nil
	default:
		return dst, fmt.Errorf("a value of type %T has no form in JSON", x)
	}
}

// Member is a member of an object and its value in JSON.
type Member struct {
	Name  string
	Value []byte
}

// AppendDocument appends the payload as Document returns it, with members replaced or added and others removed. The
// members that neither concerns are kept as they were sent.
func (e *Event) AppendDocument(dst []byte, set []Member, remove []string) []byte {
	document := e.Document()
	body := value{end: uint32(len(document)), shape: shape{kind: kindObject}}
	done := make([]bool, len(set))
	separator := "{"
	for key, v := range members(document, body) {
		content := key.bytes(document)
		if key.among(document, remove) {
			continue
		}
		raw := v.raw(document)
		if i := slices.IndexFunc(set, func(m Member) bool { return m.Name == string(content) }); i >= 0 {
			if done[i] { // a repeated member
				continue
			}
			raw, done[i] = set[i].Value, true
		}
		dst = append(dst, separator...)
		dst = append(dst, key.raw(document)...)
		dst = append(dst, ": "...)
		dst = append(dst, raw...)
		separator = ", "
	}
	for i, m := range set {
		if done[i] {
			continue
		}
		dst = append(dst, separator...)
		dst = appendQuoted(dst, m.Name, false)
		dst = append(dst, ": "...)
		dst = append(dst, m.Value...)
		separator = ", "
	}
	if separator == "{" {
		dst = append(dst, '{')
	}
	return append(dst, '}')
}

// Envelope returns the event as an envelope to be sent: what its own says, with its OrderKey as the key and the payload
// of Document.
func (e *Event) Envelope() Envelope {
	return Envelope{
		Time: e.Time, Key: e.OrderKey(), Schema: e.Schema, Track: e.Track, Headers: e.Headers(), Payload: e.Document(),
	}
}

// With returns the event that e becomes when its envelope is replaced: decoded anew, and still the same entry, with the
// same IDs and counts. e is not changed. It returns an error when the envelope is not one (see Envelope.Append) or is
// longer than limit, 0 meaning DefaultMaxSize.
func (e *Event) With(envelope Envelope, limit int) (*Event, error) {
	data, err := envelope.Append(nil)
	if err != nil {
		return nil, err
	}
	changed := Decoder{MaxSize: limit}.Decode(e.EntryID, data)
	if changed.Err != nil {
		return nil, changed.Err
	}
	changed.ID, changed.original = e.ID, e.original
	changed.Deliveries, changed.Replays = e.Deliveries, e.Replays
	return changed, nil
}
