// Package simulate runs a flow in a closed loop on a virtual clock, so that its
// settings can be chosen from a picture instead of in production:
//
//	source → provider's Acquire → bounded queue → drain
//	               ↑                    ↓ soft, hard, ok
//	         rate coordinator ← validate → dedupe → handle → rate-apply
//
// The source, the queue and the drain are models. What lies between an event
// of the queue and the next token is what runs in production: the event's bytes
// are decoded, pass the stages that the flow was planned with, and reach the
// rate coordinator, whose Acquire the source waits for.
//
// # The models
//
// The source fetches at a steady pace, one token for each fetch, and falls
// behind for good while it waits: it does not catch up. The queue signals as
// the Store's does (docs/contract.md §3): soft once between the watermarks,
// hard once at the high one, ok once at the low one. What does not fit is
// counted as overflow and dropped. The drain takes items one by one at a rate
// that may change at given times.
//
// An event arrives after a fixed delay, or never when it is to be lost. The
// router's retries are left out: nothing that the built-in stages do here can
// fail in a way that a retry would mend.
//
// # Determinism
//
// There is no randomness, and at each instant only one goroutine goes on: the
// same configuration gives the same result, bit for bit.
//
// # What it touches
//
// Memory, no I/O. It writes CSV, a chart and an SVG plot to the io.Writer it is
// given.
//
// # Where the next change goes
//
// queue.go, drain.go, source.go and loss.go are the models, signal.go the form of
// an event, pipeline.go the flow. run.go is the loop; sample.go what it records.
// table.go, chart.go, plot.go and csv.go show the result.
package simulate
