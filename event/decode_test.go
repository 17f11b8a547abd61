package event

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const (
	testID   = "1795556873476-0"
	testMeta = `{"schema_id":"telemetry.FeedbackEvent"}`

	anySchema = `"schema_id":"x.Y"`
	anyMeta   = `"meta":{` + anySchema + `}`
	noPayload = `"payload":{}`
)

// decodeCase is an entry and what must become of it.
type decodeCase struct {
	name string
	data string
	err  string // the error's text; empty = none
	want Event  // the fields that matter, when there is no error
}

// envelope returns an entry of the given members.
func envelope(members ...string) string { return "{" + strings.Join(members, ",") + "}" }

// withMeta returns an entry that is sound but for its meta, which is given by its members.
func withMeta(members ...string) string {
	return envelope(`"ts":1`, `"meta":{`+strings.Join(members, ",")+`}`, `"payload":{}`)
}

// nestedIn returns a nested entry that is sound but for the given inner envelope.
func nestedIn(inner string) string {
	return envelope(`"ts":2`, `"meta":{"schema_id":"`+SchemaEnvelope+`"}`, `"payload":`+inner)
}

// nested returns arrays nested so many deep.
func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// sound returns the event that an envelope of schema x.Y and little else is decoded to, with the changes made to it.
func sound(changes ...func(e *Event)) Event {
	e := Event{
		ID: testID, Dialect: DialectCanonical, Time: 1, Schema: "x.Y", Track: TrackV1, Payload: []byte("{}"),
	}
	for _, change := range changes {
		change(&e)
	}
	return e
}

// nestedEvent is sound for an inner envelope.
func nestedEvent(changes ...func(e *Event)) Event {
	e := sound(changes...)
	e.Dialect = DialectNested
	return e
}

// bareEvent returns the event that a bare entry is decoded to.
func bareEvent(payload string) Event {
	return Event{
		ID: testID, Dialect: DialectBare, Time: 1795556873.476, Schema: SchemaFeedback, Track: TrackV1,
		Payload: []byte(payload),
	}
}

// withKey returns a change of an event's key.
func withKey(key string) func(e *Event) { return func(e *Event) { e.Key = key } }

func decodeCases() []decodeCase {
	return slices.Concat(textCases(), dialectCases(), envelopeCases(), nestedCases(), repeatCases(), escapeCases())
}

// textCases are about the form of the text.
func textCases() []decodeCase {
	return []decodeCase{
		{"empty", "", "data is empty", Event{}},
		{"space", " \n", "not JSON: unexpected end at byte 2", Event{}},
		{"byte order mark", "\ufeff" + withMeta(anySchema), "not JSON: unexpected character at byte 0", Event{}},
		{"space around", "\r\n\t " + withMeta(anySchema) + " \n", "", sound()},
		{"two values", withMeta(anySchema) + "{}", "not JSON: more than one value at byte 48", Event{}},
		{"comma at the end", withMeta(anySchema) + ",", "not JSON: more than one value at byte 48", Event{}},
		{"string", `"x"`, "entry must be an object (got string)", Event{}},
		{"null", `null`, "entry must be an object (got null)", Event{}},
		{"number", `-1.5e+3`, "entry must be an object (got number)", Event{}},
		{"true", ` true`, "entry must be an object (got boolean)", Event{}},
		{"infinity", envelope(`"ts":Infinity`), "not JSON: unexpected character at byte 6", Event{}},
		{"minus infinity", envelope(`"ts":-Infinity`), "not JSON: unexpected character at byte 7", Event{}},
		{"invalid UTF-8", "{\"a\":\"\xff\"}", "not JSON: not valid UTF-8", Event{}},
		{"encoded surrogate", "{\"a\":\"\xed\xa0\x80\"}", "not JSON: not valid UTF-8", Event{}},
		{"depth limit", envelope(`"a":`+nested(511), `"level":"ok"`), "", bareEvent(
			envelope(`"a":`+nested(511), `"level":"ok"`),
		)},
		{"beyond the depth limit", envelope(`"a":` + nested(512)), "nested deeper than 512 at byte 516", Event{}},
	}
}

// dialectCases are about which dialect an entry is of.
func dialectCases() []decodeCase {
	return []decodeCase{
		{"bare", `{"level":"ok"}`, "", bareEvent(`{"level":"ok"}`)},
		{"bare with space", ` {"level":"ok"} `, "", bareEvent(`{"level":"ok"}`)},
		{"bare and empty", "{ }", "", bareEvent("{ }")},
		{"no meta", envelope(`"ts":1`, `"payload":{}`), "/meta: is required", Event{}},
		{"no payload", envelope(`"ts":1`, `"meta":`+testMeta), "/payload: is required", Event{}},
		{
			"null meta",
			envelope(`"ts":1`, `"meta":null`, `"payload":{}`),
			"/meta: must be an object (got null)",
			Event{},
		},
		{"null payload alone", envelope(`"payload":null`), "/meta: is required", Event{}},
		{
			"array payload",
			envelope(`"ts":1`, `"meta":`+testMeta, `"payload":[]`),
			"/payload: must be an object (got array)",
			Event{},
		},
		{
			"direct",
			withMeta(`"schema_id":"telemetry.backpressure.FeedbackEvent"`),
			"",
			sound(func(e *Event) { e.Dialect, e.Schema = DialectDirect, SchemaFeedback }),
		},
		{
			"envelope in any other payload",
			envelope(`"ts":1`, `"meta":{"schema_id":"x.Y"}`, `"payload":`+withMeta(anySchema)),
			"",
			sound(func(e *Event) { e.Payload = []byte(withMeta(anySchema)) }),
		},
		{
			"member names are case-sensitive",
			envelope(`"TS":2`, `"ts":1`, `"Meta":3`, anyMeta, noPayload),
			"",
			sound(),
		},
	}
}

// envelopeCases are about the members of an envelope.
func envelopeCases() []decodeCase {
	return []decodeCase{
		{"no schema id", withMeta(), "/meta/schema_id: is required", Event{}},
		{
			"schema id is a number",
			withMeta(`"schema_id":1`),
			"/meta/schema_id: must be a non-empty string (got number)",
			Event{},
		},
		{
			"empty schema id",
			withMeta(`"schema_id":""`),
			"/meta/schema_id: must be a non-empty string (got string)",
			Event{},
		},
		{"track v2", withMeta(anySchema, `"track":"v2"`), "", sound(func(e *Event) { e.Track = TrackV2 })},
		{"null track", withMeta(anySchema, `"track":null`), "", sound()},
		{"empty track", withMeta(anySchema, `"track":""`), "/meta/track: must be v1 or v2 (got string)", Event{}},
		{"track is a number", withMeta(anySchema, `"track":1`), "/meta/track: must be v1 or v2 (got number)", Event{}},
		{"null headers", withMeta(anySchema, `"headers":null`), "", sound()},
		{
			"headers are an array",
			withMeta(anySchema, `"headers":[]`),
			"/meta/headers: must be an object of strings (got array)",
			Event{},
		},
		{
			"header is a number",
			withMeta(anySchema, `"headers":{"a":"b","c":1}`),
			"/meta/headers: must be an object of strings (got object)",
			Event{},
		},
		{
			"header is null",
			withMeta(anySchema, `"headers":{"a":null}`),
			"/meta/headers: must be an object of strings (got object)",
			Event{},
		},
		{"header is replaced by a string", withMeta(anySchema, `"headers":{"a":1,"b":"x","\u0061":"y"}`), "", sound()},
		{
			"header is replaced by a number",
			withMeta(anySchema, `"headers":{"a":"y","a":1}`),
			"/meta/headers: must be an object of strings (got object)",
			Event{},
		},
		{"hash", withMeta(anySchema, `"hash":"aB"`), "", sound(func(e *Event) { e.Hash = "aB" })},
		{"null hash", withMeta(anySchema, `"hash":null`), "", sound()},
		{"hash is a number", withMeta(anySchema, `"hash":1`), "/meta/hash: must be a string or null (got number)", Event{}},
		{"key", envelope(`"ts":1`, `"key":"k"`, anyMeta, noPayload), "", sound(withKey("k"))},
		{"null key", envelope(`"ts":1`, `"key":null`, anyMeta, noPayload), "", sound()},
		{
			"key is a number",
			envelope(`"ts":1`, `"key":5`, anyMeta, noPayload),
			"/key: must be a string or null (got number)",
			Event{},
		},
		{"no ts", envelope(anyMeta, noPayload), "/ts: is required", Event{}},
		{
			"null ts",
			envelope(`"ts":null`, anyMeta, noPayload),
			"/ts: must be a finite number (got null)",
			Event{},
		},
		{
			"ts is a string",
			envelope(`"ts":"1"`, anyMeta, noPayload),
			"/ts: must be a finite number (got string)",
			Event{},
		},
		{
			"ts overflows",
			envelope(`"ts":1e309`, anyMeta, noPayload),
			"/ts: must be a finite number (got number)",
			Event{},
		},
		{"large ts", envelope(`"ts":1e300`, anyMeta, noPayload), "", sound(func(e *Event) { e.Time = 1e300 })},
		{"outer id is ignored", envelope(`"id":5`, `"ts":1`, anyMeta, noPayload), "", sound()},
	}
}

// nestedCases are about the envelope within an envelope.
func nestedCases() []decodeCase {
	return []decodeCase{
		{"nested", nestedIn(withMeta(anySchema)), "", nestedEvent()},
		{
			"inner id",
			nestedIn(envelope(`"id":"inner"`, `"ts":1`, anyMeta, noPayload)),
			"",
			nestedEvent(func(e *Event) { e.ID = "inner" }),
		},
		{"null inner id", nestedIn(envelope(`"id":null`, `"ts":1`, anyMeta, noPayload)), "", nestedEvent()},
		{
			"inner id is a number",
			nestedIn(envelope(`"id":1`, `"ts":1`, anyMeta, noPayload)),
			"/payload/id: must be a string or null (got number)",
			Event{},
		},
		{
			"outer key is not the event's",
			envelope(`"key":"outer"`, `"ts":2`, `"meta":{"schema_id":"`+SchemaEnvelope+`"}`, `"payload":`+withMeta(anySchema)),
			"",
			nestedEvent(),
		},
		{
			"outer hash",
			envelope(`"ts":2`, `"meta":{"schema_id":"`+SchemaEnvelope+`","hash":"out"}`, `"payload":`+withMeta(anySchema)),
			"",
			nestedEvent(func(e *Event) { e.Hash = "out" }),
		},
		{"no inner meta", nestedIn(`{"ts":1,"payload":{}}`), "/payload/meta: is required", Event{}},
		{"no inner payload", nestedIn(`{"ts":1,"meta":{"schema_id":"x"}}`), "/payload/payload: is required", Event{}},
		{"bare inside", nestedIn(bareEntry), "/payload/meta: is required", Event{}},
		{
			"bad inner track",
			nestedIn(withMeta(anySchema, `"track":"v3"`)),
			"/payload/meta/track: must be v1 or v2 (got string)",
			Event{},
		},
		{
			"bad outer track",
			envelope(`"ts":2`, `"meta":{"schema_id":"`+SchemaEnvelope+`","track":"v3"}`, `"payload":`+withMeta(anySchema)),
			"/meta/track: must be v1 or v2 (got string)",
			Event{},
		},
		{
			"nested twice",
			nestedIn(nestedIn(withMeta(anySchema))),
			"/payload/meta/schema_id: must not be events.envelope.EventEnvelope again (got string)",
			Event{},
		},
	}
}

// repeatCases are about members of the same name, of which the last wins, whole.
func repeatCases() []decodeCase {
	return []decodeCase{
		{"schema id twice", withMeta(`"schema_id":1`, anySchema), "", sound()},
		{"ts twice", envelope(`"ts":null`, anyMeta, noPayload, `"ts":1`), "", sound()},
		{
			"meta twice",
			envelope(`"ts":1`, `"meta":{"schema_id":"z","track":"v2","hash":"h"}`, `"payload":{}`, anyMeta),
			"",
			sound(),
		},
		{
			"later meta lacks the schema id",
			envelope(`"ts":1`, anyMeta, noPayload, `"meta":{}`),
			"/meta/schema_id: is required",
			Event{},
		},
		{
			"later meta is null",
			envelope(`"ts":1`, anyMeta, noPayload, `"meta":null`),
			"/meta: must be an object (got null)",
			Event{},
		},
		{"meta after null", envelope(`"ts":1`, `"meta":null`, `"payload":{}`, anyMeta), "", sound()},
		{
			"payload twice",
			envelope(`"ts":1`, `"payload":{"coordinator_id":"c"}`, anyMeta, noPayload),
			"",
			sound(),
		},
		{
			"later inner envelope lacks the payload",
			nestedIn(withMeta(anySchema) + `,"payload":{"ts":1,"meta":{"schema_id":"x"}}`),
			"/payload/payload: is required",
			Event{},
		},
		{
			"later inner envelope",
			nestedIn(envelope(`"id":"x"`, `"key":"y"`, `"payload":{"level":1}`) + `,"payload":` + withMeta(anySchema)),
			"",
			nestedEvent(),
		},
	}
}

// escapeCases are about names and strings with escapes.
func escapeCases() []decodeCase {
	return []decodeCase{
		{
			"escaped names",
			`{"\u0074s":1,"\u006beta":2,"m\u0065ta":{"schema\u005fid":"x.\u0059"},"p\u0061yload":{}}`,
			"",
			sound(),
		},
		{
			"escaped schema id",
			strings.Replace(nestedIn(withMeta(anySchema)), "events.envelope", `events\u002eenvelope`, 1),
			"",
			nestedEvent(),
		},
		{
			"escaped key",
			envelope(`"ts":1`, `"key":"\u00f6\ud83d\ude00\"\\\/\b\f\n\r\t\u0041"`, anyMeta, noPayload),
			"",
			sound(withKey("ö\U0001F600\"\\/\b\f\n\r\tA")),
		},
		{
			"halves of surrogates",
			envelope(
				`"ts":1`, `"key":"\ud83d,\ude00,\ud83dx,\ud83d\ud83d\ude00,\ud83d\u0041"`, anyMeta, noPayload,
			),
			"",
			sound(withKey("\ufffd,\ufffd,\ufffdx,\ufffd\U0001F600,\ufffdA")),
		},
		{"control character", envelope("\"a\":\"\x1f\""), "not JSON: unexpected character at byte 6", Event{}},
		{
			"delete is no control character",
			envelope(`"ts":1`, "\"key\":\"\x7f\"", anyMeta, noPayload),
			"",
			sound(withKey("\x7f")),
		},
	}
}

func TestDecode(t *testing.T) {
	for _, c := range decodeCases() {
		t.Run(c.name, func(t *testing.T) {
			e := Decoder{}.Decode(testID, []byte(c.data))
			if c.err != "" {
				checkDecodeError(t, e.Err, KindDecode, c.err)
				return
			}
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			got := Event{
				ID: e.ID, Dialect: e.Dialect, Key: e.Key, Time: e.Time, Schema: e.Schema, Track: e.Track, Hash: e.Hash,
				Payload: e.Payload,
			}
			if diff := cmp.Diff(c.want, got, cmpopts.IgnoreUnexported(Event{})); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
		})
	}
}

// Both decoders must agree about every case, or FuzzDecode proves nothing.
func TestReferenceDecode(t *testing.T) {
	for _, c := range decodeCases() {
		r, err := referenceDecode(testID, []byte(c.data))
		if (err == nil) != (c.err == "") {
			t.Errorf("%s: got error %v, want %q", c.name, err, c.err)
		} else if err == nil && (r.Payload != string(c.want.Payload) || r.Key != c.want.Key || r.ID != c.want.ID) {
			t.Errorf("%s: got %+v", c.name, r)
		}
	}
}

// The text of numbers and strings is tried in a place of no interest, where only its form counts.
func TestDecodeGrammar(t *testing.T) {
	valid := []string{
		`0`, `-0`, `-0.0e-0`, `1.5E+10`, `10`, `1e1`, `""`, `"\u0000"`, `"\uD800"`, `"\\"`, `[]`, `[ ]`, `[1 , 2]`, `{}`,
		`{ }`, `{"a":1 , "b" : 2}`, `{"":""}`, `true`, `false`, `null`, `[[],{}]`, `"12345678\"12345678"`, `"\u00FF"`,
	}
	invalid := []string{
		``, `-`, `+1`, `01`, `-01`, `1.`, `.5`, `1.e1`, `1e`, `1e+`, `0x1`, `1_0`, `NaN`, `nul`, `nulL`, `truer`, `True`, `"`,
		`"\`, `"\x"`, `"\u12"`, `"\u12g4"`, `"\u123`, "\"\n\"", `'a'`, `[`, `[1`, `[1,`, `[1,]`, `[,1]`, `[1 2]`, `]`, `{`,
		`{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{a:1}`, `{"a" 1}`, `{"a":1 "b":2}`, `{1:2}`, `}`, `//`,
		`1//`,
		"1\x00", "\x0b1", "\u00a01", `[}`, `{]`,
	}
	check := func(text string, want bool) {
		for _, data := range []string{`{"level":` + text + `}`, `{"a":[` + text + `,0]}`, ` ` + text + ` `} {
			if text == "" && data[0] != '{' {
				continue
			}
			var s scanner
			if s.document([]byte(data)); (s.fault == faultNone) != want {
				t.Errorf("%q: got fault %d at %d, want valid: %v", data, s.fault, s.faultAt, want)
			}
			if referenceValid([]byte(data)) != want {
				t.Errorf("%q: the reference disagrees", data)
			}
		}
	}
	for _, text := range valid {
		check(text, true)
	}
	for _, text := range invalid {
		check(text, false)
	}
}

// A fault's place must be right wherever the eight bytes begin that the scanner looks at together.
func TestDecodeStringLengths(t *testing.T) {
	for length := range 40 {
		text := strings.Repeat("a", length)
		for _, special := range []string{"", `\n`, `\"`, "ü", "\x7f"} {
			data := envelope(`"ts":1`, `"key":"`+text+special+text+`"`, `"meta":`+testMeta, `"payload":{}`)
			want, err := strconv.Unquote(`"` + text + special + text + `"`)
			if err != nil {
				t.Fatal(err)
			}
			if e := (Decoder{}).Decode(testID, []byte(data)); e.Err != nil || e.Key != want {
				t.Errorf("got key %q, error %v, want %q", e.Key, e.Err, want)
			}
		}
		for _, special := range []string{"\x00", "\x1f", "\n"} {
			at := len(`{"key":"`) + length
			e := Decoder{}.Decode(testID, []byte(`{"key":"`+text+special+text+`"}`))
			checkDecodeError(t, e.Err, KindDecode, fmt.Sprintf("not JSON: unexpected character at byte %d", at))
		}
	}
}

// Members may come in any order.
func TestDecodeOrder(t *testing.T) {
	payload := []string{`"coordinator_id":"c"`, `"queue_size":1`, `"capacity":2`, `"level":"hard"`, `"ts":3`}
	meta := []string{`"schema_id":"telemetry.FeedbackEvent"`, `"track":"v2"`, `"headers":{"a":"b"}`, `"hash":null`}
	want := Feedback{"c", 1, 2, LevelHard, "store", 3}
	for _, meta := range permutations(meta) {
		for _, outer := range permutations([]string{"ts", "key", "meta", "payload", "id"}) {
			inner := envelope(shuffled(outer, meta, payload)...)
			outerMeta := []string{`"schema_id":"` + SchemaEnvelope + `"`}
			var members []string
			for _, name := range outer {
				switch name {
				case "payload":
					members = append(members, `"payload":`+inner)
				case "meta":
					members = append(members, `"meta":`+envelope(outerMeta...))
				default:
					members = append(members, `"`+name+`":7`)
				}
			}
			data := strings.Replace(envelope(members...), `"key":7`, `"key":null`, 1)
			e := Decoder{}.Decode(testID, []byte(data))
			if e.Err != nil {
				t.Fatalf("got error %v for %s", e.Err, data)
			}
			if e.ID != "i" || e.Key != "k" || e.Time != 1 || e.Track != TrackV2 || string(e.Payload) != envelope(payload...) {
				t.Fatalf("got %+v for %s", e, data)
			}
			if f, err := e.Feedback(); err != nil || f != want {
				t.Fatalf("got %+v, %v for %s", f, err, data)
			}
		}
	}
	for _, payload := range permutations(payload) {
		e := Decoder{}.Decode(testID, []byte(envelope(`"payload":`+envelope(payload...), `"ts":1`, `"meta":`+testMeta)))
		if f, err := e.Feedback(); err != nil || f != want {
			t.Fatalf("got %+v, %v for %s", f, err, e.Data)
		}
	}
}

// shuffled returns the members of an inner envelope in the given order.
func shuffled(order, meta, payload []string) []string {
	members := map[string]string{
		"ts": `"ts":1`, "key": `"key":"k"`, "id": `"id":"i"`,
		"meta": `"meta":` + envelope(meta...), "payload": `"payload":` + envelope(payload...),
	}
	out := make([]string, 0, len(order))
	for _, name := range order {
		out = append(out, members[name])
	}
	return out
}

// permutations returns all orders of list.
func permutations(list []string) [][]string {
	if len(list) <= 1 {
		return [][]string{list}
	}
	var all [][]string
	for i := range list {
		var rest []string
		rest = append(append(rest, list[:i]...), list[i+1:]...)
		for _, p := range permutations(rest) {
			all = append(all, append([]string{list[i]}, p...))
		}
	}
	return all
}

func TestDecodeSize(t *testing.T) {
	data := []byte(withMeta(`"schema_id":"x"`))
	big := bytes.Repeat([]byte{' '}, DefaultMaxSize+1)
	copy(big, data)
	tests := []struct {
		name    string
		decoder Decoder
		data    []byte
		err     string
	}{
		{"at the limit", Decoder{MaxSize: len(data)}, data, ""},
		{
			"over the limit",
			Decoder{MaxSize: len(data) - 1},
			data,
			fmt.Sprintf("entry has %d bytes, more than the limit of %d", len(data), len(data)-1),
		},
		{"at the default limit", Decoder{}, big[:DefaultMaxSize], ""},
		{"over the default limit", Decoder{}, big, "entry has 1048577 bytes, more than the limit of 1048576"},
		{
			"a negative limit is the default",
			Decoder{MaxSize: -1},
			big,
			"entry has 1048577 bytes, more than the limit of 1048576",
		},
		{"over the default, within the limit", Decoder{MaxSize: len(big)}, big, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := test.decoder.Decode(testID, test.data)
			if !bytes.Equal(e.Data, test.data) {
				t.Error("the data was not kept")
			}
			if test.err == "" {
				if e.Err != nil {
					t.Error(e.Err)
				}
				return
			}
			checkDecodeError(t, e.Err, KindSize, test.err)
		})
	}
}

func TestDecodeFields(t *testing.T) {
	data := withMeta(`"schema_id":"x"`)
	nestedID := nestedIn(envelope(`"id":"inner"`, `"ts":1`, `"meta":{"schema_id":"x"}`, `"payload":{}`))
	tests := []struct {
		name    string
		fields  map[string]any
		id      string
		replays int
	}{
		{"data only", map[string]any{"data": data}, testID, 0},
		{"data as bytes", map[string]any{"data": []byte(data)}, testID, 0},
		{"other fields", map[string]any{"data": data, "reason": "x", "id": "y"}, testID, 0},
		{"original id", map[string]any{"data": data, "original_id": "5-1", "replays": "2"}, "5-1", 2},
		{"empty original id", map[string]any{"data": data, "original_id": "", "replays": ""}, testID, 0},
		{"inner id before the original", map[string]any{"data": nestedID, "original_id": "5-1"}, "inner", 0},
		{"replays with a sign", map[string]any{"data": data, "replays": "+2"}, testID, 0},
		{"negative replays", map[string]any{"data": data, "replays": "-2"}, testID, 0},
		{"huge replays", map[string]any{"data": data, "replays": "99999999999"}, testID, 0},
		{"replays of another type", map[string]any{"data": data, "replays": 2, "original_id": 3}, testID, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := Decoder{}.DecodeFields(testID, test.fields)
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			if e.ID != test.id || e.EntryID != testID || e.Replays != test.replays {
				t.Errorf("got event %s of entry %s with %d replays", e.ID, e.EntryID, e.Replays)
			}
		})
	}
}

func TestDecodeFieldsWithoutUsableData(t *testing.T) {
	tests := []struct {
		name   string
		fields map[string]any
		kind   string
		data   []byte
		want   map[string]string
	}{
		{"no fields", nil, KindNoData, nil, map[string]string{}},
		{
			"no data",
			map[string]any{"a": "b", "c": []byte("d"), "e": 5, "original_id": "7-7"},
			KindNoData, nil,
			map[string]string{"a": "b", "c": "d", "e": "5", "original_id": "7-7"},
		},
		{"data of no text", map[string]any{"data": 5}, KindNoData, nil, map[string]string{"data": "5"}},
		{"empty data", map[string]any{"data": ""}, KindDecode, []byte{}, nil},
		{"no JSON", map[string]any{"data": "x", "original_id": "7-7"}, KindDecode, []byte("x"), nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := Decoder{}.DecodeFields(testID, test.fields)
			var bad *DecodeError
			if !errors.As(e.Err, &bad) || bad.Kind() != test.kind {
				t.Errorf("got error %v, want one of kind %s", e.Err, test.kind)
			}
			if diff := cmp.Diff(test.data, e.Data); diff != "" {
				t.Errorf("data (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.want, e.Fields); diff != "" {
				t.Errorf("fields (-want +got):\n%s", diff)
			}
			if id, ok := test.fields["original_id"]; ok && e.ID != id {
				t.Errorf("got ID %s, want %s", e.ID, id)
			}
		})
	}
}

func TestDecodeBareEntryID(t *testing.T) {
	for id, want := range map[string]float64{
		"0-0":                      0,
		"1795556873476-12":         1795556873.476,
		"18446744073709551615-0":   18446744073709551.615,
		"1-18446744073709551615":   0.001,
		"":                         -1,
		"-":                        -1,
		"5":                        -1,
		"5-":                       -1,
		"-5":                       -1,
		"5-1-2":                    -1,
		"5-x":                      -1,
		"+5-1":                     -1,
		"5 -1":                     -1,
		"a1b2c3d4-e5f6":            -1,
		"18446744073709551616-0":   -1,
		"0000000000000000000005-0": 0.005,
	} {
		e := Decoder{}.Decode(id, []byte(bareEntry))
		if want < 0 {
			checkDecodeError(t, e.Err, KindDecode, "entry without envelope must have an ID of the form milliseconds-sequence")
			if e.Dialect != DialectBare {
				t.Errorf("%q: got dialect %s", id, e.Dialect)
			}
			continue
		}
		if e.Err != nil || e.Time != want {
			t.Errorf("%q: got time %v, error %v, want %v", id, e.Time, e.Err, want)
		}
	}
}

// No error may tell what was in the entry.
func TestErrorsQuoteNothing(t *testing.T) {
	const secret = "s3cret"
	entries := []string{
		secret,
		`{"` + secret + `"`,
		`{"a":"` + secret,
		`"` + secret + `"`,
		withMeta(`"schema_id":{"` + secret + `":"` + secret + `"}`),
		withMeta(`"schema_id":"x"`, `"track":"`+secret+`"`),
		withMeta(`"schema_id":"x"`, `"headers":{"`+secret+`":1}`),
		withMeta(`"schema_id":"x"`, `"hash":"`+secret+`"`),
		withMeta(`"schema_id":"x"`, `"hash":["`+secret+`"]`),
		envelope(`"ts":"`+secret+`"`, `"meta":`+testMeta, `"payload":{}`),
		envelope(`"ts":1`, `"meta":`+testMeta, `"payload":"`+secret+`"`),
	}
	for _, name := range []string{
		"coordinator_id", "queue_size", "capacity", "level", "source", "ts", "provider", "scale", "reason",
	} {
		for _, v := range []string{`"` + secret + `"`, `{"` + secret + `":1}`} {
			payload := fmt.Sprintf(`{"coordinator_id":"c","queue_size":1,"capacity":1,"level":"ok","ts":1,%q:%s}`, name, v)
			entries = append(entries, envelope(`"ts":1`, `"meta":`+testMeta, `"payload":`+payload))
		}
	}
	failed := 0
	for _, entry := range entries {
		e := Decoder{}.Decode(secret, []byte(entry))
		_, err1 := e.Feedback()
		_, err2 := e.LenientFeedback()
		_, err3 := e.RateAdjustment()
		_, err4 := CanonicalBare([]byte(entry), At(0), secret)
		_, err5 := ShiftTime([]byte(entry), 1)
		for _, err := range []error{e.Err, err1, err2, err3, e.CheckHash(), err4, err5} {
			if err == nil {
				continue
			}
			failed++
			if strings.Contains(err.Error(), secret) {
				t.Errorf("got error %q", err)
			}
		}
	}
	if failed < len(entries) {
		t.Errorf("got %d errors for %d entries", failed, len(entries))
	}
}

func TestDecodeAllocations(t *testing.T) {
	entry := readCaptures(t, "feedback.jsonl")[1]
	data := []byte(entry.Fields["data"])
	var e *Event
	if n := testing.AllocsPerRun(100, func() { e = Decoder{}.Decode(entry.ID, data) }); n > 6 {
		t.Errorf("got %v allocations for a nested entry", n)
	}
	if e.Err != nil {
		t.Error(e.Err)
	}
}

// The original id survives an inner id, which is the identity for dedupe only.
func TestOriginalID(t *testing.T) {
	inner := `{"ts":1,"meta":{"schema_id":"events.envelope.EventEnvelope"},"payload":{"id":"inner","ts":1,` +
		`"meta":{"schema_id":"x"},"payload":{}}}`
	for _, test := range []struct {
		name, id, original string
		fields             map[string]any
	}{
		{"first time", "5-0", "5-0", map[string]any{"data": "{}"}},
		{"put back", "4-0", "4-0", map[string]any{"data": "{}", "original_id": "4-0"}},
		{"inner id", "inner", "5-0", map[string]any{"data": inner}},
		{"inner id, put back", "inner", "4-0", map[string]any{"data": inner, "original_id": "4-0"}},
	} {
		e := Decoder{}.DecodeFields("5-0", test.fields)
		if e.ID != test.id || e.OriginalID() != test.original {
			t.Errorf("%s: id %q, original %q; want %q, %q", test.name, e.ID, e.OriginalID(), test.id, test.original)
		}
	}
}
