package event

import "testing"

func TestDialectString(t *testing.T) {
	for dialect, want := range map[Dialect]string{
		0: "unknown", DialectCanonical: "canonical", DialectDirect: "direct", DialectNested: "nested",
		DialectBare: "bare", 5: "unknown",
	} {
		if got := dialect.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestCanonicalSchema(t *testing.T) {
	for id, want := range map[string]string{
		"telemetry.FeedbackEvent":               SchemaFeedback,
		"telemetry.backpressure.FeedbackEvent":  SchemaFeedback,
		"telemetry.RateAdjustment":              SchemaRateAdjustment,
		"telemetry.backpressure.RateAdjustment": SchemaRateAdjustment,
		"events.envelope.EventEnvelope":         SchemaEnvelope,
		"telemetry.backpressure.Other":          "telemetry.backpressure.Other",
		"":                                      "",
	} {
		if got := CanonicalSchema(id); got != want {
			t.Errorf("%s: got %s, want %s", id, got, want)
		}
		if got, alias := schemaOf([]byte(id)); got != want || alias != (got != id) {
			t.Errorf("%s: got %s, alias %v, want %s", id, got, alias, want)
		}
	}
}
