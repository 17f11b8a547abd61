package rate

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Level is how much pressure a coordinator reports. A greater level is a
// worse one.
type Level uint8

// The levels of the wire contract (docs/contract.md §3).
const (
	OK Level = iota
	Soft
	Hard

	levels = iota
)

// String returns the level's name on the wire: "ok", "soft" or "hard".
func (l Level) String() string {
	switch l {
	case OK:
		return "ok"
	case Soft:
		return "soft"
	case Hard:
		return "hard"
	}
	return fmt.Sprintf("level(%d)", uint8(l))
}

// Policy says which share of a provider's rate each level leaves. Scales lie
// in [0, 1]; 1 is the full rate, 0 pauses down to the provider's MinRate.
type Policy struct {
	OK, Soft, Hard float64
}

// DefaultPolicy returns the reference's mapping (docs/contract.md §4): ok 1.0,
// soft 0.5, hard 0.0.
func DefaultPolicy() Policy { return Policy{OK: 1, Soft: 0.5, Hard: 0} }

// Scale returns the scale of a level, in [0, 1].
func (p Policy) Scale(l Level) float64 {
	switch l {
	case OK:
		return p.OK
	case Soft:
		return p.Soft
	default:
		return p.Hard
	}
}

// compare orders policies by how little they leave, the worst level first.
func (p Policy) compare(o Policy) int {
	return cmp.Or(cmp.Compare(p.Hard, o.Hard), cmp.Compare(p.Soft, o.Soft), cmp.Compare(p.OK, o.OK))
}

// Validate reports every scale that is not a number in [0, 1].
func (p Policy) Validate() error {
	var errs []error
	for l := OK; l < levels; l++ {
		if s := p.Scale(l); !(s >= 0 && s <= 1) { // written so that NaN fails
			errs = append(errs, fmt.Errorf("policy: %v: scale %v must be in [0, 1]", l, s))
		}
	}
	return errors.Join(errs...)
}

// Aggregate says how the levels of a provider's coordinators become the level
// of the provider.
type Aggregate uint8

const (
	// AggregateWorst takes the worst level that any coordinator holds, so
	// that one coordinator's ok never clears another's hard. The default.
	AggregateWorst Aggregate = iota
	// AggregateLast takes the level of the newest event of all coordinators,
	// as the reference does. For a provider that has one coordinator under
	// changing names.
	AggregateLast
)

// String returns the name that the flows file uses: "worst" or "last".
func (a Aggregate) String() string {
	switch a {
	case AggregateWorst:
		return "worst"
	case AggregateLast:
		return "last"
	}
	return fmt.Sprintf("aggregate(%d)", uint8(a))
}

// Silence says what becomes of a pressure level when its coordinator says
// nothing more. The zero value holds it until the next event, since producers
// signal transitions only and silence means "unchanged" (docs/contract.md §3).
//
// Silence is measured from the event's own time, so that it does not depend on
// the order of arrival and every process comes to the same result. After must
// therefore be well above the clock difference between producers and this
// process: an event that arrives older than After counts as released already.
type Silence struct {
	// After is the silence that releases a level. Zero holds it.
	After time.Duration
	// Step releases one level (hard, soft, ok) for each After that passes.
	// Without it a level falls to ok in one go.
	Step bool
}

// level returns the level in force at now of an event that said l at t, and
// when that changes next: the zero time means never.
func (s Silence) level(l Level, t, now time.Time) (Level, time.Time) {
	if s.After <= 0 || l == OK {
		return l, time.Time{}
	}
	if !s.Step {
		if due := t.Add(s.After); now.Before(due) {
			return l, due
		}
		return OK, time.Time{}
	}
	due := t
	for {
		due = due.Add(s.After)
		if now.Before(due) {
			return l, due
		}
		if l--; l == OK {
			return OK, time.Time{}
		}
	}
}
