// Package event turns the entries of a stream into events, and events into entries.
//
// An entry is one JSON object in one of the four dialects of docs/contract.md §2: nested, direct, canonical or bare.
// A [Decoder] reads it once, in one pass that validates all of it, and yields an [Event]: the envelope's fields, the
// payload's bytes, and where in them the members of the known event types are. The typed views [Event.Feedback] and
// [Event.RateAdjustment] read those members without parsing again. [Envelope], [RateAdjustment] and [CanonicalBare]
// write canonical entries, and [ShiftTime] moves a recorded entry in time.
//
// The package imports nothing but the standard library, does no I/O, starts no goroutine, and knows no transport,
// stage or clock: times are given to it. No error it returns quotes a value of an entry; errors name the place (a
// JSON pointer), the rule, and the type that was found.
//
// Where the next change goes: a new dialect in dialect.go and decode.go, a new member to recognise in frame.go, a new
// event type in a file of its own beside feedback.go, with its JSON Schema under schemas/ and its alias in
// dialect.go.
package event
