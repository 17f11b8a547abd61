package stages

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/mjdevaccount/pulseflow/flows"
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

// Text explains a kind for a terminal, in lines of at most width characters where the
// words allow: what Reference says, without Markdown.
func (k Kind) Text(width int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n", k.Name, k.Summary)
	for paragraph := range strings.SplitSeq(plainText(k.Doc), "\n\n") {
		b.WriteString(wrap(paragraph, "", width) + "\n\n")
	}
	b.WriteString("Example:\n")
	for line := range strings.Lines(strings.TrimSpace(k.Example)) {
		b.WriteString("  " + line)
	}
	b.WriteString("\n")
	if fields := k.New().Fields(); len(fields) > 0 {
		b.WriteString("\nKeys:\n")
		textKeys(&b, fields, "", width)
	}
	return b.String()
}

func textKeys(b *strings.Builder, fields flows.Fields, prefix string, width int) {
	for _, f := range fields {
		about := f.Kind.String()
		if len(f.Allowed) > 0 {
			about = strings.Join(f.Allowed, ", ")
		}
		switch {
		case f.Required:
			about += "; required"
		case f.HasDefault && f.Default != "":
			about += "; default " + f.Default
		}
		if bounds := f.Bounds(); bounds != "" {
			about += "; " + bounds
		}
		fmt.Fprintf(b, "  %s%s (%s)\n%s\n", prefix, f.Name, about, wrap(plainText(f.Doc), "      ", width))
		textKeys(b, f.Fields, prefix+f.Name+".", width)
	}
}

var link = regexp.MustCompile(`\[([^\]]*)\]\(([^)]*)\)`)

// plainText writes links as a terminal shows them. Back quotes stay: they tell names from words there too.
func plainText(markdown string) string { return link.ReplaceAllString(markdown, "$1 <$2>") }

// wrap breaks a text between words, into lines that start with indent.
func wrap(text, indent string, width int) string {
	var b strings.Builder
	length := 0
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
			b.WriteString(indent)
			length = len(indent)
		case length+1+n > width:
			b.WriteString("\n" + indent)
			length = len(indent)
		default:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length += n
	}
	return b.String()
}
