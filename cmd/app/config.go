package app

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
)

func configCommand(sys system) *cobra.Command {
	var (
		files fileFlags
		keys  bool
	)
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print the resolved configuration, secrets redacted",
		Long: `Config prints the file as run would use it: variables resolved, defaults filled
in, flags applied, and secrets replaced by ***.

Exit status: 0, or 2 when the file is wrong.`,
		Example: "  pulseflow config\n  EVENT_BUS_BACKEND=redis MD_NAMESPACE=prod pulseflow config\n" +
			"  pulseflow config --keys",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if keys {
				_, err := fmt.Fprint(sys.stdout, fileReference())
				return err
			}
			plan, err := files.load(sys)
			if err != nil {
				return err
			}
			out, err := plan.File.Redacted()
			if err != nil {
				return err
			}
			_, err = sys.stdout.Write(out)
			return err
		},
	}
	files.register(cmd)
	files.registerListen(cmd)
	cmd.Flags().BoolVar(&keys, "keys", false, "explain every key of a flows file instead, in Markdown")
	return cmd
}

// fileReference is docs/flows.md.
func fileReference() string {
	return "# flows.yaml\n\n<!-- Written by `make generate` from the declarations; do not edit. -->\n\n" +
		"Every key of a flows file but those of the stages, which [stages.md](stages.md) explains. Durations and sizes\n" +
		"need a unit (`100ms`, `1MiB`). A key that is left out has its default.\n\n" + flows.Reference().Markdown() + `
## What an editor does not see

` + "`pulseflow schema`" + ` prints a JSON Schema of this, by which an editor completes and checks a file. The schema and
` + "`pulseflow check`" + ` agree on every file, but for faults of these kinds, which only check finds:

` + flows.LimitsMarkdown()
}
