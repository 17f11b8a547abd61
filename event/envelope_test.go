package event

import (
	"math"
	"strings"
	"testing"
)

func TestEnvelopeAppend(t *testing.T) {
	hash := hashOf(`{"a":"ü"}`)
	envelope := Envelope{
		Time: 5, Key: "b\u00f6rse \U0001F600\x7f\"", Schema: aliasFeedback, Track: TrackV2,
		Headers: map[string]string{"b": "\n", "a": "ü", "c": ""},
		Payload: []byte("\n{\"a\":  \"ü\"}\t"),
	}
	const want = `{"ts": 5.0, "key": "b\u00f6rse \ud83d\ude00\u007f\"", ` +
		`"meta": {"schema_id": "telemetry.FeedbackEvent", "track": "v2", ` +
		`"headers": {"a": "\u00fc", "b": "\n", "c": ""}, "hash": "HASH"}, "payload": {"a":  "ü"}}`
	got, err := envelope.Append([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "x" + strings.Replace(want, "HASH", hash, 1); string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	got, err = Envelope{Schema: "x", Payload: []byte("{}")}.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	least := `{"ts": 0.0, "key": null, "meta": {"schema_id": "x", "track": "v1", "headers": {}, "hash": "` + hashOf("{}") +
		`"}, "payload": {}}`
	if string(got) != least {
		t.Errorf("got  %s\nwant %s", got, least)
	}
}

func TestEnvelopeAppendRefuses(t *testing.T) {
	sound := Envelope{Time: 1, Schema: "x", Payload: []byte("{}")}
	tests := []struct {
		name   string
		change func(e *Envelope)
		want   string
	}{
		{"nothing", func(*Envelope) {}, ""},
		{"NaN", func(e *Envelope) { e.Time = math.NaN() }, "envelope: time must be finite"},
		{"infinity", func(e *Envelope) { e.Time = math.Inf(-1) }, "envelope: time must be finite"},
		{"key", func(e *Envelope) { e.Key = "\xff" }, "envelope: key must be valid UTF-8"},
		{"no schema", func(e *Envelope) { e.Schema = "" }, "envelope: schema must be the id of an event type"},
		{
			"envelope schema",
			func(e *Envelope) { e.Schema = SchemaEnvelope },
			"envelope: schema must be the id of an event type",
		},
		{"schema", func(e *Envelope) { e.Schema = "\xff" }, "envelope: schema must be valid UTF-8"},
		{"track", func(e *Envelope) { e.Track = "V1" }, "envelope: track must be v1 or v2"},
		{
			"header",
			func(e *Envelope) { e.Headers = map[string]string{"\xff": ""} },
			"envelope: headers must be valid UTF-8",
		},
		{
			"header text",
			func(e *Envelope) { e.Headers = map[string]string{"": "\xff"} },
			"envelope: headers must be valid UTF-8",
		},
		{
			"no payload",
			func(e *Envelope) { e.Payload = nil },
			"envelope: payload: not JSON: unexpected end at byte 0",
		},
		{"payload is a list", func(e *Envelope) { e.Payload = []byte("[]") }, "envelope: payload must be an object"},
		{
			"two payloads",
			func(e *Envelope) { e.Payload = []byte("{}{}") },
			"envelope: payload: not JSON: more than one value at byte 2",
		},
		{
			"payload UTF-8",
			func(e *Envelope) { e.Payload = []byte("\xff") },
			"envelope: payload: not JSON: not valid UTF-8",
		},
		{"deep payload", func(e *Envelope) { e.Payload = []byte(`{"a":` + nested(510) + "}") }, ""},
		{
			"too deep payload", func(e *Envelope) { e.Payload = []byte(`{"a":` + nested(511) + "}") },
			"envelope: payload: nested deeper than 512 at byte 515",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := sound
			test.change(&e)
			got, err := e.Append([]byte("x"))
			checkText(t, "append", err, test.want)
			if err != nil && string(got) != "x" {
				t.Errorf("got %s", got)
			}
			if err == nil {
				if e := (Decoder{}).Decode(testID, got[1:]); e.Err != nil {
					t.Error(e.Err)
				}
			}
		})
	}
}

func TestRateAdjustmentEnvelope(t *testing.T) {
	r := RateAdjustment{"b\u00f6rse", 1, LevelSoft, 1795556873.490328}
	e, err := r.Envelope(At(1795556874.25), "")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := e.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"ts": 1795556874.25, "key": "b\u00f6rse", ` +
		`"meta": {"schema_id": "telemetry.RateAdjustment", "track": "v1", ` +
		`"headers": {}, "hash": "` + hashOf(`{"provider":"börse","scale":1.0,"reason":"soft","ts":1795556873.490328}`) +
		`"}, "payload": {"provider": "b\u00f6rse", "scale": 1.0, "reason": "soft", "ts": 1795556873.490328}}`
	if string(entry) != want {
		t.Errorf("got  %s\nwant %s", entry, want)
	}
	if got, err := (Decoder{}).Decode(testID, entry).RateAdjustment(); err != nil || got != r {
		t.Errorf("got %+v, %v, want %+v", got, err, r)
	}

	paused, err := RateAdjustment{Provider: "p", Scale: math.Copysign(0, -1)}.Envelope(At(0), TrackV2)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"provider": "p", "scale": 0.0, "reason": "ok", "ts": 0.0}`; string(paused.Payload) != want {
		t.Errorf("got %s, want %s", paused.Payload, want)
	}
	if paused.Track != TrackV2 {
		t.Errorf("got track %s", paused.Track)
	}
}

func TestRateAdjustmentEnvelopeRefuses(t *testing.T) {
	tests := []struct {
		name string
		r    RateAdjustment
		want string
	}{
		{"provider", RateAdjustment{Provider: "\xff"}, "/provider: must be valid UTF-8 (got string)"},
		{"negative scale", RateAdjustment{Scale: -0.1}, "/scale: must be from 0 to 1 (got number)"},
		{"scale over 1", RateAdjustment{Scale: 1.1}, "/scale: must be from 0 to 1 (got number)"},
		{"scale is NaN", RateAdjustment{Scale: math.NaN()}, "/scale: must be from 0 to 1 (got number)"},
		{"reason", RateAdjustment{Reason: 3}, "/reason: must be ok, soft or hard (got number)"},
		{"time", RateAdjustment{Time: math.Inf(1)}, "/ts: must be a finite number (got number)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := test.r.Envelope(At(0), TrackV1)
			checkFieldError(t, err, test.want)
		})
	}
	e, err := RateAdjustment{}.Envelope(At(0), "v3")
	if err == nil {
		_, err = e.Append(nil)
	}
	checkText(t, "track", err, "envelope: track must be v1 or v2")
}
