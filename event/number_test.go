package event

import (
	"math"
	"strings"
	"testing"
)

type decimalCase struct {
	text      string
	sign      int
	integral  bool
	integer   int64 // when integral
	atMostOne bool  // when not negative
}

func decimalCases() []decimalCase {
	return []decimalCase{
		{"0", 0, true, 0, true},
		{"-0", 0, true, 0, true},
		{"0.000", 0, true, 0, true},
		{"-0e-5", 0, true, 0, true},
		{"0e99999999999999999999", 0, true, 0, true},
		{"1", 1, true, 1, true},
		{"1.000", 1, true, 1, true},
		{"10e-1", 1, true, 1, true},
		{"0.1e1", 1, true, 1, true},
		{"0.001e+3", 1, true, 1, true},
		{"850.0", 1, true, 850, false},
		{"1e2", 1, true, 100, false},
		{"1E+2", 1, true, 100, false},
		{"120e-1", 1, true, 12, false},
		{"1.20e1", 1, true, 12, false},
		{"-1", -1, true, -1, false},
		{"-850.00", -1, true, -850, false},
		{"1.5", 1, false, 0, false},
		{"-1.5", -1, false, 0, false},
		{"0.5", 1, false, 0, true},
		{"1e-2", 1, false, 0, true},
		{"15e-1", 1, false, 0, false},
		{"123e-3", 1, false, 0, true},
		{"0.99999999999999999999999", 1, false, 0, true},
		{"1.00000000000000000000001", 1, false, 0, false},
		{"1e-99999999999999999999", 1, false, 0, true},
		{"1e99999999999999999999", 1, true, math.MaxInt64, false},
		{"-1e99999999999999999999", -1, true, math.MinInt64, false},
		{"9223372036854775807", 1, true, math.MaxInt64, false},
		{"9223372036854775808", 1, true, math.MaxInt64, false},
		{"9223372036854775806.0", 1, true, math.MaxInt64 - 1, false},
		{"-9223372036854775808", -1, true, math.MinInt64, false},
		{"-9223372036854775809", -1, true, math.MinInt64, false},
		{"9999999999999999999", 1, true, math.MaxInt64, false},
		{"99999999999999999999", 1, true, math.MaxInt64, false},
		{"1" + strings.Repeat("0", 400), 1, true, math.MaxInt64, false},
		{"0." + strings.Repeat("0", 400) + "1", 1, false, 0, true},
		{"1" + strings.Repeat("0", 400) + "e-400", 1, true, 1, true},
	}
}

func TestDecimal(t *testing.T) {
	for _, c := range decimalCases() {
		d := parseDecimal([]byte(c.text))
		if d.sign() != c.sign || d.integral() != c.integral {
			t.Errorf("%s: got sign %d, integral %v, want %d, %v", c.text, d.sign(), d.integral(), c.sign, c.integral)
		}
		if c.integral && d.integer() != c.integer {
			t.Errorf("%s: got integer %d, want %d", c.text, d.integer(), c.integer)
		}
		if c.sign >= 0 && d.atMostOne() != c.atMostOne {
			t.Errorf("%s: got at most one: %v", c.text, d.atMostOne())
		}
	}
}

func TestFinite(t *testing.T) {
	cases := []struct {
		text string
		want float64
		ok   bool
	}{
		{"0", 0, true},
		{"-1.5e3", -1500, true},
		{"1795556873.490328", 1795556873.490328, true},
		{"1e-400", 0, true},
		{"1.7976931348623157e308", math.MaxFloat64, true},
		{"1.7976931348623159e308", 0, false},
		{"-1e309", 0, false},
		{strings.Repeat("9", 300), 1e300, true},
		{strings.Repeat("9", 310), 0, false},
	}
	for _, c := range cases {
		x, ok := finite([]byte(c.text))
		if ok != c.ok || ok && x != c.want {
			t.Errorf("%s: got %v, %v, want %v, %v", c.text, x, ok, c.want, c.ok)
		}
		if representable([]byte(c.text)) != c.ok {
			t.Errorf("%s: got representable: %v", c.text, !c.ok)
		}
	}
}

// The spellings are those of Python's repr.
func TestAppendFloat(t *testing.T) {
	cases := map[float64]string{
		0:                       "0.0",
		math.Copysign(0, -1):    "-0.0",
		1:                       "1.0",
		-1:                      "-1.0",
		0.5:                     "0.5",
		100:                     "100.0",
		1795556873.490328:       "1795556873.490328",
		0.30000000000000004:     "0.30000000000000004",
		0.0001:                  "0.0001",
		0.00001:                 "1e-05",
		0.000012345:             "1.2345e-05",
		1e15:                    "1000000000000000.0",
		9999999999999998:        "9999999999999998.0",
		1e16:                    "1e+16",
		123456789012345678:      "1.2345678901234568e+17",
		1e22:                    "1e+22",
		1e100:                   "1e+100",
		math.MaxFloat64:         "1.7976931348623157e+308",
		-math.MaxFloat64:        "-1.7976931348623157e+308",
		5e-324:                  "5e-324",
		2.2250738585072014e-308: "2.2250738585072014e-308",
	}
	for x, want := range cases {
		if got := string(appendFloat([]byte("x"), x)); got != "x"+want {
			t.Errorf("got %s, want x%s", got, want)
		}
	}
}
