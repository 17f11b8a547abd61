package rate

import "time"

const (
	// rampSteps is in how many steps a ramp climbs.
	rampSteps = 100
	// minRampUp is the shortest ramp, so that its steps are no shorter than
	// what a timer can keep.
	minRampUp = 100 * time.Millisecond
)

// ramp is a rate on its way up. It climbs in equal steps, each at its end, so
// the rate is constant between them, what it yields is computed exactly, and
// it is never above the straight line. The zero ramp is at rate 0 and does not
// climb. Times are those of a bucket; it is not safe for concurrent use.
type ramp struct {
	every    time.Duration // a step's length; 0 for no ramp at all
	from, to float64       // tokens/s
	start    time.Duration // when the rate was from
	left     int           // steps to go; 0 at to
	rate     float64       // tokens/s now
}

// stepOf returns the length of a ramp's steps, rounded up, so that a ramp is
// never shorter than it should be.
func stepOf(rampUp time.Duration) time.Duration {
	step := rampUp / rampSteps
	if rampUp%rampSteps > 0 {
		step++
	}
	return min(step, maxAlarm/rampSteps)
}

// aim sets where the rate goes. It goes down at once, and up from the rate of
// now in the full time.
func (r *ramp) aim(to float64, now time.Duration) {
	r.from, r.to, r.start, r.left = r.rate, to, now, rampSteps
	if r.every == 0 || to <= r.rate {
		r.rate, r.left = to, 0
	}
}

// due returns when the next step is; false for never.
func (r *ramp) due() (time.Duration, bool) {
	if r.left == 0 {
		return 0, false
	}
	return r.start + time.Duration(rampSteps-r.left+1)*r.every, true
}

// climb takes the next step.
func (r *ramp) climb() {
	r.left--
	r.rate = r.from + (r.to-r.from)*float64(rampSteps-r.left)/rampSteps
	if r.left == 0 {
		r.rate = r.to
	}
}
