package event

import "strconv"

// The kinds of fault an entry can have. They are the whole set of values of the Kind methods and of the dead-letter
// field error_kind that concern an entry, and so may label a metric.
const (
	KindDecode     = "decode"     // the data is no envelope
	KindSize       = "size"       // the data is larger than the decoder's limit
	KindNoData     = "no_data"    // the entry has no field data
	KindSchema     = "schema"     // the payload breaks its event type's shape
	KindHash       = "hash"       // the payload does not match its hash
	KindDeliveries = "deliveries" // the entry was delivered too often; set by transports
)

// A DecodeError says why an entry is no usable envelope. It never quotes what the entry contains.
type DecodeError struct {
	// Pointer is the JSON pointer, from the root of the entry, of what is wrong; empty when it is the entry as a whole.
	Pointer string
	// Rule is what the entry breaks, as in "must be an object".
	Rule string
	// Got is the JSON type that was found; empty when the type does not matter or nothing was there.
	Got string

	kind string // KindSize or KindNoData; empty = KindDecode
}

// Error returns the pointer, the rule and the type found: "/meta/track: must be v1 or v2 (got string)".
func (e *DecodeError) Error() string { return describe(e.Pointer, e.Rule, e.Got) }

// Kind returns KindDecode, KindSize or KindNoData.
func (e *DecodeError) Kind() string {
	if e.kind == "" {
		return KindDecode
	}
	return e.kind
}

// A FieldError says which rule of its event type's shape a payload breaks. It never quotes what the payload contains.
type FieldError struct {
	Pointer string // the JSON pointer of the member, from the root of the payload
	Rule    string // the rule it breaks, as in "must be ok, soft or hard"
	Got     string // the JSON type that was found; empty when the member is missing
}

// Error returns the pointer, the rule and the type found: "/level: must be ok, soft or hard (got string)".
func (e *FieldError) Error() string { return describe(e.Pointer, e.Rule, e.Got) }

// Kind returns KindSchema.
func (e *FieldError) Kind() string { return KindSchema }

// A HashError says that an entry's hash does not match what it covers.
type HashError struct {
	Pointer string // the JSON pointer of the hash, from the root of the entry
	Rule    string // what is wrong with it
}

// Error returns the pointer and the rule: "/meta/hash: does not match the payload".
func (e *HashError) Error() string { return describe(e.Pointer, e.Rule, "") }

// Kind returns KindHash.
func (e *HashError) Kind() string { return KindHash }

// describe is the text that all errors of the package share.
func describe(pointer, rule, got string) string {
	text := rule
	if pointer != "" {
		text = pointer + ": " + rule
	}
	if got != "" {
		text += " (got " + got + ")"
	}
	return text
}

// sizeError refuses an entry of size bytes.
func sizeError(size, limit int) *DecodeError {
	rule := "entry has " + strconv.Itoa(size) + " bytes, more than the limit of " + strconv.Itoa(limit)
	return &DecodeError{Rule: rule, kind: KindSize}
}
