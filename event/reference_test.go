package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// object is a JSON object as encoding/json decodes it: the last member of a name wins.
type object map[string]json.RawMessage

// reference is what the reference decoder makes of an entry.
type reference struct {
	Dialect  Dialect
	ID       string
	Key      string
	Time     float64
	Schema   string
	Track    string
	Hash     string
	Headers  map[string]string
	OrderKey string
	Payload  string

	payload object
}

var errReference = errors.New("no entry")

// referenceDecode decodes an entry by the rules of Decoder.Decode, step by step and with encoding/json.
func referenceDecode(entryID string, data []byte) (*reference, error) {
	if !referenceValid(data) {
		return nil, errReference
	}
	outer, ok := asObject(data)
	if !ok {
		return nil, errReference
	}
	_, hasMeta := outer["meta"]
	_, hasPayload := outer["payload"]
	if !hasMeta && !hasPayload {
		return referenceBare(entryID, bytes.TrimSpace(data), outer)
	}
	r, err := referenceEnvelope(outer)
	if err != nil {
		return nil, err
	}
	r.ID = entryID
	if r.Schema != SchemaEnvelope {
		return r, nil
	}
	hash := r.Hash
	inner := r.payload
	if r, err = referenceEnvelope(inner); err != nil {
		return nil, err
	}
	if r.Schema == SchemaEnvelope {
		return nil, errReference
	}
	r.Dialect = DialectNested
	if r.ID, err = optionalString(inner, "id"); err != nil {
		return nil, err
	}
	if r.ID == "" {
		r.ID = entryID
	}
	if r.Hash == "" {
		r.Hash = hash
	}
	return r, nil
}

// referenceBare decodes a bare entry.
func referenceBare(entryID string, data []byte, o object) (*reference, error) {
	ms, seq, ok := strings.Cut(entryID, "-")
	at, err := strconv.ParseUint(ms, 10, 64)
	if _, err2 := strconv.ParseUint(seq, 10, 64); !ok || err != nil || err2 != nil {
		return nil, errReference
	}
	r := &reference{
		Dialect: DialectBare,
		ID:      entryID,
		Time:    float64(at) / 1000,
		Schema:  SchemaFeedback,
		Track:   TrackV1,
		Headers: map[string]string{},
		Payload: string(data),
		payload: o,
	}
	if text, ok := asString(o["reason"]); ok {
		r.Headers["reason"] = text
	}
	if text, ok := asString(o["utilization"]); ok {
		r.Headers["utilization"] = text
	} else if asNumber(o["utilization"]) {
		r.Headers["utilization"] = string(o["utilization"])
	}
	r.OrderKey, _ = asString(o["coordinator_id"])
	return r, nil
}

// referenceEnvelope decodes one envelope.
func referenceEnvelope(o object) (*reference, error) {
	meta, ok := asObject(o["meta"])
	if !ok {
		return nil, errReference
	}
	r := &reference{Dialect: DialectCanonical, Track: TrackV1, Headers: map[string]string{}, Payload: string(o["payload"])}
	if r.payload, ok = asObject(o["payload"]); !ok {
		return nil, errReference
	}
	if r.Schema, ok = asString(meta["schema_id"]); !ok || r.Schema == "" {
		return nil, errReference
	}
	if r.Schema == aliasFeedback || r.Schema == aliasRateAdjustment {
		r.Dialect = DialectDirect
		r.Schema = "telemetry." + r.Schema[strings.LastIndex(r.Schema, ".")+1:]
	}
	if !isNull(meta["track"]) {
		if r.Track, ok = asString(meta["track"]); !ok || r.Track != TrackV1 && r.Track != TrackV2 {
			return nil, errReference
		}
	}
	if !isNull(meta["headers"]) {
		headers, ok := asObject(meta["headers"])
		if !ok {
			return nil, errReference
		}
		for name, v := range headers {
			if r.Headers[name], ok = asString(v); !ok {
				return nil, errReference
			}
		}
	}
	var err error
	if r.Hash, err = optionalString(meta, "hash"); err != nil {
		return nil, err
	}
	if r.Key, err = optionalString(o, "key"); err != nil {
		return nil, err
	}
	if !asNumber(o["ts"]) {
		return nil, errReference
	}
	if r.Time, err = strconv.ParseFloat(string(o["ts"]), 64); err != nil {
		return nil, errReference
	}
	if r.OrderKey = r.Key; r.Key == "" {
		r.OrderKey, _ = asString(r.payload["coordinator_id"])
	}
	return r, nil
}

// feedback decodes the payload as a feedback event. It gives no answer for numbers that take long to compute with.
func (r *reference) feedback() (f Feedback, valid, known bool) {
	var ok [6]bool
	var known1, known2 bool
	f.CoordinatorID, ok[0] = asString(r.payload["coordinator_id"])
	f.QueueSize, ok[1], known1 = referenceInteger(r.payload["queue_size"])
	ok[1] = ok[1] && f.QueueSize >= 0
	f.Capacity, ok[2], known2 = referenceInteger(r.payload["capacity"])
	ok[2] = ok[2] && f.Capacity > 0
	level, isString := asString(r.payload["level"])
	f.Level, ok[3] = ParseLevel(level)
	ok[3] = ok[3] && isString
	f.Source, ok[4] = "store", true
	if v, there := r.payload["source"]; there {
		f.Source, ok[4] = asString(v)
	}
	f.Time, ok[5] = r.eventTime()
	valid = true
	for _, ok := range ok {
		valid = valid && ok
	}
	return f, valid, known1 && known2
}

// rateAdjustment decodes the payload as a rate adjustment, like feedback.
func (r *reference) rateAdjustment() (a RateAdjustment, valid, known bool) {
	var ok [4]bool
	a.Provider, ok[0] = asString(r.payload["provider"])
	scale, known := referenceRat(r.payload["scale"])
	if scale != nil {
		a.Scale, _ = strconv.ParseFloat(string(r.payload["scale"]), 64)
		a.Scale = math.Abs(a.Scale)
		ok[1] = scale.Sign() >= 0 && scale.Cmp(big.NewRat(1, 1)) <= 0
	}
	reason, isString := asString(r.payload["reason"])
	a.Reason, ok[2] = ParseLevel(reason)
	ok[2] = ok[2] && isString
	a.Time, ok[3] = r.eventTime()
	return a, ok[0] && ok[1] && ok[2] && ok[3], known
}

// eventTime returns when the event happened.
func (r *reference) eventTime() (float64, bool) {
	v, there := r.payload["ts"]
	if !there && r.Dialect == DialectBare {
		return r.Time, true
	}
	if !asNumber(v) {
		return 0, false
	}
	x, err := strconv.ParseFloat(string(v), 64)
	return x, err == nil
}

// referenceValid reports whether data is JSON as the scanner has it.
func referenceValid(data []byte) bool {
	if !utf8.Valid(data) || !json.Valid(data) {
		return false
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // the default is to refuse large ones
	depth := 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			return true
		}
		if err != nil {
			panic(err) // it is valid
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			if depth++; depth > maxDepth {
				return false
			}
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
}

// referenceRat returns the exact value of a number, nil when it is none or has an exponent that is not practicable.
func referenceRat(v json.RawMessage) (x *big.Rat, known bool) {
	if !asNumber(v) {
		return nil, true
	}
	if i := bytes.IndexAny(v, "eE"); i >= 0 {
		if n, err := strconv.Atoi(string(v[i+1:])); err != nil || n > 1000 || n < -1000 {
			return nil, false
		}
	}
	x, ok := new(big.Rat).SetString(string(v))
	if !ok {
		panic(fmt.Sprintf("not a number: %s", v))
	}
	return x, true
}

// referenceInteger returns the value of an integer, clipped to the range of int64.
func referenceInteger(v json.RawMessage) (n int64, ok, known bool) {
	x, known := referenceRat(v)
	switch {
	case x == nil || !x.IsInt():
		return 0, false, known
	case x.Num().IsInt64():
		return x.Num().Int64(), true, known
	case x.Sign() < 0:
		return math.MinInt64, true, known
	default:
		return math.MaxInt64, true, known
	}
}

// referencePayload returns the bytes of the payload, of the inner envelope's when nested.
func referencePayload(t *testing.T, data []byte, nested bool) string {
	t.Helper()
	o, _ := asObject(data)
	if nested {
		o, _ = asObject(o["payload"])
	}
	return string(o["payload"])
}

// referenceCompact returns a JSON text as Python's json.dumps writes it with separators=(",", ":") and
// ensure_ascii=False, except that numbers keep their spelling.
func referenceCompact(text []byte) []byte {
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		panic(err)
	}
	var out []byte
	in := compact.Bytes()
	for len(in) > 0 {
		if in[0] != '"' {
			out = append(out, in[0])
			in = in[1:]
			continue
		}
		end := 1
		for in[end] != '"' {
			if in[end] == '\\' {
				end++
			}
			end++
		}
		out = append(out, referenceQuoted(in[:end+1])...)
		in = in[end+1:]
	}
	return out
}

// referenceQuoted returns a JSON string with no more escapes than needed.
func referenceQuoted(quoted []byte) string {
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		panic(err)
	}
	var out strings.Builder
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(text); err != nil {
		panic(err)
	}
	// The encoder escapes two characters that need it only in JavaScript. A backslash of the text is doubled.
	s := strings.TrimSuffix(out.String(), "\n")
	return strings.NewReplacer(`\\`, `\\`, `\u2028`, "\u2028", `\u2029`, "\u2029").Replace(s)
}

// asObject returns v as an object, and false when it is none.
func asObject(v json.RawMessage) (object, bool) {
	if v = bytes.TrimSpace(v); len(v) == 0 || v[0] != '{' {
		return nil, false
	}
	var o object
	if err := json.Unmarshal(v, &o); err != nil {
		return nil, false
	}
	return o, true
}

// asString returns v as a string, and false when it is none.
func asString(v json.RawMessage) (string, bool) {
	if len(v) == 0 || v[0] != '"' {
		return "", false
	}
	var s string
	if err := json.Unmarshal(v, &s); err != nil {
		return "", false
	}
	return s, true
}

// asNumber reports whether v is a number.
func asNumber(v json.RawMessage) bool {
	return len(v) > 0 && (v[0] == '-' || v[0] >= '0' && v[0] <= '9')
}

// isNull reports whether v is absent or null.
func isNull(v json.RawMessage) bool { return len(v) == 0 || string(v) == "null" }

// optionalString returns a member that may be a string, null or absent.
func optionalString(o object, name string) (string, error) {
	v := o[name]
	if isNull(v) {
		return "", nil
	}
	s, ok := asString(v)
	if !ok {
		return "", errReference
	}
	return s, nil
}
