package app

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mjdevaccount/pulseflow/stages"
)

// exitInterrupted is the exit status after a second signal: 128 + SIGINT.
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
		lookupEnv: os.LookupEnv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}))
}
