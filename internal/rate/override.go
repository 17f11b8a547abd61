package rate

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of an override.
const (
	// MaxOverride is the longest that an override may last: what is meant to last
	// belongs into the configuration.
	MaxOverride = 24 * time.Hour
	// maxReason bounds the length of a reason, in bytes.
	maxReason = 256
)

// Override is a scale that an operator has set in place of the aggregated one.
type Override struct {
	// Scale is in [0, 1].
	Scale float64
	// Remaining is the time until it ends by itself, above 0.
	Remaining time.Duration
	// Reason is what the operator gave for one.
	Reason string
}

// override is an Override with its end as a time of a bucket. Its zero value is
// none.
type override struct {
	on     bool
	scale  float64
	until  time.Duration
	reason string
}

// checkOverride refuses what cannot be an override.
func checkOverride(scale float64, ttl time.Duration, reason string) error {
	switch {
	case !(scale >= 0 && scale <= 1): // written so that NaN fails
		return fmt.Errorf("%w: scale %v must be in [0, 1]", ErrInvalidOverride, scale)
	case ttl <= 0:
		return fmt.Errorf("%w: ttl %v must be above 0", ErrInvalidOverride, ttl)
	case ttl > MaxOverride:
		return fmt.Errorf("%w: ttl %v must be at most %v", ErrInvalidOverride, ttl, MaxOverride)
	case strings.TrimSpace(reason) == "":
		return fmt.Errorf("%w: reason must not be empty", ErrInvalidOverride)
	case len(reason) > maxReason:
		return fmt.Errorf("%w: reason must have at most %d bytes", ErrInvalidOverride, maxReason)
	case !utf8.ValidString(reason) || strings.ContainsFunc(reason, unicode.IsControl):
		return fmt.Errorf("%w: reason must be plain text of one line", ErrInvalidOverride)
	}
	return nil
}

// status is nil when there is none.
func (o override) status(now time.Duration) *Override {
	if !o.on {
		return nil
	}
	return &Override{Scale: o.scale, Remaining: max(1, o.until-now), Reason: o.reason}
}
