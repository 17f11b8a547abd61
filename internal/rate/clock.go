package rate

import "time"

// Clock is the coordinator's source of time. Its Now drives refilling, so it
// should carry a monotonic reading or never go back; a step back is no error,
// but nothing is refilled until the clock has caught up.
type Clock interface {
	Now() time.Time
	// AfterFunc calls f once after d, as time.AfterFunc does: never from
	// within AfterFunc or Reset, and without holding a lock that Now needs.
	AfterFunc(d time.Duration, f func()) Timer
}

// Timer is a pending call of AfterFunc; *time.Timer is one.
type Timer interface {
	Reset(d time.Duration) bool
	Stop() bool
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }
