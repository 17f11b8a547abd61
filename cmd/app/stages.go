package app

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
)

// textWidth is the width of what is explained in a terminal, in characters.
const textWidth = 88

func stagesCommand(sys system) *cobra.Command {
	var markdown bool
	kinds := sys.stages.Kinds()
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.Name
	}
	cmd := &cobra.Command{
		Use:   "stages [NAME]",
		Short: "List the stages, or explain one",
		Long: `Stages lists the kinds of stage that a flow can be made of. With the name of one
it tells what that does, with an example and every key: type, default, bounds and
meaning. With --markdown it prints in Markdown: one, or all, as docs/stages.md is.`,
		Example:   "  pulseflow stages\n  pulseflow stages dedupe",
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: names,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				if markdown {
					fmt.Fprint(sys.stdout, sys.stages.Reference())
					return nil
				}
				for _, k := range kinds {
					fmt.Fprintf(sys.stdout, "%-12s %s\n", k.Name, k.Summary)
				}
				return nil
			}
			i := slices.Index(names, args[0])
			if i < 0 {
				return configError(fmt.Errorf("unknown stage %q%s; known: %s", args[0], flows.DidYouMean(args[0], names), strings.Join(names, ", ")))
			}
			if markdown {
				fmt.Fprint(sys.stdout, kinds[i].Reference())
				return nil
			}
			fmt.Fprint(sys.stdout, kinds[i].Text(textWidth))
			return nil
		},
	}
	cmd.Flags().BoolVar(&markdown, "markdown", false, "print in Markdown")
	return cmd
}
