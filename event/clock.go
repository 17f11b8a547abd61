package event

import (
	"math"
	"time"
)

// The first and the last whole second that [At] returns, in epoch seconds: 0001-01-01 and 9999-12-31T23:59:59 UTC,
// which is the range that time.Time can write as RFC 3339.
const (
	firstSecond = -62135596800
	lastSecond  = 253402300799
)

// At returns the time, in UTC and to the nanosecond, that lies seconds after the Unix epoch. A time outside the years
// 1 to 9999 becomes the nearest end of that range, and NaN the zero time.
func At(seconds float64) time.Time {
	switch {
	case math.IsNaN(seconds):
		return time.Time{}
	case seconds < firstSecond:
		return time.Unix(firstSecond, 0).UTC()
	case seconds > lastSecond:
		return time.Unix(lastSecond, 0).UTC()
	}
	whole, fraction := math.Modf(seconds)
	return time.Unix(int64(whole), int64(math.Round(fraction*1e9))).UTC()
}

// Seconds returns t in seconds since the Unix epoch, as the envelope and the events spell it: about a quarter of a
// microsecond exact for a time of this century.
func Seconds(t time.Time) float64 {
	return float64(t.Unix()) + float64(t.Nanosecond())/1e9
}
