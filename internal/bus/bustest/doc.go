// Package bustest is the conformance suite of the buses: what the router relies
// on, whichever transport is below it (docs/contract.md §1, §2 and §5).
//
// A transport's test calls [Run] with a function that opens a fresh [Harness].
// A transport that needs no network calls [RunVirtual], which runs each case on
// virtual time. The suite knows no transport, and must not import package bus.
//
// Where the next change goes: a promise that both transports make is a new case
// in cases.go; what only one of them promises is tested beside it.
package bustest
