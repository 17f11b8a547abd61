// Package router turns a flows file into running Watermill routers.
//
// NewPlan resolves a file against a registry of stages: typed, validated, without
// any I/O. Build makes the flows of a plan over a Transport, and Run runs them
// until its context ends, then drains them. Each flow has a Watermill router of
// its own, so that a fault in one never stops another.
//
// A message passes, from outside in: observe (metrics and the Delivery), the
// Watermill poison queue, retry, recovery from panics, decode errors, and then the
// flow's stages in the order of the file. docs/delivery.md tells what each result
// leads to.
//
// The router knows transports by the Transport interface only; stage kinds by
// their registry. A new guarantee of delivery belongs in middleware.go, a new
// question to ask of the file in plan.go, and what another file changes while flows
// run in apply.go. workers.go are the goroutines that stages run on.
package router
