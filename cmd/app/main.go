package app

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mjdevaccount/pulseflow/stages"
)

// exitInterrupted is the exit status of a command that a signal ended before it was done,
// and of any after a second signal: 128 + SIGINT.
const exitInterrupted = 130

// Main runs the program's command line with the stages of reg, and ends the process
// with the exit status that `pulseflow help exit-codes` explains. It does not return.
func Main(reg *stages.Registry) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		cancel()
		// The first signal asks for an orderly end, the second for one at once.
		<-signals
		os.Exit(exitInterrupted)
	}()
	os.Exit(execute(ctx, os.Args[1:], system{
		stages:    reg,
		hangups:   hangups,
		lookupEnv: os.LookupEnv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}))
}

// hangups makes SIGHUP come through the channel, rather than end the process, until stop
// is called.
func hangups() (_ <-chan os.Signal, stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}
