package event

import (
	"math"
	"strings"
	"testing"
)

func TestShiftTime(t *testing.T) {
	const x = `"meta":{"schema_id":"x"}`
	tests := []struct{ name, data, want string }{
		{
			"canonical",
			`{"ts" : 1 ,` + x + `,"payload":{"a":1,"ts":2.5}} `,
			`{"ts" : 1.5 ,` + x + `,"payload":{"a":1,"ts":3.0}} `,
		},
		{"payload first", `{"payload":{"ts":2},` + x + `,"ts":1}`, `{"payload":{"ts":2.5},` + x + `,"ts":1.5}`},
		{"no ts in the payload", `{"ts":1,` + x + `,"payload":{}}`, `{"ts":1.5,` + x + `,"payload":{}}`},
		{
			"no number in the payload",
			`{"ts":1,` + x + `,"payload":{"ts":"1"}}`,
			`{"ts":1.5,` + x + `,"payload":{"ts":"1"}}`,
		},
		{
			"too large in the payload",
			`{"ts":1,` + x + `,"payload":{"ts":1e400}}`,
			`{"ts":1.5,` + x + `,"payload":{"ts":1e400}}`,
		},
		{
			"deeper",
			`{"ts":1,` + x + `,"payload":{"payload":{"ts":1},"a":{"ts":1}}}`,
			`{"ts":1.5,` + x + `,"payload":{"payload":{"ts":1},"a":{"ts":1}}}`,
		},
		{"escaped name", `{"\u0074s":1,` + x + `,"payload":{}}`, `{"\u0074s":1.5,` + x + `,"payload":{}}`},
		{"the last one counts", `{"ts":9,"ts":1,` + x + `,"payload":{}}`, `{"ts":9,"ts":1.5,` + x + `,"payload":{}}`},
		{"bare", `{"level":"ok"}`, `{"level":"ok"}`},
		{"bare with ts", `{"ts":1}`, `{"ts":1.5}`},
		{
			"nested", nestedIn(`{"ts":3,` + x + `,"payload":{"ts":4}}`),
			strings.Replace(nestedIn(`{"ts":3.5,`+x+`,"payload":{"ts":4.5}}`), `"ts":2`, `"ts":2.5`, 1),
		},
		{
			"null, empty and wrong hashes",
			`{"ts":1,"meta":{"schema_id":"x","hash":"00"},"payload":{"ts":1}}`,
			`{"ts":1.5,"meta":{"schema_id":"x","hash":"00"},"payload":{"ts":1.5}}`,
		},
		{
			"hash",
			`{"ts":1,"meta":{"schema_id":"x","hash":"` + hashOf(`{"ts":1}`) + `"},"payload":{"ts":1}}`,
			`{"ts":1.5,"meta":{"schema_id":"x","hash":"` + hashOf(`{"ts":1.5}`) + `"},"payload":{"ts":1.5}}`,
		},
		{
			"hash behind the payload",
			`{"payload":{ "ts":1},"ts":1,"meta":{"hash":"` + strings.ToUpper(hashOf(`{"ts":1}`)) + `","schema_id":"x"}}`,
			`{"payload":{ "ts":1.5},"ts":1.5,"meta":{"hash":"` + hashOf(`{"ts":1.5}`) + `","schema_id":"x"}}`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ShiftTime([]byte(test.data), 0.5)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestShiftTimeCaptures(t *testing.T) {
	const by = 86400.25
	for _, file := range []string{"feedback.jsonl", "rate_adjustment.jsonl"} {
		for _, c := range readCaptures(t, file) {
			before := c.decode()
			shifted, err := ShiftTime([]byte(c.Fields["data"]), by)
			if err != nil {
				t.Fatal(err)
			}
			after := Decoder{}.Decode(c.ID, shifted)
			if after.Err != nil {
				t.Fatal(after.Err)
			}
			was, _ := before.EventTime()
			if is, ok := after.EventTime(); !ok || is != was+by || after.Time != before.Time+by {
				t.Errorf("%s: got times %v, %v, want %v, %v", c.ID, is, after.Time, was+by, before.Time+by)
			}
			if err := after.CheckHash(); err != nil || after.Hash == "" {
				t.Errorf("%s: got hash %q, error %v", c.ID, after.Hash, err)
			}
		}
	}
}

// Both envelopes of a nested entry may have a hash, and the outer one covers the inner.
func TestShiftTimeNestedHashes(t *testing.T) {
	inner := `{"ts":1,"meta":{"schema_id":"x","hash":"` + hashOf(`{"ts":1}`) + `"},"payload":{"ts":1}}`
	data := `{"ts":1,"meta":{"schema_id":"` + SchemaEnvelope + `","hash":"` + hashOf(inner) + `"},"payload":` + inner + `}`
	if err := (Decoder{}).Decode(testID, []byte(data)).CheckHash(); err != nil {
		t.Fatal(err)
	}
	shifted, err := ShiftTime([]byte(data), 1)
	if err != nil {
		t.Fatal(err)
	}
	e := Decoder{}.Decode(testID, shifted)
	if e.Hash != hashOf(`{"ts":2.0}`) {
		t.Errorf("got inner hash %s", e.Hash)
	}
	if err := e.CheckHash(); err != nil {
		t.Error(err)
	}
}

func TestShiftTimeRefuses(t *testing.T) {
	largest := strings.Replace(withMeta(`"schema_id":"x"`), `"ts":1`, `"ts":1.7e308`, 1)
	tests := []struct {
		name, data string
		by         float64
		want       string
	}{
		{"no entry", "[]", 1, "entry must be an object (got array)"},
		{"broken envelope", `{"meta":{}}`, 1, "/payload: is required"},
		{"NaN", bareEntry, math.NaN(), "shift time: shift must be finite"},
		{"infinity", bareEntry, math.Inf(1), "shift time: shift must be finite"},
		{"overflow", largest, 1e308, "shift time: result must be finite"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := ShiftTime([]byte(test.data), test.by)
			checkText(t, "shift", err, test.want)
			if got != nil {
				t.Errorf("got %s", got)
			}
		})
	}
}
