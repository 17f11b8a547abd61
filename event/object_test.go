package event

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const objectEntry = `{"ts": 5.5, "key": "k", "meta": {"schema_id": "market.Quote", "headers": {"a": "b"}}, "payload": ` +
	`{"sym\u0062ol": "X", "bid": 1.50, "n": 7, "big": 123456789012345678901, "on": true, "none": null, ` +
	`"list": [1, 2.5, {"x": 1}], "in": {"deep": [9]}, "source": "feed", "n": 8}}`

func TestObject(t *testing.T) {
	e := Decoder{}.Decode("1-0", []byte(objectEntry))
	got, err := e.Object(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"symbol": "X", "bid": 1.5, "n": 8, "big": 123456789012345678901.0, "on": true, "none": nil,
		"list": []any{1, 2.5, map[string]any{"x": 1}}, "in": map[string]any{"deep": []any{9}}, "source": "feed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("object (-want +got):\n%s", diff)
	}
	if e.Source() != "feed" {
		t.Errorf("source %q", e.Source())
	}
	some, err := e.Object([]string{"symbol", "missing"})
	if diff := cmp.Diff(map[string]any{"symbol": "X"}, some); diff != "" || err != nil {
		t.Errorf("chosen members: %v (-want +got):\n%s", err, diff)
	}
}

func TestObjectOfBareEventHasItsTime(t *testing.T) {
	e := Decoder{}.Decode("1795556873500-0", []byte(`{"coordinator_id": "a", "level": "ok"}`))
	got, err := e.Object([]string{"ts", "source", "level"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"ts": 1795556873.5, "source": "store", "level": "ok"}, got); diff != "" {
		t.Errorf("object (-want +got):\n%s", diff)
	}
}

func TestObjectRefusesWhatIsNoNumber(t *testing.T) {
	for _, payload := range []string{`{"x": 1e999}`, `{"x": [[-1e999]]}`} {
		e := Decoder{}.Decode("1-0", []byte(`{"ts": 1, "meta": {"schema_id": "s"}, "payload": `+payload+`}`))
		if _, err := e.Object(nil); err == nil || strings.Contains(err.Error(), "999") {
			t.Errorf("%s: error %v, want one that does not quote it", payload, err)
		}
	}
	if _, err := (Decoder{}.Decode("1-0", []byte(`[`))).Object(nil); err == nil {
		t.Error("an entry that is no envelope has an object")
	}
}

func TestAppendDocument(t *testing.T) {
	entry := `{"ts": 1, "meta": {"schema_id": "s"}, "payload": %}`
	for _, tt := range []struct {
		payload string
		set     []Member
		remove  []string
		want    string
	}{
		{`{"a": 1.50, "b": 2}`, []Member{{"b", []byte("3")}, {"c", []byte(`"x"`)}}, nil, `{"a": 1.50, "b": 3, "c": "x"}`},
		{`{"a": 1, "b": 2}`, nil, []string{"a", "b"}, `{}`},
		{`{}`, []Member{{"é", []byte("1")}}, nil, `{"é": 1}`},
		{`{"a": 1, "a": 2}`, []Member{{"a", []byte("3")}}, nil, `{"a": 3}`},
		{`{"\u0061": 1}`, []Member{{"a", []byte("3")}}, nil, `{"\u0061": 3}`},
	} {
		e := Decoder{}.Decode("1-0", []byte(strings.Replace(entry, "%", tt.payload, 1)))
		got := string(e.AppendDocument(nil, tt.set, tt.remove))
		if got != tt.want || !json.Valid([]byte(got)) {
			t.Errorf("%s: got %s, want %s", tt.payload, got, tt.want)
		}
	}
}

func TestWithKeepsTheEntry(t *testing.T) {
	e := Decoder{}.DecodeFields("5-0", map[string]any{"data": objectEntry, "original_id": "first", "replays": "2"})
	envelope := e.Envelope()
	envelope.Schema, envelope.Payload = "market.Mid", []byte(`{"mid": 2}`)
	got, err := e.With(envelope, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != "first" || got.EntryID != "5-0" || got.OriginalID() != "first" || got.Replays != 2 ||
		got.Schema != "market.Mid" || got.Key != "k" || got.Time != 5.5 || string(got.Payload) != `{"mid": 2}` ||
		got.Headers()["a"] != "b" {
		t.Errorf("event %+v", got)
	}
	if e.Schema != "market.Quote" || string(e.Data) != objectEntry {
		t.Error("the first event has changed")
	}
	if _, err := e.With(envelope, 20); err == nil {
		t.Error("an envelope over the limit was taken")
	}
	envelope.Payload = []byte(`[]`)
	if _, err := e.With(envelope, 0); err == nil {
		t.Error("a payload that is no object was taken")
	}
}

// What a payload decodes to is written as a value equal to it.
func FuzzObject(f *testing.F) {
	f.Add([]byte(objectEntry))
	f.Add([]byte(`{"coordinator_id": "a"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e := Decoder{}.Decode("1795556873500-0", data)
		if e.Err != nil {
			return
		}
		object, err := e.Object(nil)
		if err != nil {
			return
		}
		text, err := AppendValue(nil, object)
		if err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		var want, got any
		if err := json.Unmarshal(e.Document(), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s is not JSON: %v", text, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n(-want +got):\n%s", data, diff)
		}
	})
}
