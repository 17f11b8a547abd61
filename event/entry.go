package event

import "iter"

// entry scans the data of an entry, tells its dialect, and checks its envelopes by the rules of Decoder.Decode. It
// does not tell DialectDirect from DialectCanonical.
func (s *scanner) entry(data []byte) (Dialect, *DecodeError) {
	if len(data) == 0 {
		return 0, &DecodeError{Rule: "data is empty"}
	}
	s.document(data)
	if s.fault != faultNone {
		return 0, s.err()
	}
	if s.root.kind != kindObject {
		return 0, &DecodeError{Rule: "entry must be an object", Got: s.root.kind.String()}
	}
	outer := &s.frames[0]
	if outer[nameMeta].kind == kindAbsent && outer[namePayload].kind == kindAbsent {
		return DialectBare, nil
	}
	if err := s.checkEnvelope(0); err != nil {
		return 0, err
	}
	if !s.isNested(0) {
		return DialectCanonical, nil
	}
	if err := s.checkEnvelope(1); err != nil {
		return 0, err
	}
	if v := s.frames[1][nameID]; !v.optional(kindString) {
		return 0, s.broken(1, nameID, "must be a string or null")
	}
	if s.isNested(1) {
		return 0, s.broken(1, nameSchemaID, "must not be "+SchemaEnvelope+" again")
	}
	return DialectNested, nil
}

// checkEnvelope checks the envelope whose members are in the frame of the given level.
func (s *scanner) checkEnvelope(level int) *DecodeError {
	f := &s.frames[level]
	switch {
	case f[nameMeta].kind != kindObject:
		return s.broken(level, nameMeta, "must be an object")
	case f[namePayload].kind != kindObject:
		return s.broken(level, namePayload, "must be an object")
	case f[nameSchemaID].kind != kindString || s.empty(f[nameSchemaID]):
		return s.broken(level, nameSchemaID, "must be a non-empty string")
	case !s.knownTrack(f[nameTrack]):
		return s.broken(level, nameTrack, "must be v1 or v2")
	case !s.stringMap(f[nameHeaders]):
		return s.broken(level, nameHeaders, "must be an object of strings")
	case !f[nameHash].optional(kindString):
		return s.broken(level, nameHash, "must be a string or null")
	case !f[nameKey].optional(kindString):
		return s.broken(level, nameKey, "must be a string or null")
	case !s.finite(f[nameTS]):
		return s.broken(level, nameTS, "must be a finite number")
	default:
		return nil
	}
}

// broken returns the error for the member n of the given level's envelope.
func (s *scanner) broken(level int, n name, rule string) *DecodeError {
	pointer := n.pointer()
	if level > 0 {
		pointer = "/payload" + pointer
	}
	k := s.frames[level][n].kind
	if k == kindAbsent {
		return &DecodeError{Pointer: pointer, Rule: "is required"}
	}
	return &DecodeError{Pointer: pointer, Rule: rule, Got: k.String()}
}

// isNested reports whether the given level's envelope says that its payload is an envelope.
func (s *scanner) isNested(level int) bool {
	return string(s.content(s.frames[level][nameSchemaID])) == SchemaEnvelope
}

// stringAt returns the member n of the given level's object, "" when it is no string.
func (s *scanner) stringAt(level int, n name) string {
	v := s.frames[level][n]
	if v.kind != kindString {
		return ""
	}
	return v.text(s.data)
}

// empty reports whether the string v is.
func (s *scanner) empty(v value) bool { return v.end-v.start == uint32(len(`""`)) }

// knownTrack reports whether v can be the track of an envelope.
func (s *scanner) knownTrack(v value) bool {
	return v.optional(kindString) && (v.kind != kindString || validTrack(string(s.content(v))))
}

// finite reports whether v is a number that a float64 can hold.
func (s *scanner) finite(v value) bool {
	if v.kind != kindNumber {
		return false
	}
	return representable(v.raw(s.data))
}

// stringMap reports whether v can be the headers of an envelope.
func (s *scanner) stringMap(v value) bool {
	if !v.optional(kindObject) {
		return false
	}
	if !v.mixed {
		return true
	}
	// A member that is no string does not count when a later one of the same name is.
	kinds := make(map[string]kind)
	for key, w := range members(s.data, v) {
		kinds[key.text(s.data)] = w.kind
	}
	for _, k := range kinds {
		if k != kindString {
			return false
		}
	}
	return true
}

// members yields the keys and the values of object, in order. The object must be valid.
func members(data []byte, object value) iter.Seq2[value, value] {
	return func(yield func(key, v value) bool) {
		s := scanner{data: data}
		pos := int(object.start) + 1
		for first := true; ; first = false {
			key, start, more := s.member(pos, first)
			if !more {
				return
			}
			v := value{start: uint32(start)}
			v.shape, pos = s.value(start)
			v.end = uint32(pos)
			if !yield(key, v) {
				return
			}
		}
	}
}
