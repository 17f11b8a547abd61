// Command pulseflow runs the flows of a flows.yaml file.
//
// main.go holds the only os.Exit and the only look at the process's environment;
// everything else is reached through execute, which tests call. One file holds
// one command; service.go puts the packages together for `run`.
package main
