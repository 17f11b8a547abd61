package simulate

import (
	"context"
	"runtime"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/rate"
)

// source fetches at a steady pace, each time with one token of the provider. It
// waits for its tokens in a goroutine, as a caller of Acquire does; the loop
// knows at each instant whether it waits or has its token.
type source struct {
	rates    *rate.Coordinator
	provider string

	ask    chan struct{}
	answer chan error
	waits  bool
}

func newSource(ctx context.Context, rates *rate.Coordinator, provider string) *source {
	s := &source{rates: rates, provider: provider, ask: make(chan struct{}), answer: make(chan error, 1)}
	go func() {
		for range s.ask {
			s.answer <- rates.Acquire(ctx, provider, 1)
		}
	}()
	return s
}

// close ends the goroutine once ctx has ended.
func (s *source) close() { close(s.ask) }

// fetch asks for a token, and returns once it is granted or waited for.
func (s *source) fetch() error {
	s.ask <- struct{}{}
	s.waits = true
	for {
		if len(s.answer) > 0 {
			return nil
		}
		state, err := s.rates.State(s.provider)
		if err != nil {
			return err
		}
		if state.Waiters > 0 {
			return nil
		}
		runtime.Gosched() // it is between the two
	}
}

// granted reports whether the token that was asked for has come.
func (s *source) granted(waiters int) (bool, error) {
	if !s.waits || waiters > 0 {
		return false, nil
	}
	s.waits = false
	return true, <-s.answer
}

// pace is the time between two fetches.
func pace(offered float64, items int) time.Duration {
	d, ok := due(items, offered)
	if !ok {
		return farAway
	}
	return max(1, d)
}
