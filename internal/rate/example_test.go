package rate_test

import (
	"context"
	"fmt"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/rate"
)

func ExampleCoordinator() {
	c, err := rate.NewCoordinator(rate.Config{
		Providers: []rate.ProviderConfig{{Name: "ibkr", Rate: 60, Burst: 60, MinRate: 1}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := c.Acquire(context.Background(), "ibkr", 10); err != nil {
		fmt.Println(err)
		return
	}
	result, err := c.Apply(rate.Adjustment{
		Provider: "ibkr", Coordinator: "bars", Level: rate.Soft, Policy: rate.DefaultPolicy(), Time: time.Now(),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	s := result.State
	fmt.Println(s.Provider, s.Level, s.Scale, s.EffectiveRate, s.Granted)
	// Output: ibkr soft 0.5 30 10
}
