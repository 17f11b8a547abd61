// Package app is the pulseflow program without its main function: the commands, and
// the service that run starts.
//
// A program with stages of its own is a registry and a call of Main, as
// docs/examples/custom-stage shows; it has every command of pulseflow, and its stages
// are in check, schema and stages like the built-in ones.
//
// main.go holds the only os.Exit and the only look at the process's environment;
// everything else is reached through execute, which tests call. One file holds
// one command; service.go puts the packages together for `run`, and reload.go and
// watch.go load its file again. What every command shares is in root.go, the command line
// itself; load.go, the file; interrupt.go, the end at a signal; stdout.go, output that is
// cut off; warnings.go, the codes; excerpt.go, how diagnostics are shown.
package app
