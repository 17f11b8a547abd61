package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

const fuzzEntryID = "1795556873476-0"

// addEntries adds the entries of all captures and some that are harder to read.
func addEntries(f *testing.F, add func(data []byte)) {
	f.Helper()
	for _, name := range []string{
		"feedback.jsonl", "rate_adjustment.jsonl", "dead_letter_reference.jsonl", "malformed.jsonl",
	} {
		for _, c := range readCaptures(f, name) {
			add([]byte(c.Fields["data"]))
		}
	}
	add([]byte(bareEntry))
	for _, c := range decodeCases() {
		add([]byte(c.data))
	}
}

// FuzzDecode compares the decoder with one made of encoding/json and maps.
func FuzzDecode(f *testing.F) {
	addEntries(f, func(data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, data []byte) { checkDecode(t, data) })
}

// checkDecode compares what becomes of an entry in the decoder and in the reference.
func checkDecode(t *testing.T, data []byte) {
	t.Helper()
	sent := bytes.Clone(data)
	e := Decoder{}.Decode(fuzzEntryID, data)
	if !bytes.Equal(sent, data) || len(data) > 0 && &e.Data[0] != &data[0] {
		t.Fatal("the data was changed or replaced")
	}
	var s scanner
	s.document(data)
	if valid := referenceValid(data); valid != (s.fault == faultNone) {
		t.Fatalf("valid: %v; scanner: fault %d at %d", valid, s.fault, s.faultAt)
	}
	want, err := referenceDecode(fuzzEntryID, data)
	if (err == nil) != (e.Err == nil) {
		t.Fatalf("got error %v, want %v", e.Err, err)
	}
	if err != nil {
		checkUnusable(t, e)
		return
	}
	got := &reference{
		e.Dialect, e.ID, e.Key, e.Time, e.Schema, e.Track, e.Hash, e.Headers(), e.OrderKey(), string(e.Payload), nil,
	}
	payload := want.payload
	want.payload = nil
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(reference{})); diff != "" {
		t.Fatalf("event (-want +got):\n%s", diff)
	}
	want.payload = payload
	checkViews(t, e, want)
	checkHashes(t, e)
}

// checkUnusable checks that an event with an error gives nothing away and fails everywhere in the same way.
func checkUnusable(t *testing.T, e *Event) {
	t.Helper()
	var bad *DecodeError
	if !errors.As(e.Err, &bad) || bad.Kind() != KindDecode {
		t.Fatalf("got error %#v", e.Err)
	}
	if _, err := e.Feedback(); !errors.Is(err, e.Err) {
		t.Fatalf("feedback: got error %v, want %v", err, e.Err)
	}
	if _, err := e.LenientFeedback(); !errors.Is(err, e.Err) {
		t.Fatalf("lenient feedback: got error %v, want %v", err, e.Err)
	}
	if _, err := e.RateAdjustment(); !errors.Is(err, e.Err) {
		t.Fatalf("rate adjustment: got error %v, want %v", err, e.Err)
	}
	if err := e.CheckHash(); err != nil {
		t.Fatalf("hash: got error %v", err)
	}
	if e.ID != fuzzEntryID || e.Payload != nil || e.OrderKey() != "" || len(e.Headers()) != 0 {
		t.Fatalf("got %+v", e)
	}
}

// checkViews compares the typed views of an event with the reference.
func checkViews(t *testing.T, e *Event, want *reference) {
	t.Helper()
	f, err := e.Feedback()
	if f2, valid, known := want.feedback(); known && (valid != (err == nil) || valid && f != f2) {
		t.Fatalf("feedback: got %+v, %v, want %+v, %v", f, err, f2, valid)
	}
	lenient, err2 := e.LenientFeedback()
	if err == nil && (err2 != nil || lenient != f) {
		t.Fatalf("lenient feedback: got %+v, %v, want %+v", lenient, err2, f)
	}
	a, err := e.RateAdjustment()
	if a2, valid, known := want.rateAdjustment(); known && (valid != (err == nil) || valid && a != a2) {
		t.Fatalf("rate adjustment: got %+v, %v, want %+v, %v", a, err, a2, valid)
	}
	seconds, ok := e.EventTime()
	if seconds2, ok2 := want.eventTime(); ok != ok2 || ok && seconds != seconds2 {
		t.Fatalf("event time: got %v, %v, want %v, %v", seconds, ok, seconds2, ok2)
	}
	document, ok := asObject(e.Document())
	if !ok {
		t.Fatalf("got document %s", e.Document())
	}
	for name, v := range want.payload {
		if !bytes.Equal(v, document[name]) {
			t.Fatalf("document: got %s %s, want %s", name, document[name], v)
		}
	}
}

// checkHashes compares the compact form of the payload with the reference.
func checkHashes(t *testing.T, e *Event) {
	t.Helper()
	got, want := appendCompact(nil, e.Payload), referenceCompact(e.Payload)
	if !bytes.Equal(got, want) {
		t.Fatalf("got compact  %s\nwant %s", got, want)
	}
	if e.Hash == "" && e.CheckHash() != nil {
		t.Fatal("an event without hash does not match it")
	}
}

// FuzzEncode decodes what an envelope was written to.
func FuzzEncode(f *testing.F) {
	f.Add(1795556873.490328, "ibkr", SchemaRateAdjustment, TrackV1, "reason", "queue", []byte(`{"scale": 1.0}`))
	f.Add(0.0, "", aliasFeedback, "", "", "", []byte("\n{ }\t"))
	f.Add(
		1e22, "b\u00f6rse \U0001F600\x7f\"\\\n\x00\u2028", "x", TrackV2, "\u00fc", "<&>",
		[]byte(`{"a": [1, {"b": "\u00fc\/"}]}`),
	)
	f.Add(math.NaN(), "\xff", SchemaEnvelope, "v3", "\xff", "\xff", []byte(`[]`))
	f.Add(-1.5e-7, "k", "s", TrackV1, "a", "b", []byte(`{"a": 1} x`))
	f.Fuzz(func(t *testing.T, seconds float64, key, schema, track, name, text string, payload []byte) {
		checkEncode(t, Envelope{seconds, key, schema, track, map[string]string{name: text}, payload})
	})
}

// checkEncode checks that an envelope is refused, or is the same when it is decoded.
func checkEncode(t *testing.T, envelope Envelope) {
	t.Helper()
	prefix := []byte("prefix")
	entry, err := envelope.Append(prefix)
	if encodable(envelope) != (err == nil) {
		t.Fatalf("got error %v; encodable: %v", err, encodable(envelope))
	}
	if err != nil {
		if string(entry) != "prefix" {
			t.Fatalf("got %s", entry)
		}
		return
	}
	want := envelope
	want.Schema = CanonicalSchema(envelope.Schema)
	want.Payload = bytes.Trim(envelope.Payload, " \n\r\t")
	if envelope.Track == "" {
		want.Track = TrackV1
	}
	data := bytes.TrimPrefix(entry, prefix)
	if head := data[:len(data)-len(want.Payload)-len("}")]; !json.Valid(data) || !isASCII(head) {
		t.Fatalf("got %s", data)
	}
	e := Decoder{MaxSize: math.MaxInt32}.Decode("1-1", data)
	if e.Err != nil {
		t.Fatalf("got error %v for %s", e.Err, data)
	}
	got := Envelope{e.Time, e.Key, e.Schema, e.Track, e.Headers(), e.Payload}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("envelope (-want +got):\n%s", diff)
	}
	if err := e.CheckHash(); err != nil || e.Hash == "" {
		t.Fatalf("got error %v for hash %q", err, e.Hash)
	}
}

// encodable reports whether an envelope keeps the rules of Envelope.Append.
func encodable(e Envelope) bool {
	texts := []string{e.Key, e.Schema}
	for name, text := range e.Headers {
		texts = append(texts, name, text)
	}
	for _, text := range texts {
		if !utf8.ValidString(text) {
			return false
		}
	}
	_, isObject := asObject(e.Payload)
	wrapped := slices.Concat([]byte("["), e.Payload, []byte("]"))
	return !math.IsNaN(e.Time) && !math.IsInf(e.Time, 0) && e.Schema != "" && e.Schema != SchemaEnvelope &&
		slices.Contains([]string{"", TrackV1, TrackV2}, e.Track) && isObject && referenceValid(wrapped)
}

// isASCII reports whether text is printable ASCII.
func isASCII(text []byte) bool {
	for _, c := range text {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// FuzzCanonicalBare checks that a bare event stays the same event.
func FuzzCanonicalBare(f *testing.F) {
	addEntries(f, func(data []byte) { f.Add(data) })
	f.Fuzz(func(t *testing.T, data []byte) { checkCanonicalBare(t, data) })
}

// checkCanonicalBare decodes what a bare event was made to.
func checkCanonicalBare(t *testing.T, data []byte) {
	t.Helper()
	bare := Decoder{MaxSize: math.MaxInt32}.Decode(fuzzEntryID, data)
	entry, err := CanonicalBare(data, At(bare.Time), TrackV2)
	if bare.Dialect != DialectBare {
		if err == nil {
			t.Fatalf("got %s", entry)
		}
		return
	}
	if err != nil {
		// The envelope makes it one deeper.
		s := scanner{depth: 1}
		if s.document(data); s.fault != faultDepth {
			t.Fatal(err)
		}
		return
	}
	e := Decoder{MaxSize: math.MaxInt32}.Decode("1-1", entry)
	if e.Err != nil {
		t.Fatalf("got error %v for %s", e.Err, entry)
	}
	if e.Dialect != DialectCanonical || e.Schema != SchemaFeedback || e.Track != TrackV2 || e.Time != bare.Time {
		t.Fatalf("got %+v", e)
	}
	if diff := cmp.Diff(bare.Headers(), e.Headers()); diff != "" {
		t.Fatalf("headers (-want +got):\n%s", diff)
	}
	if bare.OrderKey() != e.OrderKey() {
		t.Fatalf("got order key %q, want %q", e.OrderKey(), bare.OrderKey())
	}
	want, err := bare.Feedback()
	got, err2 := e.Feedback()
	if want != got || (err == nil) != (err2 == nil) {
		t.Fatalf("got feedback %+v, %v, want %+v, %v", got, err2, want, err)
	}
	if err := e.CheckHash(); err != nil || e.Hash == "" {
		t.Fatalf("got error %v for hash %q", err, e.Hash)
	}
}

// FuzzShiftTime checks that nothing but times and hashes is changed, and that these are right.
func FuzzShiftTime(f *testing.F) {
	addEntries(f, func(data []byte) {
		f.Add(data, 1234.5)
		f.Add(data, -0.25)
	})
	f.Fuzz(func(t *testing.T, data []byte, by float64) { checkShiftTime(t, data, by) })
}

// checkShiftTime checks that an entry is the same after a shift but for what must change.
func checkShiftTime(t *testing.T, data []byte, by float64) {
	t.Helper()
	sent := bytes.Clone(data)
	before := Decoder{MaxSize: math.MaxInt32}.Decode(fuzzEntryID, data)
	shifted, err := ShiftTime(data, by)
	if !bytes.Equal(sent, data) {
		t.Fatal("the data was changed")
	}
	if err == nil && (before.Err != nil || math.IsNaN(by) || math.IsInf(by, 0)) {
		t.Fatalf("got %s", shifted)
	}
	if err != nil {
		var bad *DecodeError
		if before.Err == nil && errors.As(err, &bad) {
			t.Fatalf("got error %v", err)
		}
		return
	}
	after := Decoder{MaxSize: math.MaxInt32}.Decode(fuzzEntryID, shifted)
	if after.Err != nil {
		t.Fatalf("got error %v for %s", after.Err, shifted)
	}
	if before.Dialect != DialectBare && after.Time != before.Time+by {
		t.Fatalf("got time %v, want %v", after.Time, before.Time+by)
	}
	checkShifted(t, before, after, by)
	if !bytes.Equal(blankTimes(data), blankTimes(shifted)) {
		t.Fatalf("got %s\nfor %s", shifted, data)
	}
}

// checkShifted compares an event with the one that it was shifted to.
func checkShifted(t *testing.T, before, after *Event, by float64) {
	t.Helper()
	seconds, ok := before.EventTime()
	seconds2, ok2 := after.EventTime()
	if before.fields[nameTS].kind == kindNumber {
		seconds += by
	}
	if ok != ok2 || ok && seconds != seconds2 {
		t.Fatalf("event time: got %v, %v, want %v, %v", seconds2, ok2, seconds, ok)
	}
	if (before.CheckHash() == nil) != (after.CheckHash() == nil) {
		t.Fatalf("hash: got error %v, was %v", after.CheckHash(), before.CheckHash())
	}
}

// blankTimes returns an entry without its times and hashes.
func blankTimes(data []byte) []byte {
	var s scanner
	dialect, _ := s.entry(data)
	blank := bytes.Clone(data)
	for level := range envelopesOf(dialect) + 1 {
		f := &s.frames[level]
		values := []value{f[nameTS]}
		if level < envelopesOf(dialect) {
			values = append(values, f[nameHash])
		}
		for _, v := range values {
			if v.kind == kindNumber || v.kind == kindString && v == f[nameHash] {
				clear(blank[v.start:v.end])
			}
		}
	}
	return bytes.ReplaceAll(blank, []byte{0}, nil)
}

// FuzzDecimal compares the judgement of numbers by their text with exact arithmetic.
func FuzzDecimal(f *testing.F) {
	for _, c := range decimalCases() {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v := json.RawMessage(text)
		if !json.Valid(v) || len(bytes.TrimSpace(v)) != len(v) || !asNumber(v) {
			return
		}
		d := parseDecimal(v)
		x, known := referenceRat(v)
		if !known {
			return
		}
		if d.sign() != x.Sign() || d.integral() != x.IsInt() {
			t.Fatalf("got sign %d, integral %v", d.sign(), d.integral())
		}
		if n, ok, _ := referenceInteger(v); ok && d.integer() != n {
			t.Fatalf("got integer %d, want %d", d.integer(), n)
		}
		if x.Sign() >= 0 && d.atMostOne() != (x.Cmp(big.NewRat(1, 1)) <= 0) {
			t.Fatalf("got at most one: %v", d.atMostOne())
		}
		_, ok := finite(v)
		if representable(v) != ok {
			t.Fatalf("got representable: %v", !ok)
		}
	})
}
