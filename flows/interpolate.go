package flows

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// interpolated is the result of replacing the variables of one scalar.
type interpolated struct {
	text  string
	vars  []variable
	fault string // why it could not be done, or ""
	limit Limit  // of the fault: set when it lies in what a variable holds, not in how the text is written
	// part counts, from 0, the "${" of the scalar that the fault is about. An escaped one counts too.
	part int
	// spans are the places where text and result differ.
	spans []span
}

// interpolate replaces ${NAME} and ${NAME:-default} and turns $${ into ${. It looks at the text of a parsed scalar, so
// whatever a variable holds stays one scalar. A variable that is set but empty counts as unset.
func interpolate(text string, env func(string) (string, bool)) interpolated {
	var (
		out interpolated
		b   strings.Builder
	)
	for rest := text; ; out.part++ {
		from := len(text) - len(rest)
		i := strings.Index(rest, "${")
		if i < 0 {
			b.WriteString(rest)
			out.text = b.String()
			return out
		}
		if i > 0 && rest[i-1] == '$' {
			b.WriteString(rest[:i-1])
			out.spans = append(out.spans, span{from: from + i - 1, fromLength: 3, to: b.Len(), toLength: 2})
			b.WriteString("${")
			rest = rest[i+2:]
			continue
		}
		b.WriteString(rest[:i])
		v, length, fault := readVariable(rest[i:], env)
		if fault != "" {
			out.fault = fault
			if v.name != "" {
				out.limit = LimitVariable
			}
			return out
		}
		out.spans = append(out.spans, span{from: from + i, fromLength: length, to: b.Len(), toLength: len(v.value)})
		b.WriteString(v.value)
		out.vars = append(out.vars, v)
		rest = rest[i+length:]
	}
}

// readVariable reads the expression that text starts with and returns it with its length in bytes. With a fault that
// lies in what the variable holds, the variable has its name.
func readVariable(text string, env func(string) (string, bool)) (v variable, length int, fault string) {
	body, _, closed := strings.Cut(text[len("${"):], "}")
	if !closed {
		return v, 0, fmt.Sprintf("%s has no closing }: add it, or write $${ for a plain ${", quote(text))
	}
	length = len("${") + len(body) + len("}")
	name, fallback, hasDefault := strings.Cut(body, ":-")
	switch {
	case !variableName.MatchString(name):
		return v, 0, fmt.Sprintf("%s is not a variable: write ${NAME} or ${NAME:-default}, and $${ for a plain ${",
			quote(text[:length]))
	case strings.Contains(fallback, "{"):
		return v, 0, fmt.Sprintf("the default of %s must not contain braces", name)
	}
	v = variable{name: name}
	isSet := false
	if env != nil {
		v.value, isSet = env(name)
	}
	switch {
	case !utf8.ValidString(v.value):
		return v, 0, fmt.Sprintf("variable %s is not valid UTF-8: give it a text", name)
	case v.value != "":
	case hasDefault:
		v.value, v.isDefault = fallback, true
	case isSet:
		return v, 0, fmt.Sprintf("variable %s is empty: give it a value, or a default as in ${%s:-default}", name, name)
	default:
		return v, 0, fmt.Sprintf("variable %s is not set: set it, or give a default as in ${%s:-default}", name, name)
	}
	return v, length, ""
}
