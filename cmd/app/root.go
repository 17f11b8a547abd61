package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Exit statuses; `pulseflow help exit-codes` documents them.
const (
	exitOK      = 0
	exitFailure = 1
	exitConfig  = 2
)

// system is the world outside the process, as the commands see it.
type system struct {
	stages         *stages.Registry
	lookupEnv      func(string) (string, bool)
	hangups        func() (<-chan os.Signal, func()) // SIGHUP until the function is called; nil never comes
	stdin          io.Reader
	stdout, stderr io.Writer
}

// exitError carries an exit status. A silent one has said all there is to say.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// errReported ends a command whose diagnostics have been printed.
var errReported = errors.New("reported")

func configError(err error) error { return &exitError{exitConfig, err} }

// execute runs the command line and returns the exit status.
func execute(ctx context.Context, args []string, sys system) int {
	out := &stdout{w: sys.stdout}
	sys.stdout = out
	root := rootCommand(sys)
	refuseEmptyArguments(root)
	endAtSignals(root)
	started := markStart(root)
	root.SetArgs(goStyle(args))
	root.SetIn(sys.stdin)
	root.SetOut(sys.stdout)
	root.SetErr(sys.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil && cmd.Name() != runName { // whose events are of more worth than its summary
		err = out.failed()
	}
	if err == nil {
		return exitOK
	}
	if text, ok := strings.CutPrefix(err.Error(), "unknown command "); ok && !*started {
		// The library looks for the root's commands by itself, and for no others.
		if quoted, bad := strconv.QuotedPrefix(text); bad == nil {
			name, _ := strconv.Unquote(quoted)
			err = unknownCommand(root, name)
		}
	}
	if !errors.Is(err, errReported) {
		fmt.Fprintf(sys.stderr, "pulseflow: %s\n", visible(err.Error()))
	}
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return exit.status
	case out.failed() != nil && errors.Is(err, out.failed()):
		return exitFailure
	case !*started:
		return exitConfig // cobra refused the command line
	default:
		return exitFailure
	}
}

// refuseEmptyArguments makes every command refuse an argument that is empty, which has come
// of a variable of the shell that is not set: none means anything by it.
func refuseEmptyArguments(root *cobra.Command) {
	wrapRuns(root, func(run runFunc) runFunc {
		return func(cmd *cobra.Command, args []string) error {
			if i := slices.Index(args, ""); i >= 0 {
				return configError(fmt.Errorf("argument %d is empty", i+1))
			}
			return run(cmd, args)
		}
	})
}

// runFunc is what a command does.
type runFunc = func(cmd *cobra.Command, args []string) error

// wrapRuns puts something around what a command does, and each of those below it.
func wrapRuns(cmd *cobra.Command, wrap func(runFunc) runFunc) {
	if cmd.RunE != nil {
		cmd.RunE = wrap(cmd.RunE)
	}
	for _, sub := range cmd.Commands() {
		wrapRuns(sub, wrap)
	}
}

// fileName is the value of a flag that names a file. An empty one has come of a variable of
// the shell that is not set, and does not stand for the default.
type fileName struct{ name *string }

func (f fileName) String() string {
	if f.name == nil {
		return ""
	}
	return *f.name
}

func (f fileName) Set(name string) error {
	if name == "" {
		return errors.New("the name is empty: name a file, or leave the flag out")
	}
	*f.name = name
	return nil
}

func (fileName) Type() string { return "string" }

// markStart tells, once a command line was executed, whether a command came to run.
func markStart(root *cobra.Command) *bool {
	started := new(bool)
	wrapRuns(root, func(run runFunc) runFunc {
		return func(cmd *cobra.Command, args []string) error {
			*started = true
			return run(cmd, args)
		}
	})
	return started
}

func rootCommand(sys system) *cobra.Command {
	root := &cobra.Command{
		Use:   "pulseflow",
		Short: "A small, trustworthy stream router in YAML",
		Long: `Pulseflow runs the flows of a flows.yaml file: each reads one stream and passes
its events through stages (validate, dedupe, filter, map, …) to an outcome.
Failed events are retried, then kept as dead letters; nothing is lost.

Without a file the built-in flow runs: it turns the backpressure events of
telemetry.feedback into rate adjustments, and is configured by environment
variables (pulseflow config shows them resolved).

Start here:
  pulseflow init                       write a file to start from, with tests
  pulseflow check                      is the file right?
  pulseflow test                       do its flows do what their tests say?
  pulseflow run --feed events.jsonl    run it on the in-memory bus
  EVENT_BUS_BACKEND=redis pulseflow run`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(explainFlag)
	root.AddCommand(
		initCommand(sys), runCommand(sys), checkCommand(sys), testCommand(sys), explainCommand(sys), configCommand(sys), publishCommand(sys),
		deadLetterCommand(sys), stagesCommand(sys), graphCommand(sys), simulateCommand(sys), schemaCommand(sys), versionCommand(sys),
		exitCodesTopic(),
	)
	explainArguments(root)
	return root
}

// explainArguments has every command answer arguments that do not fit with what fits.
func explainArguments(cmd *cobra.Command) {
	fits := cmd.Args
	switch {
	case cmd.HasSubCommands():
		for _, sub := range cmd.Commands() {
			explainArguments(sub)
		}
	case fits != nil:
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if fits(cmd, args) == nil {
				return nil
			}
			return fmt.Errorf("%s; see %s --help", misfit(cmd, args), cmd.CommandPath())
		}
	}
}

// unknownCommand says that a name is none of cmd's commands, and which was probably meant.
func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	where := "see " + cmd.CommandPath() + " --help"
	if cmd.HasParent() {
		where = "known: " + strings.Join(names, ", ")
	}
	return fmt.Errorf("unknown command %q%s; %s", name, flows.DidYouMean(name, names), where)
}

// misfit words what is wrong about the arguments.
func misfit(cmd *cobra.Command, args []string) string {
	if _, takes, _ := strings.Cut(cmd.Use, " "); takes == "" && len(args) > 0 {
		hint := ""
		if cmd.Flags().Lookup("config") != nil {
			hint = ": give a flows file with --config"
		}
		return fmt.Sprintf("%q is one argument too many%s", args[0], hint)
	}
	found := "no argument"
	switch n := len(args); {
	case n == 1:
		found = "1 argument"
	case n > 1:
		found = fmt.Sprintf("%d arguments", n)
	}
	return fmt.Sprintf("found %s: write %s", found, cmd.UseLine())
}

// explainFlag adds to an error about a flag which one was probably meant, and where all
// are listed.
func explainFlag(cmd *cobra.Command, err error) error {
	hint := ""
	if name, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok {
		var names []string
		for _, m := range flagInUsage.FindAllStringSubmatch(cmd.Flags().FlagUsages(), -1) {
			names = append(names, m[1])
		}
		if near := flows.Nearest(name, names); near != "" {
			hint = fmt.Sprintf(" (did you mean --%s?)", near)
		}
	}
	return fmt.Errorf("%w%s; see %s --help", err, hint, cmd.CommandPath())
}

var flagInUsage = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)`)

// exitCodesTopic is help without a command behind it.
func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit status of a command means",
		Long: `Exit status of every command:

  0    done; for run: stopped by a signal or drained, with nothing left undone
  1    failed while running: the reason is on standard error; for test: a flow test
       failed, as its report says
  2    the command line, the file or an environment variable is wrong; every
       problem is on standard error as file:line:column: message
  130  a signal ended the command before it was done; for run: a second signal
       ended it at once`,
	}
}
