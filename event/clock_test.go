package event

import (
	"math"
	"testing"
	"time"
)

func TestAt(t *testing.T) {
	tests := []struct {
		seconds float64
		want    time.Time
	}{
		{0, time.Unix(0, 0)},
		{1.5, time.Unix(1, 500_000_000)},
		{-1.5, time.Unix(-2, 500_000_000)},
		{1795556873.5, time.Date(2026, 11, 24, 21, 47, 53, 500_000_000, time.UTC)},
		{0.9999999999, time.Unix(1, 0)},
		{1e300, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{math.Inf(1), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)},
		{-1e300, time.Time{}},
		{math.Inf(-1), time.Time{}},
		{math.NaN(), time.Time{}},
	}
	for _, test := range tests {
		got := At(test.seconds)
		if !got.Equal(test.want) || got.Location() != time.UTC {
			t.Errorf("%v: got %v, want %v", test.seconds, got, test.want)
		}
	}
}

func TestSeconds(t *testing.T) {
	for _, seconds := range []float64{0, 1, -1, 0.25, -0.25, 1795556873.490328, 1795556873.4906874, 253402300799} {
		if got := Seconds(At(seconds)); got != seconds {
			t.Errorf("got %v, want %v", got, seconds)
		}
	}
	if got := Seconds(time.Time{}); got != firstSecond {
		t.Errorf("zero time: got %v", got)
	}
}
