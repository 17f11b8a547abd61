package flows

import (
	"fmt"
	"strings"
)

// Markdown returns a table of the keys: name, type, default and meaning. The keys
// of nested mappings follow theirs, written as path.
func (fs Fields) Markdown() string {
	var b strings.Builder
	b.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
	fs.rows(&b, "")
	return b.String()
}

func (fs Fields) rows(b *strings.Builder, prefix string) {
	for _, f := range fs {
		kind, def := f.Kind.String(), ""
		if len(f.Allowed) > 0 {
			kind = strings.Join(f.Allowed, ", ")
		}
		switch {
		case f.Required:
			def = "required"
		case f.HasDefault && f.Default == "":
			def = "empty"
		case f.HasDefault:
			def = "`" + f.Default + "`"
		}
		doc := f.Doc
		if bounds := f.Bounds(); bounds != "" {
			doc += " (" + bounds + ")"
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s | %s |\n", prefix, f.Name, kind, def, strings.ReplaceAll(doc, "|", `\|`))
		inner := prefix + f.Name + "."
		switch f.Kind {
		case KindMap:
			inner += "NAME."
		case KindList:
			inner = prefix + f.Name + "[]."
		case KindValues:
			if f.Fields[0].Kind != KindList {
				continue
			}
			f.Fields[0].Fields.rows(b, inner+"NAME[].")
			continue
		}
		f.Fields.rows(b, inner)
	}
}

// Bounds words the bounds of the field's value: "at least 1, at most 9". It is empty when there are none.
func (f Field) Bounds() string {
	var list []string
	for _, bound := range []struct{ words, value string }{
		{"at least ", f.Min}, {"above ", f.Above}, {"at most ", f.Max},
	} {
		if bound.value != "" {
			list = append(list, bound.words+bound.value)
		}
	}
	return strings.Join(list, ", ")
}
