package flowtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// differences lists where got is not want, one line for what is missing and one for
// what is there instead, by JSON pointer. A partial want may lack members of objects.
func differences(path string, want, got any, partial bool) []string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		var lines []string
		for _, key := range slices.Sorted(maps.Keys(w)) {
			at := path + "/" + escapePointer(key)
			if v, ok := g[key]; ok {
				lines = append(lines, differences(at, w[key], v, partial)...)
			} else {
				lines = append(lines, minus(at, w[key]))
			}
		}
		for _, key := range slices.Sorted(maps.Keys(g)) {
			if _, ok := w[key]; !ok && !partial {
				lines = append(lines, plus(path+"/"+escapePointer(key), g[key]))
			}
		}
		return lines
	case []any:
		g, ok := got.([]any)
		if !ok {
			break
		}
		var lines []string
		for i := range max(len(w), len(g)) {
			at := path + "/" + strconv.Itoa(i)
			switch {
			case i >= len(g):
				lines = append(lines, minus(at, w[i]))
			case i >= len(w):
				lines = append(lines, plus(at, g[i]))
			default:
				lines = append(lines, differences(at, w[i], g[i], partial)...)
			}
		}
		return lines
	default:
		if want == got {
			return nil
		}
	}
	return []string{minus(path, want), plus(path, got)}
}

func minus(path string, v any) string { return "- " + labelled(path, v) }

func plus(path string, v any) string { return "+ " + labelled(path, v) }

func labelled(path string, v any) string {
	text, err := encodeJSON(v)
	if err != nil {
		text = fmt.Append(nil, v)
	}
	if path == "" {
		return string(text)
	}
	return path + ": " + string(text)
}

func escapePointer(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}

// at returns the value at a JSON pointer.
func at(v any, pointer string) (any, bool) {
	if pointer == "" {
		return v, true
	}
	for _, part := range strings.Split(pointer, "/")[1:] {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch x := v.(type) {
		case map[string]any:
			inner, ok := x[part]
			if !ok {
				return nil, false
			}
			v = inner
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(x) {
				return nil, false
			}
			v = x[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// decoded is a message as a value; what is no JSON is its text.
func decoded(data []byte) any {
	var v any
	if json.Unmarshal(data, &v) != nil {
		return string(data)
	}
	return v
}
