package flows

import (
	"errors"
	"fmt"
	"strings"
)

// Limit names something that the JSON Schema of a flow file cannot say, and so an editor, which knows the schema alone,
// does not mark. Every error of [Parse] and of the stages that the schema lets through carries the one it is due to.
type Limit string

// The limits of a schema. [Limits] explains them.
const (
	LimitVariable   Limit = "variable"
	LimitNeighbour  Limit = "neighbour"
	LimitReference  Limit = "reference"
	LimitExpression Limit = "expression"
	LimitMagnitude  Limit = "magnitude"
	LimitSpelling   Limit = "spelling"
	LimitURL        Limit = "url"
	LimitOutside    Limit = "outside"
	LimitExtent     Limit = "extent"
)

// SchemaLimit is a limit and what it means: a phrase without capital and full stop.
type SchemaLimit struct {
	Limit Limit
	Doc   string
}

// Limits lists every limit.
func Limits() []SchemaLimit {
	return []SchemaLimit{
		{LimitVariable, "the value of a variable: whether it is set, and whether it is right where it stands"},
		{LimitNeighbour, "what one key of a mapping asks of another: a `min_rate` that is at most `rate`, a `cert` with its `key`"},
		{LimitReference, "what one part of the file asks of another: that a provider or a schema is there, the order of " +
			"stages, the keys of streams that a route names, streams and groups that two flows share, circles of flows"},
		{LimitExpression, "what an expression, the template of a dedupe key, or in tests a pointer or the name of a metric " +
			"says: its syntax, types and cost"},
		{LimitMagnitude, "how much a duration or a size is, but for one that must not be zero, and how many days a month has"},
		{LimitSpelling, "how YAML is written: `0x10` for `16`, `5.0` for `5`, a quoted `\"yes\"`, tags such as `!!str`, control characters"},
		{LimitURL, "a URL, beyond its scheme and the form of its path"},
		{LimitOutside, "what lies outside the file: certificates, files of JSON Schema, recordings, the flow file of a file " +
			"of tests, and what their readers say of them"},
		{LimitExtent, "the extent of the file: 1 MiB, 100,000 values with all that aliases stand for, 100 levels"},
	}
}

// LimitsMarkdown explains the limits, as a list in Markdown.
func LimitsMarkdown() string {
	var b strings.Builder
	for _, l := range Limits() {
		fmt.Fprintf(&b, "- **%s**: %s\n", l.Limit, l.Doc)
	}
	return b.String()
}

// beyond is an error about a rule that a schema cannot say.
type beyond struct {
	error
	limit Limit
}

func (b beyond) Unwrap() error { return b.error }

// Beyond marks the error of a rule, such as one of [Check], as one that a JSON Schema cannot say. The error's text stays
// as it is.
func Beyond(limit Limit, err error) error {
	if err == nil {
		return nil
	}
	return beyond{err, limit}
}

// limitOf returns the limit that an error was marked with, or "".
func limitOf(err error) Limit {
	var b beyond
	if errors.As(err, &b) {
		return b.limit
	}
	return ""
}
