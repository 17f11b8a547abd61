package event

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// schemaDocument is what the tests look at in a schema.
type schemaDocument struct {
	Schema     string                    `json:"$schema"`
	ID         string                    `json:"$id"`
	Type       string                    `json:"type"`
	Properties map[string]map[string]any `json:"properties"`
	Required   []string                  `json:"required"`
}

func TestSchema(t *testing.T) {
	levels := map[string]any{"enum": []any{"ok", "soft", "hard"}}
	number := map[string]any{"type": "number"}
	text := map[string]any{"type": "string"}
	want := map[string]schemaDocument{
		SchemaFeedback: {
			Properties: map[string]map[string]any{
				"coordinator_id": text,
				"queue_size":     {"type": "integer", "minimum": 0.0},
				"capacity":       {"type": "integer", "exclusiveMinimum": 0.0},
				"level":          levels,
				"source":         {"type": "string", "default": "store"},
				"ts":             number,
			},
			Required: []string{"coordinator_id", "queue_size", "capacity", "level", "ts"},
		},
		SchemaRateAdjustment: {
			Properties: map[string]map[string]any{
				"provider": text,
				"scale":    {"type": "number", "minimum": 0.0, "maximum": 1.0},
				"reason":   levels,
				"ts":       number,
			},
			Required: []string{"provider", "scale", "reason", "ts"},
		},
	}
	for _, track := range []string{TrackV1, TrackV2} {
		for id, want := range want {
			want.Schema = "https://json-schema.org/draft/2020-12/schema"
			want.ID = "urn:pulseflow:schema:" + track + ":" + id
			want.Type = "object"
			document, ok := Schema(track, id)
			if !ok {
				t.Fatalf("no schema of %s on %s", id, track)
			}
			var got schemaDocument
			if err := json.Unmarshal(document, &got); err != nil {
				t.Fatal(err)
			}
			for name, property := range got.Properties {
				if property["description"] == "" {
					t.Errorf("%s on %s: no description of %s", id, track, name)
				}
				delete(property, "description")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s on %s (-want +got):\n%s", id, track, diff)
			}
		}
	}
}

func TestSchemaIDs(t *testing.T) {
	for alias, id := range map[string]string{aliasFeedback: SchemaFeedback, aliasRateAdjustment: SchemaRateAdjustment} {
		byAlias, ok := Schema(TrackV1, alias)
		if !ok {
			t.Fatalf("no schema of %s", alias)
		}
		byID, _ := Schema(TrackV1, id)
		if string(byAlias) != string(byID) {
			t.Errorf("%s names another schema than %s", alias, id)
		}
		clear(byID)
		if again, _ := Schema(TrackV1, id); string(again) != string(byAlias) {
			t.Error("the caller's bytes are shared")
		}
	}
	for _, c := range [][2]string{
		{"v3", SchemaFeedback},
		{"", SchemaFeedback},
		{TrackV1, ""},
		{TrackV1, SchemaEnvelope},
		{TrackV1, "../v2/" + SchemaFeedback},
	} {
		if _, ok := Schema(c[0], c[1]); ok {
			t.Errorf("got a schema of %q on %q", c[1], c[0])
		}
	}
}
