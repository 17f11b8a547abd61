package app

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"
)

func stagesCommand(sys system) *cobra.Command {
	var markdown bool
	kinds := sys.stages.Kinds()
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	cmd := &cobra.Command{
		Use:       "stages [NAME]",
		Short:     "List the stages, or explain one",
		Example:   "  pulseflow stages\n  pulseflow stages dedupe",
		Args:      cobra.MatchAll(cobra.MaximumNArgs(1), cobra.OnlyValidArgs),
		ValidArgs: names,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case markdown:
				fmt.Fprint(sys.stdout, sys.stages.Reference())
			case len(args) == 1:
				fmt.Fprint(sys.stdout, kinds[slices.Index(names, args[0])].Reference())
			default:
				for _, k := range kinds {
					fmt.Fprintf(sys.stdout, "%-12s %s\n", k.Name, k.Summary)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print the whole reference in Markdown")
	return cmd
}
