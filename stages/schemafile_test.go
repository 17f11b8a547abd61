package stages

import (
	"strings"
	"testing"
)

// A payload that breaks its schema is told the rule and what it asks, and never shown.
func TestSchemaFaultsNameTheRule(t *testing.T) {
	schema, err := compileSchema("order.json", []byte(`{"properties": {
		"amount": {"exclusiveMinimum": 0, "maximum": 1000000},
		"share": {"minimum": 0.25, "exclusiveMaximum": 1},
		"country": {"pattern": "^[A-Z]{2}$"},
		"name": {"minLength": 2, "maxLength": 12},
		"lines": {"minItems": 1, "maxItems": 3, "uniqueItems": true}
	}}`))
	if err != nil {
		t.Fatal(err)
	}
	for payload, want := range map[string]string{
		`{"amount": -777}`:          "/amount: must be above 0",
		`{"amount": 7777777}`:       "/amount: must be at most 1000000",
		`{"share": 0.07}`:           "/share: must be at least 0.25",
		`{"share": 7}`:              "/share: must be below 1",
		`{"country": "de"}`:         `/country: must match ^[A-Z]{2}$`,
		`{"name": "7"}`:             "/name: must have at least 2 characters",
		`{"name": "7777777777777"}`: "/name: must have at most 12 characters",
		`{"lines": []}`:             "/lines: must have at least 1 items",
		`{"lines": [7, 77, 8, 9]}`:  "/lines: must have at most 3 items",
		`{"lines": [7, 7]}`:         `/lines: breaks the rule "uniqueItems"`,
	} {
		err := schemaCheck(schema)(deliveryOf(t, `{"ts": 1, "meta": {"schema_id": "shop.Order"}, "payload": `+payload+`}`))
		if err == nil || err.Error() != want || strings.Contains(err.Error(), "7") {
			t.Errorf("%s: %v, want %s", payload, err, want)
		}
	}
}
