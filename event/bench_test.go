package event

import (
	"encoding/json"
	"testing"

	"github.com/bytedance/sonic"
)

// benchEntries are one entry of each dialect, as the producers send them.
func benchEntries(b *testing.B) []capture {
	b.Helper()
	feedback := readCaptures(b, "feedback.jsonl")
	return []capture{
		{Name: "nested", Fields: feedback[1].Fields},
		{Name: "direct", Fields: feedback[5].Fields},
		{Name: "canonical", Fields: feedback[8].Fields},
		{Name: "bare", Fields: map[string]string{"data": bareEntry}},
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, entry := range benchEntries(b) {
		data := []byte(entry.Fields["data"])
		b.Run(entry.Name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			var e *Event // outside of the loop, lest it stays on the stack
			b.ReportAllocs()
			for b.Loop() {
				if e = (Decoder{}).Decode("1795556873479-0", data); e.Err != nil {
					b.Fatal(e.Err)
				}
			}
		})
	}
}

func BenchmarkDecodeFields(b *testing.B) {
	for _, entry := range benchEntries(b) {
		fields := map[string]any{"data": entry.Fields["data"]}
		b.Run(entry.Name, func(b *testing.B) {
			b.SetBytes(int64(len(entry.Fields["data"])))
			var e *Event // outside of the loop, lest it stays on the stack
			b.ReportAllocs()
			for b.Loop() {
				if e = (Decoder{}).DecodeFields("1795556873479-0", fields); e.Err != nil {
					b.Fatal(e.Err)
				}
			}
		})
	}
}

// BenchmarkFeedback is what a flow pays for an event's content after decoding it.
func BenchmarkFeedback(b *testing.B) {
	for _, entry := range benchEntries(b) {
		e := (Decoder{}).Decode("1795556873479-0", []byte(entry.Fields["data"]))
		b.Run(entry.Name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Feedback(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCheckHash(b *testing.B) {
	for _, entry := range benchEntries(b) {
		e := (Decoder{}).Decode("1795556873479-0", []byte(entry.Fields["data"]))
		b.Run(entry.Name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := e.CheckHash(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	envelope, err := (RateAdjustment{Provider: "ibkr", Scale: 0.5, Time: 1795556873.4906874}).Envelope(At(1795556874), "")
	if err != nil {
		b.Fatal(err)
	}
	buffer := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := envelope.Append(buffer); err != nil {
			b.Fatal(err)
		}
	}
}

// benchEnvelope is an envelope for decoders that go by Go types.
type benchEnvelope struct {
	TS   float64 `json:"ts"`
	Key  *string `json:"key"`
	Meta struct {
		SchemaID string            `json:"schema_id"`
		Track    string            `json:"track"`
		Headers  map[string]string `json:"headers"`
		Hash     *string           `json:"hash"`
	} `json:"meta"`
	Payload json.RawMessage `json:"payload"`
}

// generalDecoder is a decoder that goes by Go types.
type generalDecoder struct {
	name      string
	unmarshal func([]byte, any) error
}

// BenchmarkReference decodes the same entries with general decoders: the envelope, and the inner one when nested, but
// not the payload, and without most of the rules.
func BenchmarkReference(b *testing.B) {
	libraries := []generalDecoder{{"encoding-json", json.Unmarshal}, {"sonic", sonic.ConfigStd.Unmarshal}}
	for _, library := range append(libraries, experimental...) {
		for _, entry := range benchEntries(b) {
			data := []byte(entry.Fields["data"])
			b.Run(library.name+"/"+entry.Name, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					envelope := new(benchEnvelope)
					if err := library.unmarshal(data, envelope); err != nil {
						b.Fatal(err)
					}
					if envelope.Meta.SchemaID != SchemaEnvelope {
						continue
					}
					if err := library.unmarshal(envelope.Payload, new(benchEnvelope)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
