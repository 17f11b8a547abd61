package flows

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// stringTyped refuses what YAML does not take for a text, so that a version "1.10" never silently becomes 1.1.
func stringTyped(n *Node) (rule, hint string) {
	switch n.tag {
	case "!!int", "!!float", "!!bool":
		if !n.quoted {
			return "expected a string", "quote it"
		}
	}
	return "", ""
}

// unquoted refuses a quoted text where a number or a boolean belongs.
func unquoted(what string) func(n *Node) (rule, hint string) {
	return func(n *Node) (rule, hint string) {
		if n.quoted {
			return "expected " + what, "remove the quotes"
		}
		return "", ""
	}
}

// finite refuses the numbers that JSON has not.
func finite(n *Node) (rule, hint string) {
	if v, ok := n.number(); ok && (math.IsInf(v, 0) || math.IsNaN(v)) {
		return "expected an expression", "quote it"
	}
	return "", ""
}

func parseString(text string) (string, error) { return text, nil }

// Leading zeros are refused, since YAML 1.1 takes them for octal; so are NaN, infinity and hexadecimal.
var (
	integerText = regexp.MustCompile(`^[+-]?(0|[1-9][0-9]*(_[0-9]+)*)$`)
	leadingZero = regexp.MustCompile(`^[+-]?0[0-9xob]`)
	numberText  = regexp.MustCompile(`^[+-]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$`)
)

func parseInt[T int | int64](text string) (T, error) {
	switch {
	case leadingZero.MatchString(text):
		return 0, errors.New("expected an integer in decimal, without leading zeros")
	case !integerText.MatchString(text):
		return 0, errors.New("expected an integer")
	}
	v, err := strconv.ParseInt(strings.ReplaceAll(text, "_", ""), 10, 64)
	if err != nil || int64(T(v)) != v {
		return 0, errors.New("must fit into 64 bits")
	}
	return T(v), nil
}

func parseFloat(text string) (float64, error) {
	if !numberText.MatchString(text) {
		return 0, errors.New("expected a finite number")
	}
	v, err := strconv.ParseFloat(strings.ReplaceAll(text, "_", ""), 64)
	if err != nil || math.IsInf(v, 0) {
		return 0, errors.New("expected a finite number")
	}
	return v, nil
}

// formatFloat writes a number without an exponent where that stays readable.
func formatFloat(v float64) string {
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e15) {
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return strconv.FormatFloat(v, 'f', -1, 64)
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "yes", "1":
		return true, nil
	case "false", "no", "0":
		return false, nil
	}
	return false, errors.New("expected true or false (yes, no, 1 and 0 do too)")
}

var durationText = regexp.MustCompile(durationPattern)

func parseDuration(text string) (time.Duration, error) {
	if _, err := parseFloat(text); err == nil {
		return 0, errors.New("expected a unit (ns, us, ms, s, m, h) after the number, such as 100ms")
	}
	v, err := time.ParseDuration(text)
	switch {
	case err != nil && durationText.MatchString(text):
		return 0, Beyond(LimitMagnitude, errors.New("must be at most 2562047h, some 290 years"))
	case err != nil:
		return 0, errors.New("expected a duration with a unit (ns, us, ms, s, m, h), such as 100ms")
	case strings.HasPrefix(text, "-"): // also of nothing
		return 0, errors.New("must not be negative")
	}
	return v, nil
}

// formatDuration drops the zero parts that time.Duration writes: 10m, not 10m0s.
func formatDuration(v time.Duration) string {
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

type sizeUnit struct {
	name  string
	bytes int64
}

func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"GiB", 1 << 30},
		{"MiB", 1 << 20},
		{"KiB", 1 << 10},
		{"GB", 1e9},
		{"MB", 1e6},
		{"KB", 1e3},
		{"B", 1},
	}
}

func parseSize(text string) (int64, error) {
	const units = "(B, KB, KiB, MB, MiB, GB, GiB), such as 1MiB"
	if _, err := parseFloat(text); err == nil {
		return 0, errors.New("expected a unit after the number " + units)
	}
	for _, u := range sizeUnits() {
		number, ok := strings.CutSuffix(text, u.name)
		if !ok {
			continue
		}
		v, err := parseFloat(strings.TrimSuffix(number, " "))
		bytes := v * float64(u.bytes)
		switch {
		case err != nil:
			return 0, errors.New("expected a size with a unit " + units)
		case v < 0:
			return 0, errors.New("must not be negative")
		case bytes != math.Trunc(bytes) || bytes > 1<<53:
			return 0, Beyond(LimitMagnitude, errors.New("must be a whole number of bytes, at most 8388608GiB"))
		}
		return int64(bytes), nil
	}
	return 0, errors.New("expected a size with a unit " + units)
}

// formatSize writes a size in the largest unit that keeps it whole.
func formatSize(v int64) string {
	for _, u := range sizeUnits() {
		if v >= u.bytes && v%u.bytes == 0 {
			return strconv.FormatInt(v/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(v, 10) + "B"
}

// parseURL never repeats the parser's error: it quotes the text, which may hold a password.
func parseURL(text string, schemes []string) (string, error) {
	if text == "" {
		return "", nil
	}
	rule := fmt.Errorf("must be a URL that starts with %s", alternatives(schemes, "://"))
	if slices.ContainsFunc(schemes, func(s string) bool { return strings.HasPrefix(text, s+"://") }) {
		rule = Beyond(LimitURL, rule)
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" || !slices.Contains(schemes, u.Scheme) {
		return "", rule
	}
	return text, nil
}

// alternatives writes a choice in words: "a", "a or b", "a, b or c".
func alternatives(texts []string, suffix string) string {
	var b strings.Builder
	for i, t := range texts {
		switch {
		case i == 0:
		case i == len(texts)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		b.WriteString(t + suffix)
	}
	return b.String()
}
