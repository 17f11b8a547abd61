package stages

import (
	"fmt"
	"strings"
)

// Reference explains a kind in Markdown: what it does, an example, and its keys.
func (k Kind) Reference() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n%s\n\n```yaml\n%s\n```\n\n", k.Name, k.Summary, k.Doc, strings.TrimSpace(k.Example))
	b.WriteString(k.New().Fields().Markdown())
	return b.String()
}

// Reference explains every kind in Markdown.
func (r *Registry) Reference() string {
	var b strings.Builder
	b.WriteString("# Stages\n\n<!-- Written by `make generate` from the registry; do not edit. -->\n\n" +
		"A flow's `stages` is a list; each item is the name of a stage with its keys, or the bare name where every\n" +
		"key has a default. Events pass the stages in the order of the file.\n")
	for _, k := range r.Kinds() {
		b.WriteString("\n" + k.Reference())
	}
	return b.String()
}
