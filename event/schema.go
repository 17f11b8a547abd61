package event

import "embed"

// The schema documents of the known event types, one folder a track.
//
//go:embed schemas
var schemas embed.FS

// Schema returns the JSON Schema document, draft 2020-12, of the event type id on the given track, and false when
// there is none. An alias of an id names the same document. The bytes are the caller's.
func Schema(track, id string) ([]byte, bool) {
	if !validTrack(track) {
		return nil, false
	}
	switch id = CanonicalSchema(id); id {
	case SchemaFeedback, SchemaRateAdjustment:
		document, err := schemas.ReadFile("schemas/" + track + "/" + id + ".json")
		return document, err == nil
	default:
		return nil, false
	}
}
