// Package flowtest runs flows on a virtual clock: the flow tests of `pulseflow
// test`, and the one event of `pulseflow explain`.
//
// A test file becomes a Suite (load.go, case.go, with positions and all problems
// collected; check.go does the same for tests in a flow file, and schema.go describes
// both to editors), a suite's tests become Results (run.go, expect.go), and a result can
// be written back into the file (update.go) or into a report (junit.go).
//
// What runs is the real router over the real plan: its retries, poison queue,
// stages and rate coordinator. In place of a bus there is a line (line.go), which
// never touches the network and carries events through gochannel as the in-memory
// bus does, and a schedule (schedule.go) that lets one event run at a time and moves
// the clock only when every event is settled or waits. So a test has the same result
// at every run, whatever the machine does meanwhile, and an hour of backoff takes no
// time.
//
// The package may import everything that a flow is made of, but no command.
package flowtest
