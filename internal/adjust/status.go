package adjust

import (
	"context"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
)

// Gauges are the states as the metrics show them.
func (a *Applier) Gauges() []telemetry.ProviderState {
	states := a.coordinator.States()
	list := make([]telemetry.ProviderState, len(states))
	for i, s := range states {
		list[i] = telemetry.ProviderState{
			Provider: s.Provider, Scale: s.Scale, Level: int(s.Level), EffectiveRate: s.EffectiveRate,
			Tokens: s.Tokens, Waiters: s.Waiters, Granted: s.Granted, Denied: s.Denied, LevelAge: s.Age.Seconds(),
			Coordinators: s.Coordinators, Evicted: s.Evicted,
			Breaker: int(s.Breaker.State), Cooldowns: len(s.Cooldowns),
		}
		if len(s.Cooldowns) > 0 && s.Cooldowns[0].Scope == rate.GlobalScope {
			list[i].CooldownLeft = s.Cooldowns[0].Remaining.Seconds()
		}
		if s.Override != nil {
			list[i].OverrideLeft = s.Override.Remaining.Seconds()
		}
	}
	return list
}

// ProviderStatus is a provider on the /rates page.
type ProviderStatus struct {
	Provider string  `json:"provider"`
	Level    string  `json:"level"`
	Scale    float64 `json:"scale"`
	// EffectiveRate is in tokens a second, Tokens what the bucket holds. RampTarget is what
	// EffectiveRate grows to, absent when it does not grow.
	EffectiveRate float64 `json:"effective_rate"`
	RampTarget    float64 `json:"ramp_target,omitempty"`
	Tokens        float64 `json:"tokens"`
	Waiters       int     `json:"waiters"`
	Granted       uint64  `json:"granted"`
	Denied        uint64  `json:"denied"`
	Stale         uint64  `json:"stale"`
	// OnHold says that nothing is granted before the levels have been restored.
	OnHold bool `json:"on_hold,omitempty"`
	// Evicted are the coordinators dropped to stay within max_coordinators.
	Evicted uint64 `json:"evicted"`
	// Override is what an operator has set in place of the level's scale, null when there is
	// none.
	Override *OverrideStatus `json:"override"`
	// Since is the time of the event that holds the level, absent before the first;
	// AgeSeconds its age.
	Since        *time.Time          `json:"since,omitempty"`
	AgeSeconds   float64             `json:"age_seconds"`
	Breaker      BreakerStatus       `json:"breaker"`
	Cooldowns    []CooldownStatus    `json:"cooldowns"`
	Coordinators []CoordinatorStatus `json:"coordinators"`
}

// BreakerStatus is a provider's circuit breaker, closed when it has none.
type BreakerStatus struct {
	// State is closed, open or half_open.
	State string `json:"state"`
	// Failures are those in a row while closed.
	Failures int `json:"failures"`
	// RetryAfterSeconds is how long calls will be refused.
	RetryAfterSeconds float64 `json:"retry_after_seconds"`
}

// CooldownStatus is a cooldown that has not ended. That of the scope "global" stops the
// provider.
type CooldownStatus struct {
	Scope            string  `json:"scope"`
	RemainingSeconds float64 `json:"remaining_seconds"`
}

// OverrideStatus is a scale that an operator has set for a while.
type OverrideStatus struct {
	Scale            float64 `json:"scale"`
	RemainingSeconds float64 `json:"remaining_seconds"`
	Reason           string  `json:"reason"`
}

// CoordinatorStatus is what one coordinator last said.
type CoordinatorStatus struct {
	Coordinator string    `json:"coordinator"`
	Level       string    `json:"level"`
	Time        time.Time `json:"time"`
	AgeSeconds  float64   `json:"age_seconds"`
}

// Status is the state of every provider, in the order of the file.
func (a *Applier) Status() []ProviderStatus {
	states := a.coordinator.States()
	list := make([]ProviderStatus, len(states))
	for i, s := range states {
		list[i] = a.status(s)
	}
	return list
}

func (a *Applier) status(s rate.State) ProviderStatus {
	status := ProviderStatus{
		Provider: s.Provider, Level: s.Level.String(), Scale: s.Scale, EffectiveRate: s.EffectiveRate,
		Tokens: s.Tokens, Waiters: s.Waiters, Granted: s.Granted, Denied: s.Denied, Stale: s.Stale, Evicted: s.Evicted,
		OnHold: s.OnHold, RampTarget: s.RampTarget, AgeSeconds: s.Age.Seconds(),
		Breaker: BreakerStatus{
			State: s.Breaker.State.String(), Failures: s.Breaker.Failures,
			RetryAfterSeconds: s.Breaker.RetryAfter.Seconds(),
		},
		Cooldowns: []CooldownStatus{}, Coordinators: []CoordinatorStatus{},
	}
	for _, c := range s.Cooldowns {
		status.Cooldowns = append(status.Cooldowns, CooldownStatus{c.Scope, c.Remaining.Seconds()})
	}
	if o := s.Override; o != nil {
		status.Override = &OverrideStatus{o.Scale, o.Remaining.Seconds(), o.Reason}
	}
	if !s.Since.IsZero() {
		status.Since = &s.Since
	}
	// The provider is one of the coordinator's own: it is known.
	held, _ := a.coordinator.Coordinators(s.Provider)
	for _, c := range held {
		status.Coordinators = append(status.Coordinators, CoordinatorStatus{
			Coordinator: c.Coordinator, Level: c.Level.String(), Time: c.Time, AgeSeconds: c.Age.Seconds(),
		})
	}
	return status
}

// forgetTime bounds how long Forget waits for other processes to be told.
const forgetTime = 2 * time.Second

// Forget releases the level a coordinator holds, in every process that shares the
// levels, and reports whether it held one. The error says that there is no such
// provider. Where the others cannot be told now, they are told later.
func (a *Applier) Forget(provider, coordinator string) (bool, error) {
	held, err := a.coordinator.Forget(provider, coordinator)
	if err != nil || a.share == nil {
		return held, a.known(provider, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), forgetTime)
	defer cancel()
	if !held { // another process may know it, and not have told this one yet
		if err := a.share.look(ctx); err == nil {
			held, err = a.coordinator.Forget(provider, coordinator)
			if err != nil {
				return held, err
			}
		}
	}
	if err := a.share.commit(ctx); err != nil {
		a.log.Warn("coordinator forgotten here, and not shared yet", "provider", provider, "err", err)
	}
	return held, nil
}
