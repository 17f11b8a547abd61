package event

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// bareEntry is what the store's HTTP broadcaster posts.
const bareEntry = `{"coordinator_id": "bars_1", "queue_size": 850, "capacity": 1000, "level": "soft", ` +
	`"reason": "queue_high", "utilization": 0.85}`

// capture is one line of a file of captures.
type capture struct {
	Stream string            `json:"stream"`
	ID     string            `json:"id"`
	Name   string            `json:"name"`
	Fields map[string]string `json:"fields"`
	Expect string            `json:"expect"`
	Why    string            `json:"why"`
}

// decode decodes the capture as a transport would.
func (c capture) decode() *Event {
	fields := make(map[string]any, len(c.Fields))
	for name, text := range c.Fields {
		fields[name] = text
	}
	return (Decoder{}).DecodeFields(c.ID, fields)
}

// readCaptures returns the captures in a file of testdata.
func readCaptures(tb testing.TB, name string) []capture {
	tb.Helper()
	file, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	var captures []capture
	lines := bufio.NewScanner(bytes.NewReader(file))
	for lines.Scan() {
		var c capture
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			tb.Fatal(err)
		}
		captures = append(captures, c)
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return captures
}

// feedbackCapture is what an entry of feedback.jsonl must be decoded to.
type feedbackCapture struct {
	ID       string
	Dialect  Dialect
	Key      string
	Time     float64
	Track    string
	Hash     string
	Headers  map[string]string
	OrderKey string
	Feedback Feedback
}

// feedbackCaptures returns the expectations for feedback.jsonl, in its order.
func feedbackCaptures() []feedbackCapture {
	none := map[string]string{}
	return []feedbackCapture{
		{
			"1795556873476-0", DialectNested, "bars_1", 1795556873.4750032, TrackV1,
			"981d762ebd25571ccb3c7f9bd33846a1f916016e412228819feed37ea5bed988",
			map[string]string{"reason": "queue_recovered", "utilization": "0.010000"},
			"bars_1",
			Feedback{"bars_1", 10, 1000, LevelOK, "store", 1795556873.4749289},
		},
		{
			"1795556873479-0", DialectNested, "bars_1", 1795556873.4793615, TrackV1,
			"e1d86ab2f055817541fefa043b7e8cd8a73b1e1e2de36b8262d3bd51284f8234",
			map[string]string{"utilization": "0.700000"},
			"bars_1",
			Feedback{"bars_1", 700, 1000, LevelSoft, "store", 1795556873.4793394},
		},
		{
			"1795556873481-0", DialectNested, "bars_1", 1795556873.4813666, TrackV1,
			"ba287c534f830ad29faa22c07c74ee39e643e75d9347fa14be53f69aafe64873",
			map[string]string{"utilization": "1.000000"},
			"bars_1",
			Feedback{"bars_1", 1000, 1000, LevelHard, "store", 1795556873.4813478},
		},
		{
			"1795556873482-0", DialectNested, "options-coord", 1795556873.4827178, TrackV1,
			"59edb105a5ce254931d53d7311a1646029ed44636b38a074a4b3ffb4de4cf536",
			map[string]string{"reason": "circuit_open", "utilization": "0.000000"},
			"options-coord",
			Feedback{"options-coord", 0, 1, LevelHard, "store", 1795556873.482702},
		},
		{
			"1795556873484-0", DialectNested, "börse_ü", 1795556873.4839842, TrackV1,
			"765a7bf92784682e4df4304917fdef1f60a9e3225af4651e25f58fba494612ab",
			map[string]string{"reason": "büfer über 80%", "utilization": "1.000000"},
			"börse_ü",
			Feedback{"börse_ü", 123456789012, 123456789013, LevelSoft, "store", 1795556873.4839702},
		},
		{
			"1795556873486-0", DialectDirect, "bars_2", 1795556873.4855094, TrackV1,
			"45cedf91c78bde4ff5719bd8bbced2d9ab3bf364a48f4f6a9c1dc4f52b161be8", none, "bars_2",
			Feedback{"bars_2", 850, 1000, LevelOK, "store", 1795556873.4852068},
		},
		{
			"1795556873486-1", DialectDirect, "bars_2", 1795556873.4865303, TrackV1,
			"e09b24e437026bb696ff9e891c610221b87f455f2bc67caf88be220a5d17579f", none, "bars_2",
			Feedback{"bars_2", 850, 1000, LevelSoft, "store", 1795556873.486485},
		},
		{
			"1795556873487-0", DialectDirect, "bars_2", 1795556873.486931, TrackV1,
			"99509fdd324e1a10385967fc07e81bed1a192c4ad269b5421ff46685f9ad4121", none, "bars_2",
			Feedback{"bars_2", 850, 1000, LevelHard, "store", 1795556873.4868836},
		},
		{
			"1795556873488-0", DialectCanonical, "", 1795556873.4883044, TrackV1,
			"363d5722603d313209c30d0af4129af64e8aea2591e7da3d5365675436b70e51", none, "bars_3",
			Feedback{"bars_3", 5, 10, LevelSoft, "store", 1795556225.0},
		},
		{
			"1795556873490-0", DialectCanonical, "", 1795556873.4891753, TrackV2,
			"e1f235a3372d2b32b1be7341c9a06cac89d78b07a66b44e9c21942a843bb8d54", none, "bars_4",
			Feedback{"bars_4", 9, 10, LevelHard, "store", 1795556873.4887025},
		},
	}
}

func TestFeedbackCaptures(t *testing.T) {
	captures, want := readCaptures(t, "feedback.jsonl"), feedbackCaptures()
	if len(captures) != len(want) {
		t.Fatalf("got %d captures, want %d", len(captures), len(want))
	}
	for i, c := range captures {
		t.Run(c.ID, func(t *testing.T) {
			e := c.decode()
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			f, err := e.Feedback()
			if err != nil {
				t.Fatal(err)
			}
			got := feedbackCapture{
				e.ID, e.Dialect, e.Key, e.Time, e.Track, e.Hash, e.Headers(), e.OrderKey(), f,
			}
			if diff := cmp.Diff(want[i], got); diff != "" {
				t.Errorf("event (-want +got):\n%s", diff)
			}
			if e.EntryID != c.ID || e.Schema != SchemaFeedback || string(e.Data) != c.Fields["data"] || e.Fields != nil {
				t.Errorf("got entry %s with schema %s, data %s and fields %v", e.EntryID, e.Schema, e.Data, e.Fields)
			}
			if payload := referencePayload(t, e.Data, e.Dialect == DialectNested); string(e.Payload) != payload {
				t.Errorf("got payload %s, want %s", e.Payload, payload)
			}
			if err := e.CheckHash(); err != nil {
				t.Error(err)
			}
			if seconds, ok := e.EventTime(); !ok || seconds != want[i].Feedback.Time {
				t.Errorf("got event time %v, %v, want %v", seconds, ok, want[i].Feedback.Time)
			}
		})
	}
}

func TestRateAdjustmentCaptures(t *testing.T) {
	want := []RateAdjustment{
		{"ibkr", 1, LevelOK, 1795556873.490328},
		{"ibkr", 0.5, LevelSoft, 1795556873.4906874},
		{"ibkr", 0, LevelHard, 1795556873.4910188},
	}
	captures := readCaptures(t, "rate_adjustment.jsonl")
	if len(captures) != len(want) {
		t.Fatalf("got %d captures, want %d", len(captures), len(want))
	}
	for i, c := range captures {
		t.Run(c.ID, func(t *testing.T) {
			e := c.decode()
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			if e.Dialect != DialectDirect || e.Schema != SchemaRateAdjustment || e.Key != "ibkr" {
				t.Errorf("got %s event %s with key %q", e.Dialect, e.Schema, e.Key)
			}
			got, err := e.RateAdjustment()
			if err != nil {
				t.Fatal(err)
			}
			if got != want[i] {
				t.Errorf("got %+v, want %+v", got, want[i])
			}
			if err := e.CheckHash(); err != nil {
				t.Error(err)
			}

			// What is written here is what the producers' bus writes, except for the schema id.
			envelope, err := got.Envelope(At(e.Time), TrackV1)
			if err != nil {
				t.Fatal(err)
			}
			envelope.Time = e.Time
			entry, err := envelope.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			sent := strings.Replace(c.Fields["data"], aliasRateAdjustment, SchemaRateAdjustment, 1)
			if string(entry) != sent {
				t.Errorf("got  %s\nwant %s", entry, sent)
			}
		})
	}
}

// The dead letters of the reference hold entries of feedback.jsonl, whose IDs they name.
func TestDeadLetterCaptures(t *testing.T) {
	want := make(map[string]feedbackCapture)
	for _, c := range feedbackCaptures() {
		want[c.ID] = c
	}
	for _, c := range readCaptures(t, "dead_letter_reference.jsonl") {
		t.Run(c.ID, func(t *testing.T) {
			e := c.decode()
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			original, ok := want[c.Fields["original_id"]]
			if !ok {
				t.Fatalf("no original %s", c.Fields["original_id"])
			}
			if e.ID != original.ID || e.EntryID != c.ID {
				t.Errorf("got event %s of entry %s, want %s of %s", e.ID, e.EntryID, original.ID, c.ID)
			}
			if f, err := e.Feedback(); err != nil || f != original.Feedback {
				t.Errorf("got %+v, %v, want %+v", f, err, original.Feedback)
			}
			if err := e.CheckHash(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What must become of the entries of malformed.jsonl concerns the whole chain: an entry to dead-letter fails in the
// decoder, in the typed view, or by a schema id that the flow does not accept.
func TestMalformedCaptures(t *testing.T) {
	const applied = ""
	want := map[string]struct {
		decode string // the decode error
		kind   string // its kind
		view   string // the typed view's error
		schema string // SchemaFeedback unless the flow refuses it by its schema id
		hash   string // the hash's error
	}{
		"no_data_field":       {decode: "entry has no field named data", kind: KindNoData},
		"empty_data":          {decode: "data is empty", kind: KindDecode},
		"not_json":            {decode: "not JSON: unexpected character at byte 1", kind: KindDecode},
		"truncated_json":      {decode: "not JSON: unexpected end at byte 307", kind: KindDecode},
		"json_array":          {decode: "entry must be an object (got array)", kind: KindDecode},
		"missing_meta":        {decode: "/meta: is required", kind: KindDecode},
		"missing_payload":     {decode: "/payload: is required", kind: KindDecode},
		"unknown_schema":      {schema: "telemetry.Nope"},
		"other_schema":        {schema: SchemaRateAdjustment, view: "/coordinator_id: is required"},
		"bad_track":           {decode: "/meta/track: must be v1 or v2 (got string)", kind: KindDecode},
		"missing_level":       {view: "/level: is required"},
		"missing_coordinator": {view: "/coordinator_id: is required"},
		"unknown_level":       {view: "/level: must be ok, soft or hard (got string)"},
		"negative_queue":      {view: "/queue_size: must not be negative (got number)"},
		"zero_capacity":       {view: "/capacity: must be greater than 0 (got number)"},
		"queue_not_integer":   {view: "/queue_size: must be an integer (got number)"},
		"queue_is_string":     {view: "/queue_size: must be an integer (got string)"},
		"ts_missing":          {view: "/ts: is required"},
		"nan_ts":              {decode: "not JSON: unexpected character at byte 313", kind: KindDecode},
		"source_absent":       {view: applied},
		"extra_field":         {view: applied},
		"queue_over_capacity": {view: applied},
		"integral_float":      {view: applied},
		"headers_absent":      {view: applied},
		"hash_mismatch":       {view: applied, hash: "/meta/hash: does not match the payload"},
	}
	captures := readCaptures(t, "malformed.jsonl")
	if len(captures) != len(want) {
		t.Fatalf("got %d captures, want %d", len(captures), len(want))
	}
	for _, c := range captures {
		t.Run(c.Name, func(t *testing.T) {
			want := want[c.Name]
			if want.schema == "" {
				want.schema = SchemaFeedback
			}
			e := c.decode()
			if want.decode != "" {
				checkDecodeError(t, e.Err, want.kind, want.decode)
				if c.Expect != "dead_letter" {
					t.Errorf("the capture expects %s", c.Expect)
				}
				return
			}
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			if e.Schema != want.schema {
				t.Errorf("got schema %q, want %q", e.Schema, want.schema)
			}
			_, err := e.Feedback()
			checkText(t, "feedback", err, want.view)
			checkText(t, "hash", e.CheckHash(), want.hash)
			if dead := err != nil || e.Schema != SchemaFeedback; dead != (c.Expect == "dead_letter") {
				t.Errorf("got an entry to dead-letter: %v; the capture expects %s", dead, c.Expect)
			}
		})
	}
}

func TestMalformedCapturesApply(t *testing.T) {
	full := Feedback{"bars_1", 850, 1000, LevelSoft, "store", 1795556225.5}
	over := full
	over.QueueSize = 2000
	for _, c := range readCaptures(t, "malformed.jsonl") {
		if c.Expect != "apply" {
			continue
		}
		want := full
		if c.Name == "queue_over_capacity" {
			want = over
		}
		if f, err := c.decode().Feedback(); err != nil || f != want {
			t.Errorf("%s: got %+v, %v, want %+v", c.Name, f, err, want)
		}
	}
}

func TestEntryWithoutData(t *testing.T) {
	for _, c := range readCaptures(t, "malformed.jsonl") {
		e := c.decode()
		_, ok := c.Fields["data"]
		if ok != (e.Data != nil) {
			t.Errorf("%s: got data %q", c.Name, e.Data)
		}
		if ok != (e.Fields == nil) {
			t.Errorf("%s: got fields %v", c.Name, e.Fields)
		}
		if !ok && !cmp.Equal(e.Fields, c.Fields) {
			t.Errorf("%s: got fields %v, want %v", c.Name, e.Fields, c.Fields)
		}
	}
}

// checkDecodeError checks that err is a *DecodeError of the kind and with the text.
func checkDecodeError(t *testing.T, err error, kind, text string) {
	t.Helper()
	var bad *DecodeError
	if !errors.As(err, &bad) {
		t.Fatalf("got %v, want a *DecodeError", err)
	}
	if bad.Kind() != kind || bad.Error() != text {
		t.Errorf("got %s error %q, want %s error %q", bad.Kind(), bad, kind, text)
	}
}

// checkText checks the text of an error; none means that there must be no error.
func checkText(t *testing.T, what string, err error, text string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if got != text {
		t.Errorf("%s: got error %q, want %q", what, got, text)
	}
}
