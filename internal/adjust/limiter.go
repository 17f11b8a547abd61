package adjust

import (
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/stages"
)

var _ stages.Limiters = NewLimiter

// NewLimiter is the stages.Limiters of the service: token buckets by key.
func NewLimiter(perSecond, burst float64, keys int, clock stages.Clock) (stages.Limiter, error) {
	return rate.NewKeyed(perSecond, burst, keys, clock.Now)
}
