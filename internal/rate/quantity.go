package rate

import (
	"math"
	"math/bits"
)

// nano is the number of nanotokens in a token.
const nano = 1_000_000_000

// quantity is an amount of tokens as a 128-bit fixed-point number: hi whole
// nanotokens and lo/2⁶⁴ of one. A rate of r tokens a second is r nanotokens a
// nanosecond, so a rate is a quantity too, and rate × nanoseconds is computed
// without rounding. Every float64 rate from 2⁻¹² tokens/s up is represented
// exactly and a smaller one is rounded down, so nothing drifts upwards.
type quantity struct{ hi, lo uint64 }

// boundless is more than any bucket can hold.
var boundless = quantity{hi: math.MaxUint64, lo: math.MaxUint64}

// perNanosecond converts a rate in tokens/s, in [0, maxTokens].
func perNanosecond(rate float64) quantity {
	whole, frac := math.Modf(rate)
	return quantity{hi: uint64(whole), lo: uint64(math.Ldexp(frac, 64))}
}

// amount converts a number of tokens in [0, maxTokens].
func amount(tokens float64) quantity {
	q, _ := perNanosecond(tokens).times(nano)
	return q
}

// tokens converts back, rounded to the nearest float64.
func (q quantity) tokens() float64 {
	return (float64(q.hi) + math.Ldexp(float64(q.lo), -64)) / nano
}

func (q quantity) zero() bool { return q.hi|q.lo == 0 }

func (q quantity) less(o quantity) bool {
	return q.hi < o.hi || q.hi == o.hi && q.lo < o.lo
}

// plus returns q+o; false when that does not fit.
func (q quantity) plus(o quantity) (quantity, bool) {
	lo, carry := bits.Add64(q.lo, o.lo, 0)
	hi, carry := bits.Add64(q.hi, o.hi, carry)
	return quantity{hi, lo}, carry == 0
}

// minus returns q-o, for o ≤ q.
func (q quantity) minus(o quantity) quantity {
	lo, borrow := bits.Sub64(q.lo, o.lo, 0)
	hi, _ := bits.Sub64(q.hi, o.hi, borrow)
	return quantity{hi, lo}
}

// times returns q×n; false when that does not fit.
func (q quantity) times(n uint64) (quantity, bool) {
	over, hi := bits.Mul64(q.hi, n)
	up, lo := bits.Mul64(q.lo, n)
	hi, carry := bits.Add64(hi, up, 0)
	return quantity{hi, lo}, over|carry == 0
}

// per returns q÷o rounded up; false when that does not fit 64 bits, as for
// o = 0.
func (q quantity) per(o quantity) (uint64, bool) {
	var quo uint64
	var rem quantity
	if o.hi == 0 {
		if q.hi >= o.lo {
			return 0, false
		}
		quo, rem.lo = bits.Div64(q.hi, q.lo, o.lo)
	} else {
		// Divide by the 64 leading bits of o, which gives the quotient or
		// one more (Knuth's algorithm D with one digit), then correct.
		shift := bits.LeadingZeros64(o.hi)
		lead := o.hi<<shift | o.lo>>(64-shift)
		quo, _ = bits.Div64(q.hi>>1, q.hi<<63|q.lo>>1, lead)
		quo >>= 63 - shift
		if quo > 0 {
			quo--
		}
		product, _ := o.times(quo)
		rem = q.minus(product)
		for !rem.less(o) {
			quo++
			rem = rem.minus(o)
		}
	}
	if rem.zero() {
		return quo, true
	}
	return quo + 1, quo < math.MaxUint64
}
