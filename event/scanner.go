package event

import (
	"encoding/binary"
	"math"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

const (
	// maxDepth is how deep objects and arrays may nest; the outermost one counts as 1.
	maxDepth = 512

	// levels is how many objects, each the payload of the one before, have their members recorded: an outer envelope,
	// its payload or inner envelope, and that one's payload.
	levels = 3
)

// fault is why a scan failed.
type fault uint8

const (
	faultNone fault = iota
	faultSyntax
	faultEnd
	faultDepth
	faultUTF8
	faultTrailing
	faultLength // more than a value can point into
)

// scanner reads one JSON text from front to back. It accepts exactly what encoding/json accepts, but refuses text
// that is not valid UTF-8 and text that nests deeper than maxDepth. On the way it records the members of interest.
//
// Its methods for parts of the text take the position of the part and return the one behind it, which then stays in a
// register. After a fault, what they return is without meaning.
type scanner struct {
	data    []byte
	depth   int
	fault   fault
	faultAt int
	root    value
	frames  [levels]frame
}

// document scans all of data, sets root to the value it is, and records its members of interest when that is an
// object.
func (s *scanner) document(data []byte) {
	s.data = data
	if uint64(len(data)) > math.MaxUint32 {
		s.fail(faultLength, 0)
		return
	}
	if !utf8.Valid(data) {
		s.fail(faultUTF8, 0)
		return
	}
	start := s.space(0)
	var end int
	if s.at(start) == '{' {
		s.root.kind = kindObject
		end = s.object(start, 0)
	} else {
		s.root.shape, end = s.value(start)
	}
	if s.fault != faultNone {
		return
	}
	s.root.start, s.root.end = uint32(start), uint32(end)
	if end = s.space(end); end < len(data) {
		s.fail(faultTrailing, end)
	}
}

// err describes why the scan failed.
func (s *scanner) err() *DecodeError {
	at := " at byte " + strconv.Itoa(s.faultAt)
	switch s.fault {
	case faultEnd:
		return &DecodeError{Rule: "not JSON: unexpected end" + at}
	case faultDepth:
		return &DecodeError{Rule: "nested deeper than " + strconv.Itoa(maxDepth) + at}
	case faultUTF8:
		return &DecodeError{Rule: "not JSON: not valid UTF-8"}
	case faultTrailing:
		return &DecodeError{Rule: "not JSON: more than one value" + at}
	case faultLength:
		return &DecodeError{Rule: "longer than 4 GiB"}
	default:
		return &DecodeError{Rule: "not JSON: unexpected character" + at}
	}
}

// fail records the fault f at a position.
func (s *scanner) fail(f fault, pos int) {
	s.fault, s.faultAt = f, pos
}

// unexpected records that what is at a position is not JSON.
func (s *scanner) unexpected(pos int) {
	if pos >= len(s.data) {
		s.fail(faultEnd, len(s.data))
		return
	}
	s.fail(faultSyntax, pos)
}

// at returns the byte at a position, 0 behind the end of the data. No JSON value begins or goes on with a zero byte,
// so nobody needs to tell the two apart.
func (s *scanner) at(pos int) byte {
	if pos < len(s.data) {
		return s.data[pos]
	}
	return 0
}

// space returns the first position from pos on that is not white space.
func (s *scanner) space(pos int) int {
	for pos < len(s.data) && isSpace(s.data[pos]) {
		pos++
	}
	return pos
}

// isSpace reports whether c is JSON's white space.
func isSpace(c byte) bool { return c <= ' ' && (c == ' ' || c == '\n' || c == '\r' || c == '\t') }

// enter steps into an object or array.
func (s *scanner) enter(pos int) bool {
	if s.depth == maxDepth {
		s.fail(faultDepth, pos)
		return false
	}
	s.depth++
	return true
}

// member reads the next member of an object up to its value: a comma unless it is the first, the key and the colon.
// It returns the key and the position of the value. Behind the closing brace, and on a fault, it returns false.
func (s *scanner) member(pos int, first bool) (key value, next int, more bool) {
	pos = s.space(pos)
	c := s.at(pos)
	if c == '}' {
		s.depth--
		return value{}, pos + 1, false
	}
	if !first {
		if c != ',' {
			s.unexpected(pos)
			return value{}, pos, false
		}
		pos = s.space(pos + 1)
		c = s.at(pos)
	}
	if c != '"' {
		s.unexpected(pos)
		return value{}, pos, false
	}
	escaped, end := s.string(pos)
	if s.fault != faultNone {
		return value{}, pos, false
	}
	key = value{start: uint32(pos), end: uint32(end), shape: shape{kind: kindString, escaped: escaped}}
	pos = s.space(end)
	if s.at(pos) != ':' {
		s.unexpected(pos)
		return value{}, pos, false
	}
	return key, s.space(pos + 1), true
}

// object scans an object and records its members of interest in the frame of the given level.
func (s *scanner) object(pos, level int) int {
	if !s.enter(pos) {
		return pos
	}
	pos++
	f := &s.frames[level]
	for first := true; ; first = false {
		key, start, more := s.member(pos, first)
		if !more {
			return start
		}
		n := lookup(s.content(key))
		var v value
		v.shape, pos = s.interesting(n, start, level)
		if s.fault != faultNone {
			return pos
		}
		if n != nameOther {
			v.start, v.end = uint32(start), uint32(pos)
			f[n] = v
		}
	}
}

// content returns the content of a string; it is bytes with its frequent case inlined.
func (s *scanner) content(v value) []byte {
	if v.escaped {
		return v.bytes(s.data)
	}
	return s.data[v.start+1 : v.end-1]
}

// interesting scans the value of the member n of the given level's object. A meta and a payload that are objects have
// members of interest themselves, except on the last level.
func (s *scanner) interesting(n name, pos, level int) (shape, int) {
	if n != nameMeta && n != namePayload || level == levels-1 || s.at(pos) != '{' {
		return s.value(pos)
	}
	repeated := s.frames[level][n].kind != kindAbsent
	if n == nameMeta {
		if repeated {
			s.frames[level].clearMeta()
		}
		return shape{kind: kindObject}, s.meta(pos, level)
	}
	if repeated {
		clear(s.frames[level+1:])
	}
	return shape{kind: kindObject}, s.object(pos, level+1)
}

// meta scans a meta and records its members of interest in the frame of its envelope.
func (s *scanner) meta(pos, level int) int {
	if !s.enter(pos) {
		return pos
	}
	pos++
	f := &s.frames[level]
	for first := true; ; first = false {
		key, start, more := s.member(pos, first)
		if !more {
			return start
		}
		n := lookupMeta(s.content(key))
		var v value
		v.shape, pos = s.value(start)
		if s.fault != faultNone {
			return pos
		}
		if n != nameOther {
			v.start, v.end = uint32(start), uint32(pos)
			f[n] = v
		}
	}
}

// value scans a value and records nothing of what is in it.
func (s *scanner) value(pos int) (shape, int) {
	switch s.at(pos) {
	case '"':
		escaped, end := s.string(pos)
		return shape{kind: kindString, escaped: escaped}, end
	case '{':
		mixed, end := s.plainObject(pos)
		return shape{kind: kindObject, mixed: mixed}, end
	case '[':
		return shape{kind: kindArray}, s.array(pos)
	case 't':
		return shape{kind: kindBool}, s.literal(pos, "true")
	case 'f':
		return shape{kind: kindBool}, s.literal(pos, "false")
	case 'n':
		return shape{kind: kindNull}, s.literal(pos, "null")
	default:
		return shape{kind: kindNumber}, s.number(pos)
	}
}

// plainObject scans an object of no interest, but notes whether any of its members is no string.
func (s *scanner) plainObject(pos int) (mixed bool, end int) {
	if !s.enter(pos) {
		return false, pos
	}
	pos++
	for first := true; ; first = false {
		_, start, more := s.member(pos, first)
		if !more {
			return mixed, start
		}
		var v shape
		v, pos = s.value(start)
		if s.fault != faultNone {
			return mixed, pos
		}
		if v.kind != kindString {
			mixed = true
		}
	}
}

// array scans an array.
func (s *scanner) array(pos int) int {
	if !s.enter(pos) {
		return pos
	}
	pos++
	for first := true; ; first = false {
		pos = s.space(pos)
		c := s.at(pos)
		if c == ']' {
			s.depth--
			return pos + 1
		}
		if !first {
			if c != ',' {
				s.unexpected(pos)
				return pos
			}
			pos = s.space(pos + 1)
		}
		if _, pos = s.value(pos); s.fault != faultNone {
			return pos
		}
	}
}

// literal scans the word true, false or null.
func (s *scanner) literal(pos int, word string) int {
	for i := range len(word) {
		if s.at(pos+i) != word[i] {
			s.unexpected(pos + i)
			return pos
		}
	}
	return pos + len(word)
}

// number scans a number in JSON's grammar.
func (s *scanner) number(pos int) int {
	if s.at(pos) == '-' {
		pos++
	}
	if s.at(pos) == '0' {
		pos++
	} else if pos = s.digits(pos); s.fault != faultNone {
		return pos
	}
	if s.at(pos) == '.' {
		if pos = s.digits(pos + 1); s.fault != faultNone {
			return pos
		}
	}
	if c := s.at(pos); c == 'e' || c == 'E' {
		pos++
		if c := s.at(pos); c == '+' || c == '-' {
			pos++
		}
		pos = s.digits(pos)
	}
	return pos
}

// digits scans one or more digits.
func (s *scanner) digits(pos int) int {
	end := pos
	for end < len(s.data) && s.data[end]-'0' <= 9 {
		end++
	}
	if end == pos {
		s.unexpected(pos)
	}
	return end
}

// string scans a string.
func (s *scanner) string(pos int) (escaped bool, end int) {
	if end = stringStop(s.data, pos+1); s.at(end) == '"' {
		return false, end + 1
	}
	return s.escapedString(end)
}

// escapedString scans a string from the position of its first escape on.
func (s *scanner) escapedString(pos int) (escaped bool, end int) {
	for s.at(pos) == '\\' {
		if pos = s.escape(pos + 1); s.fault != faultNone {
			return true, pos
		}
		pos = stringStop(s.data, pos)
	}
	if s.at(pos) != '"' {
		s.unexpected(pos)
	}
	return true, pos + 1
}

// escape scans what follows the backslash of an escape sequence.
func (s *scanner) escape(pos int) int {
	switch s.at(pos) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return pos + 1
	case 'u':
		pos++
	default:
		s.unexpected(pos)
		return pos
	}
	for range 4 {
		if unhex(s.at(pos)) < 0 {
			s.unexpected(pos)
			return pos
		}
		pos++
	}
	return pos
}

// stringStop returns the first position from pos on at which a string ends, an escape begins or a control character
// stands, or the length of data when there is none. It looks at eight bytes at a time.
func stringStop(data []byte, pos int) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	for ; pos+8 <= len(data); pos += 8 {
		w := binary.LittleEndian.Uint64(data[pos:])
		quote := w ^ '"'*ones
		slash := w ^ '\\'*ones
		// A byte of x is zero where (x - ones) & ^x has its high bit set; of several, the lowest is never wrong.
		stop := ((quote-ones)&^quote | (slash-ones)&^slash | (w-0x20*ones)&^w) & highs
		if stop != 0 {
			return pos + bits.TrailingZeros64(stop)>>3
		}
	}
	for ; pos < len(data); pos++ {
		if c := data[pos]; c == '"' || c == '\\' || c < 0x20 {
			break
		}
	}
	return pos
}
