package simulate

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Drain is how fast the queue is emptied: a rate from the start, and other
// rates from later times on.
type Drain struct {
	// Rate is in items/s, above 0.
	Rate float64
	// Changes are in the order of their times.
	Changes []Change
}

// Change is a new drain rate. A Rate of 0 stops the drain.
type Change struct {
	At   time.Duration
	Rate float64 // items/s
}

// maxRate bounds rates in items/s: a nanosecond clock cannot tell faster ones
// apart.
const maxRate = 1e9

func (d Drain) validate() error {
	var errs []error
	if !(d.Rate > 0 && d.Rate <= maxRate) {
		errs = append(errs, fmt.Errorf("drain: %v items/s must be above 0 and at most %v", d.Rate, maxRate))
	}
	last := time.Duration(0)
	for _, c := range d.Changes {
		if c.At <= last {
			errs = append(errs, fmt.Errorf("drain: the change at %v must come after %v", c.At, last))
		}
		if !(c.Rate >= 0 && c.Rate <= maxRate) {
			errs = append(errs, fmt.Errorf("drain: %v items/s at %v must be from 0 to %v", c.Rate, c.At, maxRate))
		}
		last = c.At
	}
	return errors.Join(errs...)
}

// due returns when the n-th item from now leaves at a rate; false for never.
func due(n int, rate float64) (time.Duration, bool) {
	d := math.Round(float64(n) * float64(time.Second) / rate)
	if !(d < float64(farAway)) {
		return 0, false
	}
	return time.Duration(d), true
}

// farAway is longer than any simulation, and short enough to be added to a time.
const farAway = time.Duration(1 << 61)
