package app

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/internal/flowtest"
	"github.com/mjdevaccount/pulseflow/stages"
)

func schemaCommand(sys system) *cobra.Command {
	var ofTests bool
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print a JSON Schema of flows files, for editors",
		Long: `Schema prints a JSON Schema (draft 2020-12) of a flows file: every key and stage
with its meaning, default, allowed values and bounds. An editor completes and
checks a file by it. For those with a YAML language server (VS Code's YAML
extension, Neovim, Helix, Zed), this first line in the file turns it on:

  # yaml-language-server: $schema=flows.schema.json

A schema sees one value at a time. What relates parts of the file to each other,
what variables and expressions say, and how long a duration is, is for pulseflow
check; docs/flows.md lists all that a schema cannot say.

With --tests it is the schema of the files of flow tests, NAME_test.yaml.`,
		Example: "  pulseflow schema > flows.schema.json\n  pulseflow schema --tests > flows_test.schema.json",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			schema := flowSchema(sys.stages)
			if ofTests {
				schema = testSchema()
			}
			text, err := schemaText(schema)
			if err != nil {
				return err
			}
			_, err = sys.stdout.Write(text)
			return err
		},
	}
	cmd.Flags().BoolVar(&ofTests, "tests", false, "print the schema of files of flow tests instead")
	return cmd
}

// testSchema describes a file of flow tests.
func testSchema() map[string]any {
	schema := flowtest.Schema()
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = "Pulseflow flow tests"
	return schema
}

// flowSchema describes a flows file, with the tests in it.
func flowSchema(reg *stages.Registry) map[string]any {
	schema := reg.JSONSchema()
	properties, _ := schema["properties"].(map[string]any)
	tests, _ := properties["tests"].(map[string]any)
	inFile, _ := flowtest.Schema()["properties"].(map[string]any)["tests"].(map[string]any)
	doc := tests["description"]
	maps.Copy(tests, inFile)
	tests["description"] = doc
	return schema
}

// schemaText is a schema as a file has it.
func schemaText(schema map[string]any) ([]byte, error) {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return []byte(b.String()), nil
}
