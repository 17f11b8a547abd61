// Command pulseflow runs the flows of a flows.yaml file. All it does is to name the
// stages on offer; package app is the program.
package main

import (
	"github.com/mjdevaccount/pulseflow/cmd/app"
	"github.com/mjdevaccount/pulseflow/stages"
)

func main() { app.Main(stages.Builtin()) }
