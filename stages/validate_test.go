package stages

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mjdevaccount/pulseflow/event"
)

func TestValidateModes(t *testing.T) {
	good := feedback("a", "ok", at)
	bad := strings.Replace(good, `"capacity": 10`, `"capacity": 0`, 1)
	other := strings.Replace(good, "telemetry.FeedbackEvent", "telemetry.Nope", 1)
	badHash := strings.Replace(good, `"hash": null`, `"hash": "00"`, 1)
	const schema = "schema: telemetry.FeedbackEvent"
	for _, tt := range []struct {
		name, config, data string
		kind               string // "" passes
		counted            string
	}{
		{"good", schema, good, "", ""},
		{"alias", schema, strings.Replace(good, "telemetry.F", "telemetry.backpressure.F", 1), "", ""},
		{"bad, strict", schema, bad, KindSchema, "validation telemetry.FeedbackEvent strict"},
		{"bad, warn", schema + ", mode: warn", bad, "", "validation telemetry.FeedbackEvent warn"},
		{"other schema, strict", schema, other, KindSchema, "validation telemetry.FeedbackEvent strict"},
		{"other schema, warn", schema + ", mode: warn", other, "", "validation telemetry.FeedbackEvent warn"},
		{"v2 event in a v1 flow", schema + ", track: v1", strings.Replace(good, `"v1"`, `"v2"`, 1), "", ""},
		{"v1 event in a v2 flow", schema + ", track: v2", good, "", ""},
		{"hash, off", schema, badHash, "", ""},
		{"hash, warn", schema + ", hash: warn", badHash, "", "hash telemetry.FeedbackEvent"},
		{"hash, strict", schema + ", hash: strict", badHash, KindHash, "hash telemetry.FeedbackEvent"},
		{"no hash, strict", schema + ", hash: strict", good, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := start(t, Builtin(), "      - validate: {"+tt.config+"}\n", nil)
			r := b.send("1-0", tt.data)
			if ErrorKind(r.err) != tt.kind || IsPermanent(r.err) != (tt.kind != "") {
				t.Errorf("error %v of kind %q, want kind %q", r.err, ErrorKind(r.err), tt.kind)
			}
			total := 0
			for _, n := range b.count.counts {
				total += n
			}
			if want := min(len(tt.counted), 1); total != want || want == 1 && b.count.of(tt.counted) != 1 {
				t.Errorf("counted %v, want %q", b.count.counts, tt.counted)
			}
		})
	}
}

func TestValidateSchemaFilePerTrack(t *testing.T) {
	b := start(t, Builtin(), "      - validate: {schema: telemetry.FeedbackEvent, files: {v2: big_queue.schema.json}}\n", nil)
	v1 := feedback("a", "ok", at)
	v2 := strings.Replace(v1, `"v1"`, `"v2"`, 1)
	if r := b.send("1-0", v1); r.err != nil {
		t.Errorf("v1, the built-in schema: %v", r.err)
	}
	r := b.send("2-0", v2)
	if !IsPermanent(r.err) || !strings.Contains(r.err.Error(), "/queue_size") {
		t.Errorf("v2, the file's schema: %v, want /queue_size refused", r.err)
	}
	if strings.Contains(r.err.Error(), "7") {
		t.Errorf("the error shows the value: %v", r.err)
	}
	if r := b.send("3-0", strings.Replace(v2, `"queue_size": 7`, `"queue_size": 700`, 1)); r.err != nil {
		t.Errorf("v2 that fits: %v", r.err)
	}
}

func TestValidateOwnEventType(t *testing.T) {
	b := start(t, Builtin(), "      - validate: {schema: trades.Trade, files: {v1: trade.schema.json}}\n", nil)
	trade := `{"ts": 1.0, "key": null, "meta": {"schema_id": "trades.Trade"}, "payload": {"price": %s}}`
	if r := b.send("1-0", fmt.Sprintf(trade, "1.5")); r.err != nil {
		t.Errorf("a good trade: %v", r.err)
	}
	if r := b.send("2-0", fmt.Sprintf(trade, `"secret"`)); !IsPermanent(r.err) || strings.Contains(r.err.Error(), "secret") {
		t.Errorf("a bad trade: %v", r.err)
	}
	const advice = `(trades.Trade), but telemetry.FeedbackEvent, as is all that comes without an envelope: send {"ts": …, ` +
		`"meta": {"schema_id": "trades.Trade"}, "payload": …}`
	bare := b.send("4-0", `{"price": 1.5}`)
	posted := b.send("5-0", strings.Replace(fmt.Sprintf(trade, "1"), "trades.Trade", event.SchemaFeedback, 1))
	for _, r := range []result{bare, posted} {
		if !IsPermanent(r.err) || !strings.Contains(r.err.Error(), advice) {
			t.Errorf("a trade without an envelope: %v, want %s", r.err, advice)
		}
	}
	other := b.send("6-0", strings.Replace(fmt.Sprintf(trade, "1"), "trades.Trade", "secret.Trade", 1))
	if !IsPermanent(other.err) || strings.Contains(other.err.Error(), "secret") || strings.Contains(other.err.Error(), "envelope") {
		t.Errorf("an event of another schema: %v", other.err)
	}
	v2 := strings.Replace(fmt.Sprintf(trade, "1"), `"trades.Trade"`, `"trades.Trade", "track": "v2"`, 1)
	if r := b.send("3-0", v2); !IsPermanent(r.err) {
		t.Errorf("a track without schema: %v", r.err)
	}
}

func TestValidateDiagnostics(t *testing.T) {
	for config, want := range map[string]string{
		"schema: telemetry.Feedback":                                       "unknown schema \"telemetry.Feedback\"; known: telemetry.FeedbackEvent, telemetry.RateAdjustment; give the file of another, as in files: {v1: event.json}",
		"schema: telemetry.FeedbackEvent, files: {v1: none.json}":          "schema testdata/none.json cannot be read",
		"schema: telemetry.FeedbackEvent, files: {v1: broken.schema.json}": "broken.schema.json",
		"schema: telemetry.FeedbackEvent, files: {v1: remote.schema.json}": "references to other documents",
		"schema: telemetry.FeedbackEvent, track: v3":                       "v1 or v2",
		"schema: trades.Trade, track: v2, files: {v1: trade.schema.json}":  "no schema of track v2",
		"track: v1": "schema",
	} {
		_, d := resolve(t, Builtin(), file("      - validate: {"+config+"}\n"))
		if !d.HasErrors() || !strings.Contains(d.String(), want) {
			t.Errorf("%s: %q, want it to contain %q", config, d, want)
		}
	}
}

// FuzzFastPath holds the typed checks against the JSON Schema documents they stand
// for: they accept the same payloads.
func FuzzFastPath(f *testing.F) {
	checks := make(map[string]check)
	for id := range builtinChecks {
		for _, track := range []string{event.TrackV1, event.TrackV2} {
			src, ok := event.Schema(track, id)
			if !ok {
				f.Fatalf("no schema document for %s on %s", id, track)
			}
			compiled, err := compileSchema(id+"."+track+".json", src)
			if err != nil {
				f.Fatal(err)
			}
			checks[id+" "+track] = schemaCheck(compiled)
		}
	}
	for _, name := range []string{"feedback.jsonl", "malformed.jsonl", "rate_adjustment.jsonl"} {
		src, err := os.ReadFile(filepath.Join("..", "event", "testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		for line := range bytes.Lines(src) {
			if payload := payloadOf(line); payload != nil {
				f.Add(payload)
			}
		}
	}
	for _, s := range []string{
		`{"coordinator_id":"a","queue_size":850.0,"capacity":1e2,"level":"ok","ts":1}`,
		`{"coordinator_id":"a","queue_size":-0.0,"capacity":1e-400,"level":"ok","ts":1}`,
		`{"coordinator_id":"a","queue_size":1e400,"capacity":10E-1,"level":"ok","ts":-1e5}`,
		`{"provider":"p","scale":1.0000000000000000001,"reason":"soft","ts":0}`,
		`{"provider":"p","scale":-0,"reason":"soft","ts":0,"ts":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		data := append(append([]byte(`{"ts":1.0,"meta":{"schema_id":"x"},"payload":`), payload...), '}')
		e := event.Decoder{}.Decode("1-0", data)
		if e.Err != nil || !bytes.Equal(e.Payload, bytes.TrimSpace(payload)) {
			t.Skip("not a payload")
		}
		for id, fast := range builtinChecks {
			quick := fast(&Delivery{Event: e})
			if _, tooLarge := e.EventTime(); quick != nil && !tooLarge && strings.Contains(quick.Error(), "/ts") {
				continue // the documented difference: a ts that no float64 holds
			}
			for _, track := range []string{event.TrackV1, event.TrackV2} {
				slow := checks[id+" "+track](&Delivery{Event: e})
				if (quick == nil) != (slow == nil) {
					t.Errorf("%s %s: fast path %v, schema %v, payload %s", id, track, quick, slow, payload)
				}
			}
		}
	})
}

// payloadOf finds the payload in a line of a capture file.
func payloadOf(line []byte) []byte {
	i := bytes.LastIndex(line, []byte(`\"payload\": `))
	if i < 0 {
		return nil
	}
	s := strings.ReplaceAll(string(line[i+len(`\"payload\": `):]), `\"`, `"`)
	end := strings.LastIndex(s, "}}\"")
	if end < 0 {
		return nil
	}
	return []byte(strings.TrimRight(s[:end], "}") + "}")
}
