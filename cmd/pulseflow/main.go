package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// exitInterrupted is the exit status after a second signal: 128 + SIGINT.
const exitInterrupted = 130

func main() {
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
		lookupEnv: os.LookupEnv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}))
}
