package event

import (
	"math"
	"time"
	"unicode/utf8"
)

// RateAdjustment is a telemetry.RateAdjustment: the share of its rate that a provider may use (docs/contract.md §3).
type RateAdjustment struct {
	Provider string  // whose rate it is
	Scale    float64 // the share, from 0 (paused) to 1 (full)
	Reason   Level   // the pressure that asks for it
	Time     float64 // the ts of the feedback event behind it, epoch seconds
}

// RateAdjustment returns the payload as a rate adjustment. It accepts what the event's JSON Schema accepts (see
// Schema), and in addition demands of ts that a float64 can hold it; any other payload yields a *FieldError for the
// first member that breaks a rule. Scale is judged by its text, so that a number above 1 is refused even when its
// nearest float64 is 1. Of an event with Err set, it returns that.
func (e *Event) RateAdjustment() (RateAdjustment, error) {
	if e.Err != nil {
		return RateAdjustment{}, e.Err
	}
	v := view{event: e}
	r := RateAdjustment{
		Provider: v.text(nameProvider),
		Scale:    v.fraction(nameScale),
		Reason:   v.level(nameReason),
		Time:     v.time(),
	}
	if v.err != nil {
		return RateAdjustment{}, v.err
	}
	return r, nil
}

// Envelope returns the envelope that carries the adjustment: sent now, with the provider as its key. An empty track
// is TrackV1. It returns a *FieldError when the adjustment breaks the shape of its type.
func (r RateAdjustment) Envelope(now time.Time, track string) (Envelope, error) {
	switch {
	case !utf8.ValidString(r.Provider):
		return Envelope{}, &FieldError{Pointer: nameProvider.pointer(), Rule: "must be valid UTF-8", Got: "string"}
	case !(r.Scale >= 0 && r.Scale <= 1):
		return Envelope{}, &FieldError{Pointer: nameScale.pointer(), Rule: "must be from 0 to 1", Got: "number"}
	case r.Reason > LevelHard:
		return Envelope{}, &FieldError{Pointer: nameReason.pointer(), Rule: "must be ok, soft or hard", Got: "number"}
	case math.IsNaN(r.Time) || math.IsInf(r.Time, 0):
		return Envelope{}, &FieldError{Pointer: nameTS.pointer(), Rule: "must be a finite number", Got: "number"}
	}
	payload := append([]byte(nil), `{"provider": `...)
	payload = appendQuoted(payload, r.Provider, true)
	payload = append(payload, `, "scale": `...)
	payload = appendFloat(payload, math.Abs(r.Scale)) // no -0.0
	payload = append(payload, `, "reason": "`...)
	payload = append(payload, r.Reason.String()...)
	payload = append(payload, `", "ts": `...)
	payload = appendFloat(payload, r.Time)
	payload = append(payload, '}')
	return Envelope{
		Time:    Seconds(now),
		Key:     r.Provider,
		Schema:  SchemaRateAdjustment,
		Track:   track,
		Payload: payload,
	}, nil
}
