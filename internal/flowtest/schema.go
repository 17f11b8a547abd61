package flowtest

import (
	"maps"
	"regexp"
)

// The patterns are written in what Go's and JavaScript's regular expressions share.
const (
	timePattern = `^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.,][0-9]+)?` +
		`(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`
	// base64Pattern allows line breaks anywhere, as the decoder does.
	base64Pattern = `^[\r\n]*(([A-Za-z0-9+/][\r\n]*){4})*(([A-Za-z0-9+/][\r\n]*){2}=[\r\n]*=[\r\n]*|([A-Za-z0-9+/][\r\n]*){3}=[\r\n]*)?$`
)

var timeForm = regexp.MustCompile(timePattern)

// Schema is a JSON Schema of a test file, for encoding/json: the declared fields with the
// rules that these have as code.
func Schema() map[string]any {
	schema := Fields().Schema()
	test := within(schema, "properties", "tests", "items", "properties")
	maps.Copy(within(test, "start"), map[string]any{"pattern": timePattern})
	event := within(test, "events", "items", "properties")
	maps.Copy(within(event, "base64"), map[string]any{"pattern": base64Pattern})
	for _, key := range []string{"payload", "envelope"} {
		maps.Copy(within(event, key), map[string]any{"type": "object"})
	}
	return schema
}

// within finds a part of a schema.
func within(schema map[string]any, path ...string) map[string]any {
	for _, key := range path {
		schema, _ = schema[key].(map[string]any)
	}
	return schema
}
