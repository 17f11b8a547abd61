package rate

import (
	"math"
	"testing"
	"time"
)

func TestBucketRefill(t *testing.T) {
	const s = time.Second
	tests := []struct {
		name  string
		burst float64
		rate  float64
		spent uint64
		at    []time.Duration // refills, in order
		want  float64
	}{
		{name: "starts full", burst: 60, rate: 60, at: []time.Duration{0}, want: 60},
		{name: "exact at the second", burst: 60, rate: 60, spent: 60, at: []time.Duration{s}, want: 60},
		{name: "not truncated", burst: 60, rate: 22.5, spent: 60, at: []time.Duration{s}, want: 22.5},
		{name: "capped", burst: 60, rate: 60, spent: 10, at: []time.Duration{time.Hour}, want: 60},
		{
			name: "capped when the product does not fit", burst: 1e9, rate: 1e9, spent: 1e9,
			at: []time.Duration{math.MaxInt64}, want: 1e9,
		},
		{name: "back in time adds nothing", burst: 9, rate: 1, spent: 9, at: []time.Duration{s, 0, s}, want: 1},
		{name: "paused", burst: 60, rate: 0, at: []time.Duration{time.Hour}, want: 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBucket(tt.burst)
			b.setRate(tt.rate)
			if !b.take(tt.spent) {
				t.Fatalf("cannot take %d of %v", tt.spent, tt.burst)
			}
			for _, at := range tt.at {
				b.refill(at)
			}
			if got := b.have.tokens(); got != tt.want {
				t.Errorf("has %v tokens, want %v", got, tt.want)
			}
		})
	}
}

// A rate that no sum of floats gets right comes to the same in a million small
// refills as in one.
func TestBucketDoesNotDrift(t *testing.T) {
	const steps = 1_000_000
	drip, once := newBucket(1000), newBucket(1000)
	for _, b := range []*bucket{&drip, &once} {
		b.setRate(0.1)
		b.take(1000)
	}
	for i := range time.Duration(steps) {
		drip.refill((i + 1) * 7)
	}
	once.refill(steps * 7)
	if drip.have != once.have {
		t.Errorf("in steps %v, at once %v", drip.have, once.have)
	}
}

func TestBucketWait(t *testing.T) {
	tests := []struct {
		name string
		rate float64
		n    uint64
		want time.Duration
	}{
		{"in store", 10, 5, 0},
		{"one more", 10, 6, 100 * time.Millisecond},
		{"many times the burst", 10, 105, 10 * time.Second},
		{"rounded up", 3, 6, 333_333_334},
		{"beyond the longest duration", 1e-12, 6, Never},
		{"more than can be counted", 10, math.MaxUint64, Never},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBucket(5)
			b.setRate(tt.rate)
			got := b.wait(tt.n)
			if got != tt.want {
				t.Fatalf("wait is %v, want %v", got, tt.want)
			}
			if got == 0 || got == Never {
				return
			}
			b.burst = amount(maxTokens)
			b.refill(got - 1)
			if b.take(tt.n) {
				t.Errorf("had %d tokens before %v", tt.n, got)
			}
			b.refill(got)
			if !b.take(tt.n) {
				t.Errorf("has not %d tokens after %v", tt.n, got)
			}
		})
	}
	t.Run("paused", func(t *testing.T) {
		b := newBucket(5)
		b.setRate(0)
		if got := b.wait(1); got != Never {
			t.Errorf("wait is %v, want never", got)
		}
	})
}
