// Package stages holds the steps a flow is made of: one stage a file, each a
// Watermill middleware built from its own block of flows.yaml.
//
// A stage kind is described by a Kind: its name, a summary, a runnable example
// and a constructor of its Config. The Config declares its keys as flows.Fields,
// so that decoding, defaults, validation and documentation come from one place.
// A Registry value lists the kinds a program offers; Builtin returns the ones
// that ship. There are no globals: another module builds its own Registry.
//
// To add a stage: write stages/<name>.go, add one line to Builtin, and put one
// example in testdata/<name>.yaml. The contract tests pick it up from the
// registry.
//
// A stage reads the Delivery of a message (From), never a transport. What it
// needs from outside (a clock, a publisher, the rate coordinator, metrics) comes
// in Deps, as interfaces declared here.
package stages
