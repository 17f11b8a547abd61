package flows

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// StageSchema describes a kind of stage to [JSONSchema].
type StageSchema struct {
	// Name is how a file calls the stage, Doc says what it does.
	Name, Doc string
	// Fields declares the stage's keys.
	Fields Fields
}

// JSONSchema returns a JSON Schema (draft 2020-12) of a flow file whose flows consist of the given kinds of stage, for
// encoding/json. It describes the file before variables are replaced: wherever a scalar stands, a text with a variable
// may stand as well.
//
// It says what concerns one value: types, bounds, allowed texts, required and unknown keys. What it cannot say is what
// [Limits] lists, and nothing else: each error of [Parse] that it lets through has one of these.
func JSONSchema(kinds []StageSchema) map[string]any {
	b := schemaBuilder{stages: map[string]any{"$ref": "#/$defs/stages"}}
	schema := b.mapping(Reference(), "")
	maps.Copy(schema, map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"title":   "Pulseflow flow file",
		"type":    "object",
		"$defs": map[string]any{
			"text": map[string]any{"type": "string", "pattern": textPattern},
			"variable": map[string]any{
				"description": "a text with the value of an environment variable: ${NAME} or ${NAME:-default}",
				"type":        "string",
				"allOf":       []any{pattern(variablePattern), pattern(textPattern)},
			},
			"stages": b.stageList(kinds),
		},
	})
	return schema
}

// The patterns are written in what Go's and JavaScript's regular expressions share.
const (
	// variablePattern finds a variable, and no escaped one.
	variablePattern = `(^|[^$])\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}`
	// textPattern is a text in which each ${ starts a variable or is escaped.
	textPattern = `^([^$]|\$\$+\{|\$+[^${]|\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\})*\$*$`

	durationPattern = `^[+]?(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`
	sizePattern     = `^[+]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)? ?(B|KB|KiB|MB|MiB|GB|GiB)$`
	notZeroPattern  = `[1-9]`
	yesNoPattern    = `^([Yy][Ee][Ss]|[Nn][Oo])$`
	keyPattern      = `^[^\t\n\f\r \p{C}]{1,512}$`
	noKeyPattern    = `^[^\t\n\f\r \p{C}]{0,512}$`
	redisPattern    = `^(rediss?://[^/?#]*/*[0-9]*/*([?#].*)?|unix://[^/?#]*/[^?#]*([?#].*)?)$`
	portPattern     = `0*([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])`
	listenPattern   = `^(off|(\[[^\[\]]*\]|[^:\[\]]*):` + portPattern + `)?$`
	// otherPlaceholder finds a placeholder that is neither {ns} nor {topic}.
	otherPlaceholder = `\{(n|t|to|top|topi|[^nt{}][^{}]*|n[^s{}][^{}]*|ns[^{}]+|t[^o{}][^{}]*|to[^p{}][^{}]*|` +
		`top[^i{}][^{}]*|topi[^c{}][^{}]*|topic[^{}]+|)\}`
)

func pattern(p string) map[string]any { return map[string]any{"pattern": p} }

// rules are the rules that fields have as code, by the path of the field. A * stands for the names of a map.
func rules() map[string]map[string]any {
	name, key := pattern(streamName.String()), pattern(keyPattern)
	return map[string]map[string]any{
		"version":                    {"const": 1},
		"bus.namespace":              name,
		"bus.redis.url":              pattern(redisPattern),
		"bus.redis.stream_key":       {"pattern": `\{topic\}`, "not": pattern(otherPlaceholder)},
		"buses.*":                    {"pattern": lowerName.String(), "not": map[string]any{"const": DefaultBus}},
		"buses.*.namespace":          name,
		"buses.*.redis.url":          pattern(redisPattern),
		"buses.*.redis.stream_key":   {"pattern": `\{topic\}`, "not": pattern(otherPlaceholder)},
		"admin.listen":               pattern(listenPattern),
		"providers.*":                pattern(providerName.String()),
		"flows.*":                    pattern(lowerName.String()),
		"flows.*.from.stream":        name,
		"flows.*.from.key":           key,
		"flows.*.from.group":         name,
		"flows.*.dead_letter.stream": name,
		"flows.*.dead_letter.key":    key,
		"flows.*.to":                 {"minProperties": 1},
		"flows.*.to.stream":          pattern(`^[A-Za-z0-9_.:-]{0,256}$`),
		"flows.*.to.key":             pattern(noKeyPattern),
	}
}

// schemaBuilder makes the parts of a schema. Stages is what a list of stages is.
type schemaBuilder struct {
	stages map[string]any
	raw    bool // no variables are replaced in what is described
}

// Schema describes a mapping in which no variables are replaced, for encoding/json.
func (fs Fields) Schema() map[string]any { return schemaBuilder{raw: true}.mapping(fs, "") }

// mapping describes a mapping. One without required keys may be left empty.
func (b schemaBuilder) mapping(fs Fields, path string) map[string]any {
	properties := make(map[string]any, len(fs))
	required := []string{}
	for _, f := range fs {
		properties[f.Name] = b.field(f, path+f.Name)
		if f.Required {
			required = append(required, f.Name)
		}
	}
	schema := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		schema["required"] = required
	} else {
		schema["type"] = []string{"object", "null"}
	}
	return schema
}

func (b schemaBuilder) field(f Field, path string) map[string]any {
	var schema map[string]any
	switch f.Kind {
	case KindObject:
		schema = b.mapping(f.Fields, path+".")
		maps.Copy(schema, rules()[path])
	case KindMap:
		schema = b.named(f, path+".*")
	case KindStages:
		schema = maps.Clone(b.stages)
	case KindExpressions, KindTexts:
		item := expression(true)
		if f.Kind == KindTexts {
			item = map[string]any{"$ref": "#/$defs/text", "minLength": 1}
		}
		schema = map[string]any{"type": "object", "additionalProperties": item}
		if f.Required {
			schema["minProperties"] = 1
		} else {
			schema["type"] = []string{"object", "null"}
		}
	case KindValues:
		schema = map[string]any{
			"type": []string{"object", "null"}, "additionalProperties": b.field(f.Fields[0], path+".*"),
		}
	case KindAny:
		schema = map[string]any{}
		if f.Required {
			schema["not"] = map[string]any{"type": "null"}
		}
	case KindList:
		schema = map[string]any{"type": "array", "items": b.mapping(f.Fields, path+".*.")}
		if f.Required {
			schema["minItems"] = 1
		}
	case KindStrings:
		item := f
		item.Kind, item.Required = KindString, false
		schema = map[string]any{"type": "array", "items": b.scalar(item, path)}
		if f.Required {
			schema["minItems"] = 1
		}
	default:
		schema = b.scalar(f, path)
	}
	schema["description"] = f.Doc
	if f.HasDefault {
		schema["default"] = f.sample(f.Default)
	}
	if f.Example != "" {
		schema["examples"] = []any{f.sample(f.Example)}
	}
	return schema
}

// named describes a map from free names, which may hold variables.
func (b schemaBuilder) named(f Field, path string) map[string]any {
	schema := map[string]any{
		"type":                 []string{"object", "null"},
		"additionalProperties": b.mapping(f.Fields, path+"."),
	}
	if !b.raw {
		schema["propertyNames"] = orVariable(rules()[path])
	}
	if f.Required {
		schema["type"], schema["minProperties"] = "object", 1
	}
	return schema
}

// orVariable allows a text with a variable in place of what the schema describes.
func orVariable(schema map[string]any) map[string]any {
	return map[string]any{"anyOf": []any{schema, map[string]any{"$ref": "#/$defs/variable"}}}
}

// expression describes an expression, of which a schema knows only that it is a scalar.
func expression(required bool) map[string]any {
	text := map[string]any{"$ref": "#/$defs/text"}
	if required {
		text["minLength"] = 1
	}
	return map[string]any{"anyOf": []any{text, map[string]any{"type": []string{"number", "boolean"}}}}
}

func (b schemaBuilder) scalar(f Field, path string) map[string]any {
	if f.Kind == KindExpression {
		return expression(f.Required)
	}
	schema := f.written()
	if b.raw {
		if schema["$ref"] != nil {
			delete(schema, "$ref")
			schema["type"] = "string"
		}
		return schema
	}
	rule := rules()[path]
	if f.Kind == KindString && len(f.Allowed) == 0 && rule == nil {
		return schema // which has the variables in it
	}
	maps.Copy(schema, rule)
	return orVariable(schema)
}

// written describes a scalar that is written out, without variables.
func (f Field) written() map[string]any {
	switch {
	case len(f.Allowed) > 0:
		return map[string]any{"enum": f.Allowed}
	case f.Kind == KindInteger:
		return f.bounded(map[string]any{
			"type": "integer", "minimum": json.Number("-9223372036854775808"), "maximum": json.Number("9223372036854775807"),
		})
	case f.Kind == KindNumber:
		return f.bounded(map[string]any{"type": "number"})
	case f.Kind == KindBoolean:
		return map[string]any{"anyOf": []any{
			map[string]any{"type": "boolean"},
			map[string]any{"enum": []int{0, 1}},
			map[string]any{"type": "string", "pattern": yesNoPattern},
		}}
	case f.Kind == KindDuration:
		return f.measure(durationPattern)
	case f.Kind == KindSize:
		return f.measure(sizePattern)
	case f.Kind == KindURL:
		return map[string]any{"type": "string", "pattern": f.urlPattern()}
	}
	text := map[string]any{"$ref": "#/$defs/text"}
	if f.Required {
		text["minLength"] = 1
	}
	return text
}

func (f Field) bounded(schema map[string]any) map[string]any {
	for keyword, limit := range map[string]string{"minimum": f.Min, "exclusiveMinimum": f.Above, "maximum": f.Max} {
		if limit != "" {
			schema[keyword] = json.Number(limit)
		}
	}
	return schema
}

// measure describes a number with a unit. Of its bounds a pattern can only say that it is not zero.
func (f Field) measure(form string) map[string]any {
	schema := map[string]any{"type": "string", "pattern": form}
	if strings.HasPrefix(f.Above, "0") || strings.ContainsAny(f.Min, "123456789") {
		schema["allOf"] = []any{pattern(notZeroPattern)}
	}
	return schema
}

// urlPattern is the beginning of a URL, or an empty text where the field does not refuse one. Which schemes the field
// takes is known to its parser alone, so the parser is asked.
func (f Field) urlPattern() string {
	schemes := "[A-Za-z][A-Za-z0-9+.-]*"
	if s, ok := f.value.(*scalar[string]); ok {
		taken := slices.DeleteFunc([]string{"redis", "rediss", "unix", "http", "https"}, func(scheme string) bool {
			_, err := s.parse(scheme + "://localhost/")
			return err != nil
		})
		if len(taken) > 0 {
			schemes = strings.Join(taken, "|")
		}
	}
	if f.Required {
		return "^(" + schemes + ")://"
	}
	return "^$|^(" + schemes + ")://"
}

// sample is a default or an example as JSON has it.
func (f Field) sample(text string) any {
	switch f.Kind {
	case KindInteger, KindNumber:
		if v, err := parseFloat(text); err == nil {
			return v
		}
	case KindBoolean:
		if v, err := parseBool(text); err == nil {
			return v
		}
	case KindStrings, KindStages:
		var v any
		if err := yaml.Unmarshal([]byte(text), &v); err == nil {
			return v
		}
	}
	return text
}

// stageList describes the stages of a flow: bare names of those that need no key, and mappings of one name to its keys.
func (b schemaBuilder) stageList(kinds []StageSchema) map[string]any {
	properties := make(map[string]any, len(kinds))
	either := []any{}
	for _, k := range kinds {
		keys := b.mapping(k.Fields, "stages."+k.Name+".")
		keys["description"] = k.Doc
		properties[k.Name] = keys
		if keys["required"] == nil {
			either = append(either, map[string]any{"const": k.Name, "description": k.Doc})
		}
	}
	either = append(either,
		map[string]any{
			"type": "object", "properties": properties, "additionalProperties": false,
			"minProperties": 1, "maxProperties": 1,
		},
		map[string]any{"$ref": "#/$defs/variable"})
	return map[string]any{"type": "array", "minItems": 1, "items": map[string]any{"anyOf": either}}
}
