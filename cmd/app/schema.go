package app

import (
	"encoding/json"

	"github.com/spf13/cobra"
)

func schemaCommand(sys system) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of flows files, for editors",
		Long: `Schema prints a JSON Schema (draft 2020-12) of a flows file: every key and stage
with its meaning, default, allowed values and bounds. An editor completes and
checks a file by it. For those with a YAML language server (VS Code's YAML
extension, Neovim, Helix, Zed), this first line in the file turns it on:

  # yaml-language-server: $schema=flows.schema.json

A schema sees one value at a time. What relates parts of the file to each other,
the values of variables, and the size of durations is for pulseflow check.`,
		Example: "  pulseflow schema > flows.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			encoder := json.NewEncoder(sys.stdout)
			encoder.SetEscapeHTML(false)
			encoder.SetIndent("", "  ")
			return encoder.Encode(sys.stages.JSONSchema())
		},
	}
}
