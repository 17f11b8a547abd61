package app

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/stages"
)

//go:embed starter
var starter embed.FS

// starterWidth is the length of the longest name.
const starterWidth = len("flows_test.schema.json")

// starterFile is a file that init writes.
type starterFile struct {
	name, what string
	data       func() ([]byte, error)
}

func starterFiles(reg *stages.Registry) []starterFile {
	embedded := func(name string) func() ([]byte, error) {
		return func() ([]byte, error) { return starter.ReadFile("starter/" + name) }
	}
	schema := func(of func() map[string]any) func() ([]byte, error) {
		return func() ([]byte, error) { return schemaText(of()) }
	}
	return []starterFile{
		{"flows.yaml", "what flows, with every block explained", embedded("flows.yaml")},
		{"flows_test.yaml", "tests of it", embedded("flows_test.yaml")},
		{"events.jsonl", "three events to run it on", embedded("events.jsonl")},
		{"flows.schema.json", "completes and checks flows.yaml in an editor", schema(func() map[string]any { return flowSchema(reg) })},
		{"flows_test.schema.json", "the same for flows_test.yaml", schema(testSchema)},
	}
}

func initCommand(sys system) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "init [DIRECTORY]",
		Short: "Write a flows file to start from, with tests",
		Long: `Init writes, into the directory or this one:

` + starterList(sys.stages) + `
Files that are there stay as they are, unless --force is given: then they are
written anew, and what was in them is lost.

Exit status: 0 all were written, 1 one could not be, 2 some were there already.`,
		Example: "  pulseflow init\n  pulseflow init my-flows && cd my-flows && pulseflow test",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			return writeStarter(sys, dir, force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "overwrite files that are there")
	cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return cmd
}

func starterList(reg *stages.Registry) string {
	var b strings.Builder
	for _, f := range starterFiles(reg) {
		fmt.Fprintf(&b, "  %-*s %s\n", starterWidth, f.name, f.what)
	}
	return b.String()
}

var plainWord = regexp.MustCompile(`^[\w./+,:@%~-]+$`)

// inShell is a name as one writes it in a command.
func inShell(name string) string {
	if plainWord.MatchString(name) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// writeStarter writes every file, or none when one is there and must stay.
func writeStarter(sys system, dir string, force bool) error {
	files := starterFiles(sys.stages)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if !force {
		var there []string
		for _, f := range files {
			path := filepath.Join(dir, f.name)
			switch _, err := os.Lstat(path); {
			case err == nil:
				there = append(there, path)
			case !errors.Is(err, fs.ErrNotExist):
				return fmt.Errorf("look for files that are there: %w", err)
			}
		}
		if len(there) > 0 {
			return configError(fmt.Errorf("nothing was written, since %s would be overwritten: name another directory, or give --force",
				strings.Join(there, ", ")))
		}
	}
	for _, f := range files {
		data, err := f.data()
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		path := filepath.Join(dir, f.name)
		if err := os.WriteFile(path, data, 0o644); err != nil { //nolint:gosec // nothing secret is in it
			return fmt.Errorf("write: %w", err)
		}
		width := len(path) - len(f.name) + starterWidth
		fmt.Fprintf(sys.stdout, "wrote %-*s %s\n", width, harmless(path), f.what)
	}
	fmt.Fprint(sys.stdout, "\nNext:\n")
	if filepath.Clean(dir) != "." {
		fmt.Fprintf(sys.stdout, "  cd %s\n", inShell(dir))
	}
	fmt.Fprint(sys.stdout, `  pulseflow check                             is the file right?
  pulseflow test                              do the flows do what their tests say?
  pulseflow run --feed events.jsonl --drain   run them on the three events
Then edit flows.yaml, and check and test again. pulseflow stages lists what a flow can be made of.
`)
	return nil
}
