package stages

import "github.com/mjdevaccount/pulseflow/flows"

// JSONSchema returns a JSON Schema (draft 2020-12) of a flows file with the stages of
// the registry, for encoding/json; see flows.JSONSchema for what it can tell.
func (r *Registry) JSONSchema() map[string]any {
	var kinds []flows.StageSchema
	for _, k := range r.Kinds() {
		kinds = append(kinds, flows.StageSchema{
			Name: k.Name, Doc: k.Summary + "\n\n" + k.Doc, Fields: k.New().Fields(),
		})
	}
	return flows.JSONSchema(kinds)
}
