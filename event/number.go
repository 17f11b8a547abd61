package event

import (
	"bytes"
	"math"
	"strconv"
)

// finite returns the number that text spells in JSON's grammar, and false when it is too large for a float64.
func finite(text []byte) (x float64, ok bool) {
	x, err := strconv.ParseFloat(string(text), 64)
	return x, err == nil
}

// representable reports whether a float64 can hold the number that text spells in JSON's grammar, as finite does.
func representable(text []byte) bool {
	const digits = 300 // never too many without an exponent
	if len(text) <= digits && !bytes.ContainsAny(text, "eE") {
		return true
	}
	_, ok := finite(text)
	return ok
}

// decimal is a JSON number, taken from its text so that nothing is rounded: the digits of whole and fraction, read as
// one integer without leading or trailing zeros, times ten to the power of exponent. Zero has no digits.
type decimal struct {
	negative        bool
	whole, fraction []byte
	exponent        int64
}

// maxExponent bounds the exponent of a decimal. It is far more than any sum of lengths can offset, and its sums with
// them do not overflow.
const maxExponent = 1 << 40

// parseDecimal reads a number in JSON's grammar.
func parseDecimal(text []byte) decimal {
	var d decimal
	if text[0] == '-' {
		d.negative = true
		text = text[1:]
	}
	if i := bytes.IndexAny(text, "eE"); i >= 0 {
		d.exponent = parseExponent(text[i+1:])
		text = text[:i]
	}
	d.whole, d.fraction, _ = bytes.Cut(text, []byte("."))
	d.fraction = bytes.TrimRight(d.fraction, "0")
	d.exponent -= int64(len(d.fraction))
	if len(d.fraction) == 0 {
		digits := len(d.whole)
		d.whole = bytes.TrimRight(d.whole, "0")
		d.exponent += int64(digits - len(d.whole))
	}
	if d.whole = bytes.TrimLeft(d.whole, "0"); len(d.whole) == 0 {
		d.fraction = bytes.TrimLeft(d.fraction, "0")
	}
	return d
}

// parseExponent reads the digits behind an e, with their sign; one out of bounds becomes the bound.
func parseExponent(text []byte) int64 {
	sign := int64(1)
	switch text[0] {
	case '-':
		sign = -1
		text = text[1:]
	case '+':
		text = text[1:]
	}
	var n int64
	for _, c := range text {
		if n = n*10 + int64(c-'0'); n > maxExponent {
			return sign * maxExponent
		}
	}
	return sign * n
}

// digits returns how many there are.
func (d decimal) digits() int64 { return int64(len(d.whole) + len(d.fraction)) }

// sign returns -1, 0 or 1.
func (d decimal) sign() int {
	switch {
	case d.digits() == 0:
		return 0
	case d.negative:
		return -1
	default:
		return 1
	}
}

// integral reports whether the number is an integer, as JSON Schema has it: 850.0 and 1e2 are, 1.5 is not.
func (d decimal) integral() bool { return d.digits() == 0 || d.exponent >= 0 }

// integer returns the value of an integral number; one out of range becomes the nearest int64.
func (d decimal) integer() int64 {
	if d.digits() == 0 {
		return 0
	}
	n := uint64(math.MaxUint64)
	if d.digits()+d.exponent <= 19 { // 19 digits always fit into a uint64
		n = 0
		for _, part := range [][]byte{d.whole, d.fraction} {
			for _, c := range part {
				n = n*10 + uint64(c-'0')
			}
		}
		for range d.exponent {
			n *= 10
		}
	}
	switch {
	case n <= math.MaxInt64 && d.negative:
		return -int64(n)
	case n <= math.MaxInt64:
		return int64(n)
	case d.negative:
		return math.MinInt64
	default:
		return math.MaxInt64
	}
}

// atMostOne reports whether the number, which must not be negative, is at most 1.
func (d decimal) atMostOne() bool {
	before := d.digits() + d.exponent // digits before the decimal point
	return d.digits() == 0 || before <= 0 || before == 1 && d.digits() == 1 && string(d.whole)+string(d.fraction) == "1"
}

// appendFloat appends a finite x in the spelling of Python's repr, which json.dumps uses: the shortest digits that
// read back as x, always with a point or an exponent, so that it is read as a float.
func appendFloat(dst []byte, x float64) []byte {
	if x == 0 || math.Abs(x) >= 1e-4 && math.Abs(x) < 1e16 {
		start := len(dst)
		dst = strconv.AppendFloat(dst, x, 'f', -1, 64)
		if bytes.IndexByte(dst[start:], '.') < 0 {
			dst = append(dst, '.', '0')
		}
		return dst
	}
	return strconv.AppendFloat(dst, x, 'e', -1, 64)
}
