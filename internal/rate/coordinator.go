package rate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Errors of the coordinator's methods, to be told apart with errors.Is.
var (
	// ErrUnknownProvider is for a provider that the configuration does not
	// declare.
	ErrUnknownProvider = errors.New("unknown provider")
	// ErrTokens is for a number of tokens that can never be granted: not
	// positive, or more than the burst.
	ErrTokens = errors.New("invalid number of tokens")
	// ErrAdjustment is for an adjustment with an unknown level, no time or a
	// scale outside [0, 1].
	ErrAdjustment = errors.New("invalid adjustment")
	// ErrFuture is for an event time further ahead than Config.MaxFutureSkew.
	ErrFuture = errors.New("event time in the future")
	// ErrBreakerOpen is for calls that the provider's circuit breaker refuses.
	// It comes in a RefusedError.
	ErrBreakerOpen = errors.New("circuit breaker open")
	// ErrCooldown is for calls during the provider's global cooldown. It comes
	// in a RefusedError.
	ErrCooldown = errors.New("in cooldown")
	// ErrInvalidCooldown is for a cooldown without a scope, of negative length
	// or with one scope too many.
	ErrInvalidCooldown = errors.New("invalid cooldown")
	// ErrInvalidOverride is for an override with a scale outside [0, 1], a ttl
	// outside (0, MaxOverride], or a reason that is empty, too long or not plain
	// text.
	ErrInvalidOverride = errors.New("invalid override")
)

// RefusedError is the error of a call that is refused at once, whatever tokens
// there are.
type RefusedError struct {
	Provider string
	// Reason is ErrBreakerOpen or ErrCooldown.
	Reason error
	// RetryAfter is the time until the reason ends by itself, above 0.
	RetryAfter time.Duration
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("acquire from provider %q: %v: retry after %v", e.Provider, e.Reason, e.RetryAfter)
}

func (e *RefusedError) Unwrap() error { return e.Reason }

// Defaults of the configuration.
const (
	DefaultMaxCoordinators = 10_000
	DefaultMaxFutureSkew   = 30 * time.Second
	DefaultOpenFor         = time.Minute
	DefaultHalfOpen        = 1
	DefaultCooldown        = 10 * time.Minute
)

// maxTokens bounds rates (tokens/s) and bursts (tokens). A nanosecond clock
// cannot tell faster rates apart.
const maxTokens = 1e9

// Config is a coordinator's configuration.
type Config struct {
	// Providers are kept in this order by States and Watch. Names must differ.
	Providers []ProviderConfig
	// MaxFutureSkew is how far ahead of the clock an event time may lie. An
	// event beyond it is refused, since it would outrank every event to come
	// and pin its level. A provider may have its own. 0 means
	// DefaultMaxFutureSkew.
	MaxFutureSkew time.Duration
	// Folding lets the events of a backlog take effect together. The zero value
	// folds nothing.
	Folding Folding
	// Clock is the source of time; nil means the system's.
	Clock Clock
}

// ProviderConfig declares a provider.
type ProviderConfig struct {
	// Name must not be empty.
	Name string
	// Rate is the full rate in tokens/s, in (0, 1e9].
	Rate float64
	// Burst is the bucket's size in tokens, in [1, 1e9]. 0 means Rate, or 1
	// if that is less. The bucket starts full.
	Burst float64
	// MinRate is the floor of the effective rate in tokens/s, in [0, Rate].
	// 0 is no floor: a scale of 0 then pauses the provider.
	MinRate float64
	// Policy is the scale of each level until an adjustment brings its own;
	// nil means DefaultPolicy.
	Policy *Policy
	// Aggregate makes one level of the coordinators' levels. The zero value
	// is AggregateWorst.
	Aggregate Aggregate
	// OnSilence says when an unrepeated level is released. The zero value
	// holds it.
	OnSilence Silence
	// MaxCoordinators bounds the coordinators whose levels are held. 0 means
	// DefaultMaxCoordinators.
	MaxCoordinators int
	// MaxFutureSkew is Config.MaxFutureSkew for this provider. 0 means that
	// one.
	MaxFutureSkew time.Duration
	// RampUp is how long a raised effective rate takes to grow, linearly in
	// 100 steps, from the rate of that moment to the new one: 0, or at least
	// 100 ms. A rate is lowered at once, and the first is there at once. 0
	// raises at once.
	RampUp time.Duration
	// Breaker is the circuit breaker. The zero value is none.
	Breaker Breaker
	// Cooldown is the length of a cooldown that gives none. 0 means
	// DefaultCooldown.
	Cooldown time.Duration
}

// withDefaults fills in what zero stands for.
func (c ProviderConfig) withDefaults() ProviderConfig {
	if c.Burst == 0 {
		c.Burst = max(1, c.Rate)
	}
	policy := DefaultPolicy()
	if c.Policy != nil {
		policy = *c.Policy // a copy, so that the caller keeps its own
	}
	c.Policy = &policy
	if c.MaxCoordinators == 0 {
		c.MaxCoordinators = DefaultMaxCoordinators
	}
	c.Breaker = c.Breaker.withDefaults()
	if c.Cooldown == 0 {
		c.Cooldown = DefaultCooldown
	}
	return c
}

// Validate reports everything that is out of range.
func (c ProviderConfig) Validate() error {
	c = c.withDefaults()
	var errs []error
	require := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	require(c.Name != "", "name must not be empty")
	// Written so that NaN fails.
	require(c.Rate > 0 && c.Rate <= maxTokens, "rate %v must be above 0 and at most %v", c.Rate, maxTokens)
	require(c.Burst >= 1 && c.Burst <= maxTokens, "burst %v must be in [1, %v]", c.Burst, maxTokens)
	require(c.MinRate >= 0 && c.MinRate <= c.Rate, "min_rate %v must be in [0, rate %v]", c.MinRate, c.Rate)
	require(c.Aggregate <= AggregateLast, "%v must be worst or last", c.Aggregate)
	require(c.OnSilence.After >= 0, "on_silence: after %v must not be negative", c.OnSilence.After)
	require(c.MaxCoordinators > 0, "max_coordinators %d must not be negative", c.MaxCoordinators)
	require(c.MaxFutureSkew >= 0, "max_future_skew %v must not be negative", c.MaxFutureSkew)
	require(c.RampUp == 0 || c.RampUp >= minRampUp, "ramp_up %v must be 0 or at least %v", c.RampUp, minRampUp)
	require(c.Cooldown >= 0, "cooldown %v must not be negative", c.Cooldown)
	return errors.Join(append(errs, c.Breaker.Validate(), c.Policy.Validate())...)
}

// Coordinator paces the use of providers. All methods are safe for concurrent
// use. It starts no goroutine and needs no closing.
type Coordinator struct {
	clock    Clock
	folding  Folding
	skew     time.Duration // Config.MaxFutureSkew, or its default
	watchers *watchers
	roster   atomic.Pointer[roster]

	configure sync.Mutex // held while the roster changes, and what holds for all of it
	held      bool
	journals  bool
}

// roster are the providers that there are. It is never changed, only replaced.
type roster struct {
	providers []*provider
	byName    map[string]*provider
}

// NewCoordinator returns a coordinator whose providers are at level ok with
// full buckets. It reports everything that is wrong with the configuration.
func NewCoordinator(config Config) (*Coordinator, error) {
	c := &Coordinator{
		clock:    config.Clock,
		folding:  config.Folding,
		skew:     cmp.Or(config.MaxFutureSkew, DefaultMaxFutureSkew),
		watchers: &watchers{all: make(map[*watcher]struct{})},
	}
	if c.clock == nil {
		c.clock = systemClock{}
	}
	var errs []error
	if f := config.Folding; f.Older < 0 || f.Within < 0 {
		errs = append(errs, fmt.Errorf("folding: %v and %v must not be negative", f.Older, f.Within))
	}
	if c.skew < 0 {
		errs = append(errs, fmt.Errorf("max_future_skew %v must not be negative", c.skew))
	}
	errs = append(errs, validateProviders(config.Providers))
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c.roster.Store(&roster{})
	c.setProviders(config.Providers)
	return c, nil
}

// validateProviders reports everything that is wrong with a list of providers.
func validateProviders(configs []ProviderConfig) error {
	var errs []error
	known := make(map[string]bool, len(configs))
	for _, pc := range configs {
		switch err := pc.Validate(); {
		case err != nil:
			errs = append(errs, fmt.Errorf("provider %q: %w", pc.Name, err))
		case known[pc.Name]:
			errs = append(errs, fmt.Errorf("provider %q is declared twice", pc.Name))
		default:
			known[pc.Name] = true
		}
	}
	return errors.Join(errs...)
}

func (c *Coordinator) provider(name string) (*provider, error) {
	p, ok := c.roster.Load().byName[name]
	if !ok {
		return nil, fmt.Errorf("%w %q", ErrUnknownProvider, name)
	}
	return p, nil
}

// providers are those that there are now, in the order of the configuration.
func (c *Coordinator) providers() []*provider { return c.roster.Load().providers }

// Acquire takes n tokens, waiting for them in the order of the calls. It
// returns at once with ErrUnknownProvider, or ErrTokens when n is not positive
// or more than the burst, and with ctx's error when ctx ends first; then no
// tokens are taken and those behind move up. A deadline does not fail early,
// because the rate may rise before it. While the breaker is open or a global
// cooldown lasts it returns at once with a RefusedError, and so it does when
// one of them begins during the wait.
func (c *Coordinator) Acquire(ctx context.Context, provider string, n int) error {
	p, err := c.provider(provider)
	if err != nil {
		return err
	}
	return p.acquire(ctx, n)
}

// TryAcquire takes n tokens if they are there and nobody waits for them. If
// not, retryAfter is the time until they would be, at the present rate and its
// ramp and behind those who wait now; Never when the provider is paused. Errors
// are those of Acquire; with a RefusedError, retryAfter is its own.
func (c *Coordinator) TryAcquire(provider string, n int) (ok bool, retryAfter time.Duration, err error) {
	p, err := c.provider(provider)
	if err != nil {
		return false, 0, err
	}
	return p.tryAcquire(n)
}

// RetryAfter returns how long it takes until n tokens would be there for a new
// call, as TryAcquire tells it, and takes and counts nothing. Errors are those of
// TryAcquire.
func (c *Coordinator) RetryAfter(provider string, n int) (time.Duration, error) {
	p, err := c.provider(provider)
	if err != nil {
		return 0, err
	}
	return p.retryAfter(n)
}

// RecordSuccess tells the breaker that a call to the provider went well, which
// closes a half-open breaker and makes earlier failures count no more. An open
// one takes no notice: the call is one from before it opened. The only error is
// ErrUnknownProvider.
func (c *Coordinator) RecordSuccess(provider string) error { return c.record(provider, true) }

// RecordFailure tells the breaker that a call to the provider failed in a way
// that the provider is to blame for. It opens a half-open breaker again, and a
// closed one when it is the last of Breaker.Threshold in a row. An open one
// takes no notice. The only error is ErrUnknownProvider.
func (c *Coordinator) RecordFailure(provider string) error { return c.record(provider, false) }

func (c *Coordinator) record(provider string, success bool) error {
	p, err := c.provider(provider)
	if err != nil {
		return err
	}
	p.record(success)
	return nil
}

// TriggerCooldown begins a cooldown of a provider, of length d; 0 means
// ProviderConfig.Cooldown. One that runs already ends at the later of the two
// ends. During one of GlobalScope calls are refused, and those who wait are
// too; others, at most 100 at a time, are only reported in State. A scope of
// more than 256 bytes is kept as "sha256:" and its hex digest. Errors are
// ErrUnknownProvider and ErrInvalidCooldown; then nothing has changed.
func (c *Coordinator) TriggerCooldown(provider, scope string, d time.Duration) error {
	p, err := c.provider(provider)
	if err != nil {
		return err
	}
	if scope == "" {
		return fmt.Errorf("%w: scope must not be empty", ErrInvalidCooldown)
	}
	if d < 0 {
		return fmt.Errorf("%w: %v must not be negative", ErrInvalidCooldown, d)
	}
	return p.cool(scope, d)
}

// EndCooldown ends a cooldown before its time and reports whether there was one.
// The only error is ErrUnknownProvider.
func (c *Coordinator) EndCooldown(provider, scope string) (bool, error) {
	p, err := c.provider(provider)
	if err != nil {
		return false, err
	}
	return p.endCooldown(scope), nil
}

// Override puts a scale in place of the aggregated one for ttl, in (0,
// MaxOverride], and in place of an override that is in force. Levels are taken in
// as ever and count again when it ends. MinRate and RampUp hold for it too. The
// reason, of at most 256 bytes, is shown in State. Errors are ErrUnknownProvider
// and ErrInvalidOverride; then nothing has changed.
func (c *Coordinator) Override(provider string, scale float64, ttl time.Duration, reason string) (Result, error) {
	p, err := c.provider(provider)
	if err != nil {
		return Result{}, err
	}
	if err := checkOverride(scale, ttl, reason); err != nil {
		return Result{}, err
	}
	return p.setOverride(scale, ttl, reason), nil
}

// EndOverride ends a provider's override before its time and reports whether
// there was one. The only error is ErrUnknownProvider.
func (c *Coordinator) EndOverride(provider string) (bool, error) {
	p, err := c.provider(provider)
	if err != nil {
		return false, err
	}
	return p.endOverride(), nil
}

// Adjustment is one coordinator's level for one provider.
type Adjustment struct {
	// Provider must be declared.
	Provider string
	// Coordinator tells the levels of a provider apart; "" is one too. A name
	// of more than 256 bytes is kept as "sha256:" and its hex digest.
	Coordinator string
	Level       Level
	// Policy is the scale of each level. It has no default: a zero Policy
	// pauses at every level. A provider has one policy, that of its newest
	// event or later SetPolicy, so all that feeds a provider should give the
	// same one.
	Policy Policy
	// Time is the event's own time (payload.ts of docs/contract.md §3), not
	// that of its receipt.
	Time time.Time
}

// validate reports what makes the adjustment unusable. Values are left out of
// the text, since they come from events.
func (a Adjustment) validate() error {
	if a.Level >= levels {
		return fmt.Errorf("%w: unknown level", ErrAdjustment)
	}
	if a.Time.IsZero() {
		return fmt.Errorf("%w: no event time", ErrAdjustment)
	}
	if err := a.Policy.Validate(); err != nil {
		return fmt.Errorf("%w: %w", ErrAdjustment, err)
	}
	return nil
}

// Result is the outcome of a change.
type Result struct {
	// State is the provider's state after it.
	State State
	// Changed says that level, scale, effective rate or ramp target are new.
	Changed bool
	// Stale says that a newer event of the coordinator had been applied, or
	// one of the same time with a worse level, so that its level stays as it
	// is. It is counted in State.Stale.
	Stale bool
}

// Apply takes in a coordinator's level. Of one coordinator the newest event
// counts, and of several of the same time the worst, so that neither order nor
// repetition of events matters. Errors are ErrUnknownProvider, ErrAdjustment
// and ErrFuture; then nothing has changed.
func (c *Coordinator) Apply(a Adjustment) (Result, error) {
	p, err := c.provider(a.Provider)
	if err != nil {
		return Result{}, err
	}
	if err := a.validate(); err != nil {
		return Result{}, err
	}
	return p.apply(a)
}

// SetPolicy changes a provider's policy and evaluates the held levels anew. The
// policies of events from before now no longer matter.
func (c *Coordinator) SetPolicy(provider string, policy Policy) (Result, error) {
	p, err := c.provider(provider)
	if err != nil {
		return Result{}, err
	}
	if err := policy.Validate(); err != nil {
		return Result{}, err
	}
	return p.setPolicy(policy), nil
}

// Forget releases the level of a coordinator that will send no more, and
// reports whether it held one. Events of it that are not newer than its last
// one stay without effect; a newer one brings it back.
func (c *Coordinator) Forget(provider, coordinator string) (bool, error) {
	p, err := c.provider(provider)
	if err != nil {
		return false, err
	}
	return p.forget(coordinator), nil
}

// State is a provider at one instant.
type State struct {
	Provider string
	Level    Level
	// Since is the event time on which Level rests, the oldest where several
	// coordinators hold it; zero when none has said anything.
	Since time.Time
	// Age is the time since Since, at least 0.
	Age    time.Duration
	Policy Policy
	// Scale is the policy's scale of Level, or the override's, in [0, 1].
	Scale float64
	// Override is in force in place of Level's scale; nil when there is none.
	Override *Override
	// EffectiveRate is max(MinRate, Rate × Scale), in tokens/s, or less while
	// it grows to that. Folded events (Config.Folding) change it a little later
	// than Level and Scale.
	EffectiveRate float64
	// RampTarget is what EffectiveRate grows to; 0 when it does not grow.
	RampTarget float64
	Breaker    BreakerStatus
	// Cooldowns are those that have not ended, the global one first and the
	// others by scope; nil when there is none.
	Cooldowns []Cooldown
	// Tokens are those in store.
	Tokens float64
	// Waiters are the blocked calls of Acquire.
	Waiters int
	// Granted counts tokens, Denied the calls that got none: turned down by
	// TryAcquire, an Acquire that gave up waiting, or either when it is
	// refused.
	Granted, Denied uint64
	// Stale counts adjustments that came too late to matter, Evicted the
	// coordinators dropped to stay within MaxCoordinators.
	Stale, Evicted uint64
	// Coordinators is how many hold a level.
	Coordinators int
	// OnHold says that nothing is granted until Release.
	OnHold bool
}

// State returns a provider's state.
func (c *Coordinator) State(provider string) (State, error) {
	p, err := c.provider(provider)
	if err != nil {
		return State{}, err
	}
	return p.snapshot(), nil
}

// States returns every provider's state in the order of the configuration.
func (c *Coordinator) States() []State {
	providers := c.providers()
	states := make([]State, len(providers))
	for i, p := range providers {
		states[i] = p.snapshot()
	}
	return states
}

// CoordinatorState is the level that one coordinator holds.
type CoordinatorState struct {
	Coordinator string
	// Level is the level in force; less than Signalled after silence.
	Level Level
	// Signalled is what the coordinator's last event said, at Time.
	Signalled Level
	Time      time.Time
	// Age is the time since Time, at least 0.
	Age time.Duration
}

// Coordinators returns the levels a provider's coordinators hold, the worst
// first and of equal ones the oldest. They are apart from State because there
// may be MaxCoordinators of them.
func (c *Coordinator) Coordinators(provider string) ([]CoordinatorState, error) {
	p, err := c.provider(provider)
	if err != nil {
		return nil, err
	}
	states := p.coordinators()
	slices.SortFunc(states, func(a, b CoordinatorState) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), a.Time.Compare(b.Time), cmp.Compare(a.Coordinator, b.Coordinator))
	})
	return states, nil
}
