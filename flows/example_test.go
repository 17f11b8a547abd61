package flows_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/flows"
)

// windowConfig is the configuration of a made-up stage.
type windowConfig struct {
	Size  time.Duration
	Every time.Duration
	By    string
}

// Fields declares the keys once: they decode, have defaults, are checked and can be listed.
func (c *windowConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.Duration("size", &c.Size, "the length of a window", flows.Required(), flows.Min(time.Second),
			flows.Example("1m")),
		flows.Duration("every", &c.Every, "the time from one window to the next", flows.Default("1s"),
			flows.Check(c.checkEvery, "size")),
		flows.Enum("by", &c.By, []string{"key", "source"}, "what each window is kept for", flows.Default("key")),
	}
}

func (c *windowConfig) checkEvery() error {
	if c.Every > c.Size {
		return errors.New("must be at most size")
	}
	return nil
}

// A package of stages declares a configuration with Fields, and decodes the node that the file has for it.
func ExampleFields_Decode() {
	file, diags := flows.Parse("flows.yaml", []byte(`
version: 1
flows:
  load:
    from: {stream: telemetry.load}
    stages:
      - window: {size: 1m, by: source}
      - window: {sise: 10s, by: "${BY:-x}"}
`), os.LookupEnv)
	for _, flow := range file.Flows {
		for _, stage := range flow.Stages {
			var config windowConfig
			where := fmt.Sprintf("flow %q: stage %d (%s)", flow.Name, stage.Index, stage.Kind)
			config.Fields().Decode(stage.Config, where, &diags)
			fmt.Println(config)
		}
	}
	diags.Sort()
	fmt.Println(diags.Err())
	// Output:
	// {1m0s 1s source}
	// {10s 1s key}
	// flows.yaml:8:18: flow "load": stage 2 (window): unknown field "sise" (did you mean "size"?); fields: by, every, size
	// flows.yaml:8:33: flow "load": stage 2 (window): by: BY (default "x"): must be key or source
}

// The declarations are data: documentation and schemas are made by walking them.
func ExampleFields() {
	for _, f := range new(windowConfig).Fields() {
		fmt.Printf("%s (%s", f.Name, f.Kind)
		if len(f.Allowed) > 0 {
			fmt.Printf(": %s", strings.Join(f.Allowed, ", "))
		}
		switch {
		case f.Required:
			fmt.Print("; required")
		case f.HasDefault:
			fmt.Printf("; default %s", f.Default)
		}
		if f.Min != "" {
			fmt.Printf("; at least %s", f.Min)
		}
		fmt.Printf("): %s\n", f.Doc)
	}
	// Output:
	// size (duration; required; at least 1s): the length of a window
	// every (duration; default 1s): the time from one window to the next
	// by (string: key, source; default key): what each window is kept for
}

// Variables are replaced in values, after parsing. Everything that is wrong is reported in one run.
func ExampleParse() {
	env := map[string]string{"BACKEND": "kafka", "NAMESPACE": "prod"}
	_, diags := flows.Parse("flows.yaml", []byte(`version: 1
bus:
  backend: ${BACKEND}
  namespace: ${NAMESPACE:-mdp}
  redis: {url: "${REDIS}", lease: 0s}
flows:
  feedback:
    from: {stream: telemetry.feedback, stop: newest}
`), func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	fmt.Println(diags.Err())
	// Output:
	// flows.yaml:3:12: bus: backend: BACKEND="kafka": must be inmem or redis
	// flows.yaml:5:17: variable REDIS is not set: set it, or give a default as in ${REDIS:-default}
	// flows.yaml:5:35: bus: redis: lease: must be at least 100ms, found "0s"
	// flows.yaml:7:3: flow "feedback": missing required field "stages", such as stages: [dedupe]
	// flows.yaml:8:40: flow "feedback": from: unknown field "stop"; fields: bus, group, key, start, stream
}
