// Command custom-stage is pulseflow with one stage more.
package main

import (
	"fmt"
	"os"

	"github.com/mjdevaccount/pulseflow/cmd/app"
	"github.com/mjdevaccount/pulseflow/stages"
)

func main() {
	registry := stages.Builtin()
	if err := registry.Add(onTickKind()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	app.Main(registry)
}
