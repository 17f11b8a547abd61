package stages

import (
	"fmt"
	"time"
)

// Trace collects what the stages do with one event, for those who explain it. It is
// a Delivery's, and belongs to the goroutine that handles the event. Whoever writes
// to it asks first whether there is one, so that it costs nothing where there is
// none:
//
//	if d.Trace != nil {
//		d.Trace.Note("first seen: key %s", key)
//	}
type Trace struct {
	// Steps are the runs of stages, in the order in which they began.
	Steps []Step

	current int       // step at work, or none
	failed  int       // last step that failed, or none
	panics  int       // step that a panic is leaving, or none
	since   time.Time // when the step at work began, or went on
}

// Step is one run of one stage.
type Step struct {
	// Stage is the kind, Index the place in the flow, from 1. Attempt counts the runs
	// of the flow's stages, from 1.
	Stage   string
	Index   int
	Attempt int
	// Own is the time in the stage itself, without the stages behind it.
	Own time.Duration
	// Passed is set when the event went on to what is behind the stage.
	Passed bool
	// Err is the stage's own failure, not that of a stage behind it.
	Err error
	// Notes say what the stage decided, why, and what it changed.
	Notes []string

	behind bool // a stage behind it has failed
}

const none = -1

// NewTrace returns an empty trace.
func NewTrace() *Trace { return &Trace{current: none, failed: none, panics: none} }

// Note adds a remark to the step at work, or else to the last one that failed.
func (t *Trace) Note(format string, args ...any) {
	at := t.current
	if at == none {
		at = t.failed
	}
	if at != none {
		t.Steps[at].Notes = append(t.Steps[at].Notes, fmt.Sprintf(format, args...))
	}
}

// Panicked says that a step ended in a panic, which err stands for.
func (t *Trace) Panicked(err error) {
	at := t.panics
	if at == none {
		at = t.current
	}
	if at != none {
		t.Steps[at].Err, t.failed = err, at
	}
	t.panics = none
	t.turn(none)
}

// turn charges the time to the step at work and makes another one that, or none.
func (t *Trace) turn(to int) {
	now := time.Now()
	if t.current != none {
		t.Steps[t.current].Own += now.Sub(t.since)
	}
	t.current, t.since = to, now
}

// enter begins a step and returns its number.
func (t *Trace) enter(stage string, index, attempt int) int {
	t.Steps = append(t.Steps, Step{Stage: stage, Index: index, Attempt: attempt})
	t.turn(len(t.Steps) - 1)
	return len(t.Steps) - 1
}

// behind is the place behind the last step, from 1.
func (t *Trace) behind() int {
	if len(t.Steps) == 0 {
		return 1
	}
	return t.Steps[len(t.Steps)-1].Index + 1
}

// pass says that the step at work calls what is behind it, and returns its number.
func (t *Trace) pass() int {
	step := t.current
	if step != none {
		t.Steps[step].Passed = true
	}
	t.turn(none)
	return step
}

// back says that what is behind step has returned.
func (t *Trace) back(step int, err error) {
	if step != none {
		t.Steps[step].behind = err != nil
	}
	t.turn(step)
}

// unwind says that a panic has come up to step from behind it.
func (t *Trace) unwind(step int) {
	if t.panics == none {
		t.panics = t.current
	}
	t.back(step, nil)
}

// leave ends a step.
func (t *Trace) leave(step int, err error) {
	if s := &t.Steps[step]; err != nil && !s.behind {
		s.Err, t.failed = err, step
	}
	t.turn(none)
}
