package event

// Tracks of docs/contract.md §2.
const (
	TrackV1 = "v1"
	TrackV2 = "v2"
)

// Schema ids as this package reports and writes them. A decoded Event never has an alias of them.
const (
	SchemaFeedback       = "telemetry.FeedbackEvent"
	SchemaRateAdjustment = "telemetry.RateAdjustment"

	// SchemaEnvelope is the schema_id of an outer envelope whose payload is an inner envelope.
	SchemaEnvelope = "events.envelope.EventEnvelope"
)

// The module-path spellings of the schema ids, which the producers' bus writes.
const (
	aliasFeedback       = "telemetry.backpressure.FeedbackEvent"
	aliasRateAdjustment = "telemetry.backpressure.RateAdjustment"
)

// Dialect is the form in which an entry was sent: docs/contract.md §2. The zero Dialect means that the entry could
// not be decoded.
type Dialect uint8

// The dialects that producers send.
const (
	DialectCanonical Dialect = iota + 1 // an envelope with a canonical schema id
	DialectDirect                       // an envelope whose schema id is a module path
	DialectNested                       // an envelope in an envelope
	DialectBare                         // a feedback event without an envelope
)

// String returns the dialect's name: canonical, direct, nested, bare, or unknown.
func (d Dialect) String() string {
	switch d {
	case DialectCanonical:
		return "canonical"
	case DialectDirect:
		return "direct"
	case DialectNested:
		return "nested"
	case DialectBare:
		return "bare"
	default:
		return "unknown"
	}
}

// CanonicalSchema returns the schema id for which id is an alias, and id itself when it is none (docs/contract.md
// §2).
func CanonicalSchema(id string) string {
	switch id {
	case aliasFeedback:
		return SchemaFeedback
	case aliasRateAdjustment:
		return SchemaRateAdjustment
	default:
		return id
	}
}

// schemaOf returns the canonical schema id spelled by text, and whether it was spelled as a module path. The known
// ids cost no allocation.
func schemaOf(text []byte) (id string, alias bool) {
	switch string(text) {
	case SchemaFeedback:
		return SchemaFeedback, false
	case SchemaRateAdjustment:
		return SchemaRateAdjustment, false
	case SchemaEnvelope:
		return SchemaEnvelope, false
	case aliasFeedback:
		return SchemaFeedback, true
	case aliasRateAdjustment:
		return SchemaRateAdjustment, true
	default:
		return string(text), false
	}
}

// validTrack reports whether track is one that the contract knows.
func validTrack(track string) bool { return track == TrackV1 || track == TrackV2 }
