package flows

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The patterns say of variables what the loader says.
func TestVariablePatterns(t *testing.T) {
	text, variable := regexp.MustCompile(textPattern), regexp.MustCompile(variablePattern)
	for _, s := range []string{
		"", "plain", "$", "$$", "a$b", "${A}", "${A}${B}", "x${A:-b c}y", "${A:-}", "$${", "$${A}", "$${A}${B}", "$$${A}",
		"$${${A}", "${A}$", "{a}", "${A:-$}", "a\n${A}\nb", "é${_a1}",
		"${", "${A", "${1}", "${A-b}", "${A:-{}}", "${A:-${B}}", "${}", "${A}${", "$${A}${1}", "${a b}", "$${ ${",
	} {
		result := interpolate(s, func(string) (string, bool) { return "v", true })
		if got, want := text.MatchString(s), result.fault == ""; got != want {
			t.Errorf("%q is a text: %v, want %v (%s)", s, got, want, result.fault)
		}
		got := text.MatchString(s) && variable.MatchString(s)
		if want := result.fault == "" && len(result.vars) > 0; got != want {
			t.Errorf("%q has a variable: %v, want %v", s, got, want)
		}
	}
}

// The patterns of values say what the parsers say.
func TestValuePatterns(t *testing.T) {
	ok := func(err error) bool { return err == nil }
	redis := func(s string) bool {
		r := Redis{URL: s}
		_, err := parseURL(s, []string{"redis", "rediss", "unix"})
		return err == nil && r.checkURL() == nil
	}
	for name, tt := range map[string]struct {
		pattern string
		accepts func(string) bool
		texts   []string
	}{
		"duration": {
			durationPattern, func(s string) bool { _, err := parseDuration(s); return ok(err) },
			[]string{"1s", "1.5h", ".5m", "1.m", "1h30m", "+1s", "5us", "5µs", "5μs", "1", "s", "", "1 s", "-1s", "1d", "1e3s", "1S"},
		},
		"size": {
			sizePattern, func(s string) bool { _, err := parseSize(s); return ok(err) },
			[]string{"1B", "1 KB", "1.5MiB", "1e3KB", "1_000B", "+1GB", "1", "1mb", "1  B", "-1B", "", "B", "1TiB"},
		},
		"key": {keyPattern, func(s string) bool { return ok(checkKey(s)) }, []string{"a", "{a}:b", "", "a b", strings.Repeat("k", 513)}},
		"listen": {
			listenPattern, func(s string) bool { return ok((&Admin{Listen: s}).checkListen()) },
			[]string{
				"", "off", ":8088", "127.0.0.1:0", "[::1]:8088", "h:65535", "h:65536", "h:99999", "h:00080", "h", "h:", "h:x", "::1:80",
			},
		},
		"redis URL": {
			redisPattern, redis,
			[]string{
				"redis://h", "redis://h:1/0", "rediss://u:p@h:1/15", "redis://h/", "redis://h/?a=b", "redis://h?a=b",
				"unix:///run/r.sock", "unix:///run/r.sock?db=1", "redis://h/x", "http://h", "h", "", "unix://",
			},
		},
		"yes or no": {yesNoPattern, func(s string) bool { _, err := parseBool(s); return ok(err) }, []string{"yes", "NO", "nO", "y", "on", ""}},
	} {
		re := regexp.MustCompile(tt.pattern)
		for _, s := range tt.texts {
			if got, want := re.MatchString(s), tt.accepts(s); got != want {
				t.Errorf("%s: %q matches: %v, and the loader accepts it: %v", name, s, got, want)
			}
		}
	}
	other := regexp.MustCompile(otherPlaceholder)
	for _, s := range []string{
		"{topic}", "{ns}{topic}", "{{ns}}-{topic}-x", "{topic", "{}{topic}", "{n}{topic}", "{nss}{topic}", "{topi}{topic}",
		"{topics}{topic}", "{env}:{topic}", "{t}{topic}", "{to}{topic}", "{tip}{topic}", "{nope}{topic}", "{top}{topic}",
		"{tops}{topic}", "{topix}{topic}", "{ns }{topic}",
	} {
		if got, want := strings.Contains(s, "{topic}") && !other.MatchString(s), (&Redis{StreamKey: s}).checkStreamKey() == nil; got != want {
			t.Errorf("stream key %q is right: %v, want %v", s, got, want)
		}
	}
}

// Every rule is one of a field that is there.
func TestRulesHaveFields(t *testing.T) {
	paths := make(map[string]bool)
	var collect func(fs Fields, prefix string)
	collect = func(fs Fields, prefix string) {
		for _, f := range fs {
			path := prefix + f.Name
			paths[path] = true
			if f.Kind == KindMap {
				path += ".*"
				paths[path] = true
			}
			collect(f.Fields, path+".")
		}
	}
	collect(Reference(), "")
	for _, path := range slices.Sorted(maps.Keys(rules())) {
		if !paths[path] {
			t.Errorf("rule of %s: there is no such field", path)
		}
	}
}

// What is said of each kind of field.
func TestFieldSchema(t *testing.T) {
	var (
		text, url string
		count     int
		rate      float64
		list      []string
	)
	variable := `{"$ref":"#/$defs/variable"}`
	for want, f := range map[string]Field{
		`{"$ref":"#/$defs/text","default":"x","description":"d"}`:                         String("s", &text, "d", Default("x")),
		`{"$ref":"#/$defs/text","description":"d","examples":["e"],"minLength":1}`:        String("s", &text, "d", Required(), Example("e")),
		`{"anyOf":[{"enum":["a","b"]},` + variable + `],"default":"a","description":"d"}`: Enum("s", &text, []string{"a", "b"}, "d", Default("a")),
		`{"anyOf":[{"maximum":9,"minimum":1,"type":"integer"},` + variable + `],"default":2,"description":"d"}`: Int("s", &count, "d", Default("2"),
			Min(1), Max(9)),
		`{"anyOf":[{"exclusiveMinimum":0,"type":"number"},` + variable + `],"description":"d","examples":[1.5]}`: Float("s", &rate, "d", Above(0), Example("1.5")),
		`{"anyOf":[{"pattern":"^$|^(http|https)://","type":"string"},` + variable + `],"description":"d"}`:       URL("s", &url, []string{"http", "https"}, "d"),
		`{"anyOf":[{"pattern":"^([A-Za-z][A-Za-z0-9+.-]*)://","type":"string"},` + variable + `],"description":"d"}`: URL("s", &url, []string{"amqp"}, "d",
			Required()),
		`{"default":["a"],"description":"d","items":{"$ref":"#/$defs/text"},"type":"array"}`: Strings("s", &list, "d",
			Default("[a]")),
		`{"additionalProperties":false,"description":"d","properties":{},"type":["object","null"]}`: Object("s", nil, "d"),
	} {
		got, err := json.Marshal(schemaBuilder{}.field(f, "nowhere"))
		if err != nil {
			t.Fatal(err)
		}
		plain := strings.NewReplacer(`\u003e`, ">", `\u0026`, "&").Replace(string(got))
		if diff := cmp.Diff(want, plain); diff != "" {
			t.Errorf("%s (-want +got):\n%s", f.Kind, diff)
		}
	}
}
