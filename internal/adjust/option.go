package adjust

import (
	"context"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Option is a setting of New.
type Option func(*settings)

type settings struct {
	policies  map[string]stages.Policy
	registers Registers
	key       func(provider string) string
	patience  time.Duration
	file      string
	clock     rate.Clock
}

// WithClock runs the coordinator on a clock of the caller's. Default: the system's.
func WithClock(c rate.Clock) Option { return func(s *settings) { s.clock = c } }

// WithPolicies gives each provider the policy that its levels have until the first
// event brings one: restored levels come without. Default: the reference's.
func WithPolicies(policies map[string]stages.Policy) Option {
	return func(s *settings) { s.policies = policies }
}

// WithRegisters shares the levels with other processes in registers, in the hash that
// key names for each provider. The providers grant nothing until the levels have been
// restored, for patience at most.
func WithRegisters(r Registers, key func(provider string) string, patience time.Duration) Option {
	return func(s *settings) { s.registers, s.key, s.patience = r, key, patience }
}

// WithFile keeps the levels in a file, from which they are restored by New. It has no
// effect beside WithRegisters.
func WithFile(path string) Option { return func(s *settings) { s.file = path } }

// Start begins to share or keep the levels.
func (a *Applier) Start() {
	switch {
	case a.share != nil:
		a.share.start()
	case a.keep != nil:
		a.keep.start()
	}
}

// Close shares or keeps what has changed last. It is called once, after Start.
func (a *Applier) Close(ctx context.Context) error {
	switch {
	case a.share != nil:
		return a.share.close(ctx)
	case a.keep != nil:
		return a.keep.close()
	}
	return nil
}

// Commit returns when what has been applied before the call is shared, at once when
// it is not to be. Of a coordinator that was adjusted many times only the last level
// is told, and those who call at the same time share one round. Events are to be
// acknowledged after it: it is an error when the levels of the providers named, or of
// any when none is named, could not be shared.
func (a *Applier) Commit(ctx context.Context, providers ...string) error {
	if a.share == nil {
		return nil
	}
	return a.share.commit(ctx, providers...)
}

// Keeps reports whether levels outlive the process.
func (a *Applier) Keeps() bool { return a.share != nil || a.keep != nil }

// Fault is why the levels are not shared or kept as they should be, "" when they are.
// restoring tells that they are still being restored, and nothing granted until then.
func (a *Applier) Fault() (reason string, restoring bool) {
	switch {
	case a.share != nil:
		return a.share.status()
	case a.keep != nil:
		return a.keep.status(), false
	}
	return "", false
}
