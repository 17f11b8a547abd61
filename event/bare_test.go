package event

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCanonicalBare(t *testing.T) {
	tests := []struct {
		name, data string
		key        string
		headers    map[string]string
		payload    string
	}{
		{
			"as the store posts it", bareEntry, "bars_1",
			map[string]string{"reason": "queue_high", "utilization": "0.85"},
			`{"coordinator_id": "bars_1", "queue_size": 850, "capacity": 1000, "level": "soft", "source": "store", "ts": 5.5}`,
		},
		{"empty", " { } ", "", map[string]string{}, `{"source": "store", "ts": 5.5}`},
		{"own source and ts", `{"ts":1e0,"source":null}`, "", map[string]string{}, `{"ts": 1e0, "source": null}`},
		{
			"utilization is text", `{"utilization":"0.850000","reason":"\u00fc"}`, "",
			map[string]string{"utilization": "0.850000", "reason": "ü"},
			`{"source": "store", "ts": 5.5}`,
		},
		{
			"neither can be a header", `{"reason":1,"utilization":null}`, "",
			map[string]string{},
			`{"reason": 1, "utilization": null, "source": "store", "ts": 5.5}`,
		},
		{
			"the last one counts", `{"reason":1,"reason":"x","utilization":0.5,"utilization":[]}`, "",
			map[string]string{"reason": "x"},
			`{"utilization": 0.5, "utilization": [], "source": "store", "ts": 5.5}`,
		},
		{
			"escaped names", `{"r\u0065ason":"x","sourc\u0065":"y","coordinator_i\u0064":"\u0063"}`, "c",
			map[string]string{"reason": "x"},
			`{"sourc\u0065": "y", "coordinator_i\u0064": "\u0063", "ts": 5.5}`,
		},
		{
			"everything moves but the own members", `{"ts":1,"reason":"x","source":"y"}`, "",
			map[string]string{"reason": "x"},
			`{"ts": 1, "source": "y"}`,
		},
		{
			"coordinator is no text", `{"coordinator_id":5,"id":"x","key":"y"}`, "",
			map[string]string{},
			`{"coordinator_id": 5, "id": "x", "key": "y", "source": "store", "ts": 5.5}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			entry, err := CanonicalBare([]byte(test.data), At(5.5), TrackV2)
			if err != nil {
				t.Fatal(err)
			}
			e := Decoder{}.Decode(testID, entry)
			if e.Err != nil {
				t.Fatal(e.Err)
			}
			if e.Dialect != DialectCanonical || e.Schema != SchemaFeedback || e.Track != TrackV2 || e.Time != 5.5 {
				t.Errorf("got %s entry %s", e.Dialect, entry)
			}
			if e.Key != test.key || string(e.Payload) != test.payload {
				t.Errorf("got key %q, payload %s", e.Key, e.Payload)
			}
			if diff := cmp.Diff(test.headers, e.Headers()); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
			if err := e.CheckHash(); err != nil || e.Hash == "" {
				t.Errorf("got hash %q, error %v", e.Hash, err)
			}
			bare := Decoder{}.Decode("5500-0", []byte(test.data))
			if diff := cmp.Diff(bare.Headers(), e.Headers()); diff != "" {
				t.Errorf("headers before and after (-before +after):\n%s", diff)
			}
		})
	}
}

// A redelivered entry must keep its time, and so the event must be usable as it was received.
func TestCanonicalBareFeedback(t *testing.T) {
	entry, err := CanonicalBare([]byte(bareEntry), At(1795556873.476), "")
	if err != nil {
		t.Fatal(err)
	}
	e := Decoder{}.Decode("99-0", entry)
	want := Feedback{"bars_1", 850, 1000, LevelSoft, "store", 1795556873.476}
	if f, err := e.Feedback(); err != nil || f != want || e.Track != TrackV1 {
		t.Errorf("got %+v on track %s, %v, want %+v", f, e.Track, err, want)
	}
}

func TestCanonicalBareRefuses(t *testing.T) {
	tests := []struct{ name, data, track, want string }{
		{"envelope", withMeta(`"schema_id":"x"`), "", "must be an event without meta and payload"},
		{"broken envelope", `{"meta":1}`, "", "/meta: must be an object (got number)"},
		{"list", `[]`, "", "entry must be an object (got array)"},
		{"empty", "", "", "data is empty"},
		{"no JSON", "{", "", "not JSON: unexpected end at byte 1"},
		{"track", "{}", "v3", "bare event: envelope: track must be v1 or v2"},
		{
			"too deep", `{"a":` + nested(511) + "}", "",
			"bare event: envelope: payload: nested deeper than 512 at byte 516",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			entry, err := CanonicalBare([]byte(test.data), At(0), test.track)
			checkText(t, "canonical", err, test.want)
			if entry != nil {
				t.Errorf("got %s", entry)
			}
			var bad *DecodeError
			if test.track == "" && !errors.As(err, &bad) {
				t.Errorf("got %#v", err)
			}
		})
	}
}

func TestDocument(t *testing.T) {
	e := Decoder{}.Decode("5500-0", []byte(bareEntry))
	want := strings.TrimSuffix(bareEntry, "}") + `, "source": "store", "ts": 5.5}`
	if got := string(e.Document()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := string(e.Payload); got != bareEntry {
		t.Errorf("got payload %s", got)
	}
	nested := readCaptures(t, "feedback.jsonl")[0].decode()
	if got := nested.Document(); &got[0] != &nested.Payload[0] {
		t.Errorf("got %s", got)
	}
}
