package rate

import (
	"math"
	"time"
)

// Never is the wait of something that no passing of time brings: tokens of a
// paused provider.
const Never = time.Duration(math.MaxInt64)

// bucket is a token bucket whose rate may change at any time. Times are
// nanoseconds on a clock that starts anywhere. It is not safe for concurrent
// use.
type bucket struct {
	burst quantity
	rate  quantity // per nanosecond
	have  quantity // at the time at; never above burst
	at    time.Duration
}

// newBucket returns a full bucket that refills at no rate yet.
func newBucket(burst float64) bucket {
	b := bucket{burst: amount(burst)}
	b.have = b.burst
	return b
}

// refill adds what has accrued up to now. A clock that went back adds nothing.
func (b *bucket) refill(now time.Duration) {
	passed := now - b.at
	if passed <= 0 {
		return
	}
	b.at = now
	accrued, fits := b.rate.times(uint64(passed))
	if !fits {
		b.have = b.burst
		return
	}
	if b.have, fits = b.have.plus(accrued); !fits || b.burst.less(b.have) {
		b.have = b.burst
	}
}

// setRate changes the rate, in tokens/s, from the last refill on. A rate of
// zero also clears what is stored, since a pause must stop at once.
func (b *bucket) setRate(rate float64) {
	b.rate = perNanosecond(rate)
	if b.rate.zero() {
		b.have = quantity{}
	}
}

// take removes tokens when there are enough.
func (b *bucket) take(tokens uint64) bool {
	need := quantity{hi: tokens * nano}
	if b.have.less(need) {
		return false
	}
	b.have = b.have.minus(need)
	return true
}

// wait returns how long after the last refill the bucket will have yielded so
// many tokens in all, at the present rate.
func (b *bucket) wait(tokens uint64) time.Duration {
	need, fits := quantity{hi: nano}.times(tokens)
	if !fits {
		return Never
	}
	if !b.have.less(need) {
		return 0
	}
	d, fits := need.minus(b.have).per(b.rate)
	if !fits || d > math.MaxInt64 {
		return Never
	}
	return time.Duration(d)
}
