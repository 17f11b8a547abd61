package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/router"
)

func checkCommand(sys system) *cobra.Command {
	var files fileFlags
	cmd := &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a flows file without running it",
		Long: `Check reads the file, resolves its variables and plans its flows, as run does,
and stops there. It needs no Redis and opens no connection. Every problem is
printed as file:line:column: message.

Exit status: 0 the file is right (warnings may have been printed), 2 it is not.`,
		Example: "  pulseflow check\n  pulseflow check deploy/flows.yaml\n  MD_NAMESPACE=prod pulseflow check",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				files.config = args[0]
			}
			plan, err := files.load(sys)
			if err != nil {
				return err
			}
			active := slices.DeleteFunc(slices.Clone(plan.Flows), func(p router.FlowPlan) bool { return p.Disabled != "" })
			fmt.Fprintf(sys.stdout, "%s: ok: %d of %d flows run, on the %s bus\n",
				plan.File.Path, len(active), len(plan.Flows), plan.File.Bus.Backend)
			for _, p := range plan.Flows {
				if p.Disabled != "" {
					fmt.Fprintf(sys.stdout, "%s: %s\n", plan.File.Path, p.Disabled)
				}
			}
			return nil
		},
	}
	files.register(cmd)
	return cmd
}
