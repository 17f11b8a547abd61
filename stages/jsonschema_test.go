package stages

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// The schema of a registry knows the stages of that registry, and accepts each one's
// example.
func TestJSONSchema(t *testing.T) {
	compile := func(reg *Registry) *jsonschema.Schema {
		src, err := json.Marshal(reg.JSONSchema())
		if err != nil {
			t.Fatal(err)
		}
		schema, err := compileSchema("flows.schema.json", src)
		if err != nil {
			t.Fatal(err)
		}
		return schema
	}
	validate := func(schema *jsonschema.Schema, list string) error {
		var v any
		if err := yaml.Unmarshal(file(list), &v); err != nil {
			t.Fatal(err)
		}
		src, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(src))
		if err != nil {
			t.Fatal(err)
		}
		return schema.Validate(doc)
	}
	builtin := compile(Builtin())
	for _, k := range Builtin().Kinds() {
		if err := validate(builtin, indent(k.Example)); err != nil {
			t.Errorf("%s: the example: %v", k.Name, err)
		}
	}
	for list, right := range map[string]bool{
		"      - dedupe\n":                           true,
		"      - dedupe:\n":                          true,
		"      - dedupe: {}\n":                       true,
		"      - ${STAGE}\n":                         true,
		"      - dedupe: {capacity: \"${SIZE}0\"}\n": true,
		"      - dedup\n":                            false,
		"      - dedupe: {tll: 5m}\n":                false,
		"      - dedupe: {ttl: 5}\n":                 false,
		"      - dedupe: {capacity: 0}\n":            false,
		"      - dedupe: {store: disk}\n":            false,
		"      - {dedupe: {}, rate-apply: {}}\n":     false,
		"      - {}\n":                               false,
		"      - handle\n":                           false,
		"      - handle:\n":                          false,
		"      - handle: {policy: {ok: 2}}\n":        false,
		"      - handle: {with: nobody}\n":           false,
		"      - mine\n":                             false,
	} {
		if err := validate(builtin, list); (err == nil) != right {
			t.Errorf("%q: %v, want it accepted: %v", list, err, right)
		}
	}
	reg := Builtin()
	if err := reg.Add(Kind{
		Name: "mine", Summary: "Mine.", Example: "- mine", New: func() Config { return &DedupeConfig{} },
	}); err != nil {
		t.Fatal(err)
	}
	if err := validate(compile(reg), "      - mine: {ttl: 1s}\n"); err != nil {
		t.Errorf("a stage that was added: %v", err)
	}
}
