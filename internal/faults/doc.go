// Package faults holds the fault suite: a flow on a real Redis, with consumers
// killed, servers stopped, streams destroyed and connections cut while numbered
// entries go through, and an oracle that tells whether any is missing. It has
// tests only; `make faults` runs them.
//
// The oracle is a second Redis server that no fault touches. The flow's handler
// writes the number of an entry there at the moment it is applied, so that an
// acknowledgement which came before the work would be found out.
//
// Another fault is another test in faults_test.go, and another row in random_test.go, which
// hurts several consumers and their server in any order.
package faults
