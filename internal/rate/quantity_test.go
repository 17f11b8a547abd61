package rate

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

func (q quantity) big() *big.Int {
	n := new(big.Int).SetUint64(q.hi)
	return n.Lsh(n, 64).Add(n, new(big.Int).SetUint64(q.lo))
}

// quantities yields numbers of every size, the edges among them.
func quantities(rnd *rand.Rand) func() quantity {
	word := func() uint64 {
		switch rnd.IntN(6) {
		case 0:
			return 0
		case 1:
			return math.MaxUint64 - rnd.Uint64N(3)
		case 2:
			return 1 + rnd.Uint64N(3)
		default:
			return rnd.Uint64() >> rnd.IntN(64)
		}
	}
	return func() quantity { return quantity{word(), word()} }
}

func TestQuantityArithmetic(t *testing.T) {
	next := quantities(rand.New(rand.NewPCG(1, 2)))
	limit := new(big.Int).Lsh(big.NewInt(1), 128)
	for range 100_000 {
		a, b := next(), next()
		n := next().lo

		sum, fits := a.plus(b)
		want := new(big.Int).Add(a.big(), b.big())
		if fits != (want.Cmp(limit) < 0) || fits && sum.big().Cmp(want) != 0 {
			t.Fatalf("%v + %v = %v, %v", a, b, sum, fits)
		}

		product, fits := a.times(n)
		want.Mul(a.big(), new(big.Int).SetUint64(n))
		if fits != (want.Cmp(limit) < 0) || fits && product.big().Cmp(want) != 0 {
			t.Fatalf("%v × %d = %v, %v", a, n, product, fits)
		}

		if got := a.less(b); got != (a.big().Cmp(b.big()) < 0) {
			t.Fatalf("%v < %v = %v", a, b, got)
		}
		if !a.less(b) {
			if got := a.minus(b); got.big().Cmp(want.Sub(a.big(), b.big())) != 0 {
				t.Fatalf("%v - %v = %v", a, b, got)
			}
		}

		quo, fits := a.per(b)
		if b.zero() {
			if fits {
				t.Fatalf("%v ÷ 0 = %d", a, quo)
			}
			continue
		}
		rem := new(big.Int)
		want.DivMod(a.big(), b.big(), rem)
		if rem.Sign() > 0 {
			want.Add(want, big.NewInt(1))
		}
		if fits != want.IsUint64() || fits && quo != want.Uint64() {
			t.Fatalf("%v ÷ %v = %d, %v, want %v", a, b, quo, fits, want)
		}
	}
}

func TestQuantityOfRate(t *testing.T) {
	rates := []float64{0, 0x1p-12, 0.1, 0.3, 1, 60, 60 * 0.3, math.Pi, 1e9, math.Nextafter(1, 0)}
	for _, r := range rates {
		want, acc := new(big.Float).SetMantExp(big.NewFloat(r), 64).Int(nil)
		if acc != big.Exact {
			t.Fatalf("rate %v is not a whole number of units", r)
		}
		if got := perNanosecond(r).big(); got.Cmp(want) != 0 {
			t.Errorf("rate %v is %v units, want %v", r, got, want)
		}
	}
	if tiny := perNanosecond(0x1.8p-64); tiny != (quantity{lo: 1}) {
		t.Errorf("a rate between two units is %v, want it rounded down", tiny)
	}
}

func TestAmountOfTokens(t *testing.T) {
	for _, n := range []float64{0, 1, 1.5, 60, 1e9} {
		if got := amount(n).tokens(); got != n {
			t.Errorf("%v tokens come back as %v", n, got)
		}
	}
}
