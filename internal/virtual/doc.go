// Package virtual is time that passes only when it is told to. A Clock serves
// both the stages and the rate coordinator, so that minutes of a flow's life
// take no time at all and are the same at every run.
//
// Timers fire in the goroutine that advances the clock, in the order of their
// times and, of equal times, in that of their creation. A sleeper is woken at
// its time, but is a goroutine of its own: whoever needs it to have gone on
// before time passes has to wait for it.
//
// It does no I/O and starts no goroutine. It imports the standard library and
// internal/rate, whose Timer it returns.
package virtual
