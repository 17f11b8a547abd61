package router

import "time"

// FlowObserver counts what one flow does. It is safe for concurrent use and cheap:
// it is called several times an event.
type FlowObserver interface {
	// Consumed counts an event settled with its one outcome.
	Consumed(track, outcome string)
	// Lag reports the time between an envelope's ts and now; never negative.
	Lag(d time.Duration)
	// Retried counts a run of the stages that will be repeated.
	Retried()
	// DeadLettered counts an event written to the dead letters, by error kind.
	DeadLettered(kind string)
	// DeadLetterFailed counts a write to the dead letters that failed.
	DeadLetterFailed()
}
