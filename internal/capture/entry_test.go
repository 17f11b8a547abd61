package capture

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

func TestRead(t *testing.T) {
	got, err := Read("f", strings.NewReader("\n {\"a\": 1} \n{\"stream\": \"s\", \"id\": \"1-0\", \"fields\": {\"data\": \"x\", \"k\": \"v\"}}\n"+
		"{\"fields\": {}}\n"))
	want := []Entry{
		{Line: 2, Data: []byte(`{"a": 1}`)},
		{Line: 3, Stream: "s", ID: "1-0", Data: []byte("x"), Fields: map[string]string{"k": "v"}},
		{Line: 4, Fields: map[string]string{}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for text, want := range map[string]string{
		"{\"a\": 1}\nnot json\n":              "2: not a JSON object",
		"[1]\n":                               "1: not a JSON object",
		"null\n":                              "1: not a JSON object",
		"\n\n{\"fields\": {\"data\": 5}}\n":   "3: \"fields\" must be an object of strings",
		"{}\n" + strings.Repeat("x", MaxLine): "2: the line is longer than 6148 KiB, and no entry is",
	} {
		if _, err := Read("f", strings.NewReader(text)); err == nil || err.Error() != "f:"+want {
			t.Errorf("%.40q: %v, want f:%s", text, err, want)
		}
		if _, err := Read("", strings.NewReader(text)); err == nil || err.Error() != "line "+want {
			t.Errorf("%.40q: %v, want line %s", text, err, want)
		}
	}
}

// The newest event comes to its own time, and the others keep their distance.
func TestShift(t *testing.T) {
	list := []Entry{
		{Data: []byte(`{"ts": 100.5, "meta": {"schema_id": "a.B"}, "payload": {"ts": 100.5}}`)},
		{Data: []byte(`not json`)},
		{Data: []byte(`{"ts": 103.0, "meta": {"schema_id": "a.B"}, "payload": {"ts": 103.0}}`)},
		{},
	}
	if err := Shift(list, func(i int) time.Time { return time.Unix(1000+int64(i), 0) }); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]float64{0: 999.5, 2: 1002} {
		if got, _ := (event.Decoder{}).Decode("", list[i].Data).EventTime(); math.Abs(got-want) > 1e-9 {
			t.Errorf("entry %d happened at %v, want %v", i, got, want)
		}
	}
	if string(list[1].Data) != "not json" || list[3].Data != nil {
		t.Errorf("what has no time is another: %q, %q", list[1].Data, list[3].Data)
	}
}

// Whatever the text, nothing panics, and what is read is read alike again.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"feedback.jsonl", "malformed.jsonl"} {
		src, err := os.ReadFile(filepath.Join("..", "..", "event", "testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(src) {
			f.Add(line)
		}
	}
	f.Add([]byte(`{"fields": {"data": "{}", "k": "v"}, "id": "1-0"}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, text []byte) {
		one, err := Parse(text)
		if err != nil {
			return
		}
		kept := bytes.Clone(one.Data)
		again, err := Parse(bytes.Clone(text))
		if diff := cmp.Diff(one, again); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
		list := []Entry{one}
		if err := Shift(list, func(int) time.Time { return time.Unix(1, 0) }); err == nil && !bytes.Equal(one.Data, kept) {
			t.Error("the data of the entry itself was changed")
		}
	})
}
