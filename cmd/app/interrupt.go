package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// endGrace is how long a command may take to end by itself after a signal.
const endGrace = 250 * time.Millisecond

// await returns what f returns, or ctx's error where f has not returned a while after the
// end of ctx: it may wait for ever to open or read a named pipe, which no context ends. It
// is left to itself then, and what it does must not matter any more.
func await[T any](ctx context.Context, grace time.Duration, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-time.After(grace):
		var none T
		return none, ctx.Err()
	}
}

// endAtSignals makes the commands end at the first signal whatever they wait for, with an
// exit status of its own. Run is left out: for it a signal is the way to end.
func endAtSignals(root *cobra.Command) {
	wrapRuns(root, func(run runFunc) runFunc {
		return func(cmd *cobra.Command, args []string) error {
			if cmd.Name() == runName {
				return run(cmd, args)
			}
			ctx := cmd.Context()
			_, err := await(ctx, endGrace, func() (struct{}, error) { return struct{}{}, run(cmd, args) })
			if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
				return &exitError{exitInterrupted, interrupted(err, ctx.Err())}
			}
			return err
		}
	})
}

// interrupted words an error that has come of the end of a context, for which cause stands.
func interrupted(err, cause error) error {
	if what := strings.TrimSuffix(strings.TrimSuffix(err.Error(), cause.Error()), ": "); what != "" {
		return fmt.Errorf("interrupted: %s", what)
	}
	return errors.New("interrupted")
}
