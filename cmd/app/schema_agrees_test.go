package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/flowtest"
	"github.com/mjdevaccount/pulseflow/stages"
)

// document is a YAML file as an editor hands it to a schema.
func document(src []byte) (any, error) {
	var root yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(src))
	if err := decoder.Decode(&root); err != nil {
		return nil, err
	}
	if err := decoder.Decode(new(yaml.Node)); err == nil {
		return nil, errors.New("a second document")
	}
	nodes := 0
	v, err := plain(root.Content[0], &nodes)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(text))
}

// plain is a node as JSON has it: keys are texts, aliases and merge keys are what they
// stand for, and a key that is there twice is a fault.
func plain(n *yaml.Node, nodes *int) (any, error) {
	if *nodes++; *nodes > 200_000 {
		return nil, errors.New("too large")
	}
	switch n.Kind {
	case yaml.AliasNode:
		return plain(n.Alias, nodes)
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			var err error
			if list[i], err = plain(item, nodes); err != nil {
				return nil, err
			}
		}
		return list, nil
	case yaml.MappingNode:
		return plainMapping(n, nodes)
	}
	if n.ShortTag() == "!!timestamp" || n.Style&yaml.TaggedStyle != 0 && n.ShortTag() != "!!str" {
		return n.Value, nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, err
	}
	if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return nil, errors.New("JSON has no such number")
	}
	return v, nil
}

func plainMapping(n *yaml.Node, nodes *int) (any, error) {
	members := make(map[string]any)
	var merged []map[string]any
	mergeKeys := 0
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return nil, errors.New("a key that is no text")
		}
		v, err := plain(n.Content[i+1], nodes)
		if err != nil {
			return nil, err
		}
		if key.ShortTag() == "!!merge" {
			if mergeKeys++; mergeKeys > 1 {
				return nil, errors.New("two merge keys")
			}
			list, ok := v.([]any)
			if !ok {
				list = []any{v}
			}
			for _, item := range list {
				m, ok := item.(map[string]any)
				if !ok {
					return nil, errors.New("a merge of what is no mapping")
				}
				merged = append(merged, m)
			}
			continue
		}
		if _, twice := members[key.Value]; twice {
			return nil, fmt.Errorf("key %q is there twice", key.Value)
		}
		members[key.Value] = v
	}
	for _, m := range merged {
		for key, v := range m {
			if _, given := members[key]; !given {
				members[key] = v
			}
		}
	}
	return members, nil
}

// agreement is what a schema and the loader say of a file.
type agreement struct {
	schema error             // why the schema refuses it; nil when it does not
	loader flows.Diagnostics // the errors of check
}

func compare(schema *jsonschema.Schema, src []byte, env func(string) (string, bool)) agreement {
	file, d := flows.Parse("flows.yaml", src, env)
	new(fileFlags).examine(file, stages.Builtin(), &d)
	return agree(schema, src, d)
}

// agree holds what a schema says of a file to what the loader has found.
func agree(schema *jsonschema.Schema, src []byte, d flows.Diagnostics) agreement {
	var a agreement
	v, err := document(src)
	if err == nil {
		err = schema.Validate(v)
	}
	a.schema = err
	for _, x := range d {
		if x.Severity == flows.Error {
			a.loader = append(a.loader, x)
		}
	}
	return a
}

// fault says how the two disagree beyond what flows.Limits excuses; "" when they do not.
func (a agreement) fault() string {
	switch {
	case a.schema != nil && len(a.loader) == 0:
		return fmt.Sprintf("the loader accepts it, and the schema does not: %v", a.schema)
	case a.schema == nil:
		for _, x := range a.loader {
			if x.Beyond == "" {
				return fmt.Sprintf("the schema accepts it, and the loader does not, for a reason that is no limit of schemas: %s", x)
			}
		}
	}
	return ""
}

// addChoices seeds a fuzz test with choices of mutations.
func addChoices(f *testing.F) {
	for i := range uint64(400) {
		data := make([]byte, 40)
		r := rand.New(rand.NewPCG(i, 7)) //nolint:gosec // a test must repeat
		for j := range data {
			data[j] = byte(r.Uint32())
		}
		f.Add(data)
	}
}

// FuzzSchemaAgrees changes right files here and there, as trees: keys dropped, repeated
// and renamed, values of other types and units, parts swapped, wrapped and nested. What
// comes of it the schema and the loader both accept or both refuse, but for errors that
// carry one of flows.Limits.
func FuzzSchemaAgrees(f *testing.F) {
	schema := printedSchema(f)
	files := rightFiles(f)
	words := vocabulary()
	addChoices(f)
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"X": "1", "WORD": "abc", "EMPTY": "", "TIME": "5s", "BAD": "a b"}[name]
		return v, ok
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := mutation{choices: data, words: words}
		src, ok := m.of(files[m.pick(len(files))], files)
		if !ok {
			return
		}
		if fault := compare(schema, src, env).fault(); fault != "" {
			t.Errorf("%s\n%s\n%s", fault, strings.Join(m.done, "; "), src)
		}
	})
}

// Every file that a mutation starts from is right by both.
func TestRightFilesAgree(t *testing.T) {
	schema := printedSchema(t)
	for i, src := range rightFiles(t) {
		a := compare(schema, src, nil)
		if a.schema != nil || len(a.loader) > 0 {
			t.Errorf("file %d: schema %v, loader %v\n%s", i, a.schema, a.loader, src)
		}
	}
}

// rightFiles are the files that are shipped, and one with every key.
func rightFiles(t testing.TB) [][]byte {
	t.Helper()
	paths := []string{filepath.Join("..", "..", "flows.yaml")}
	for _, pattern := range []string{"../../docs/examples/*.yaml", "../../stages/testdata/*.yaml"} {
		found, err := filepath.Glob(filepath.FromSlash(pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files: %v", pattern, len(found), err)
		}
		paths = append(paths, slices.DeleteFunc(found, flowtest.IsTestFile)...)
	}
	var list [][]byte
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, bytes.ReplaceAll(src, []byte("big_queue.schema"), []byte("../../stages/testdata/big_queue.schema")))
	}
	file, d := flows.BuiltIn(nil)
	listing, err := file.Redacted()
	if err != nil || d.HasErrors() {
		t.Fatal(err, d)
	}
	return append(list, listing, []byte(everyStage))
}

// everyStage uses the keys that the shipped files do not, and anchors.
const everyStage = `version: 1
bus: {backend: redis, namespace: prod, lanes: 8, redis: {url: "rediss://u:p@h:1/2", tls: {server_name: h}}}
admin: {listen: ":8088", publisher_token: "${TOKEN:-t}", operator_token: o, read_timeout: 1m30s}
providers:
  a: &provider {rate: 60, burst: 5, min_rate: 0, ramp_up: 1s, breaker: {threshold: 3, open_for: 1m, half_open: 2}}
  "${B:-b}": {<<: *provider, rate: 5, cooldown: 1m, aggregate: last, on_silence: {after: 1m, step: yes}, max_coordinators: 5}
flows:
  one:
    from: {stream: s1, key: "{k}:s1", group: g, start: newest}
    stages:
      - validate: {schema: telemetry.FeedbackEvent, mode: warn, hash: strict}
      - dedupe: {key: "{key}/{ts}", ttl: 0s}
      - throttle: {rate: 0.5, key: payload.coordinator_id, over: drop}
      - delay: {for: 1s}
      - timeout: {after: 1m}
      - handle: {with: feedback, provider: a, policy: {ok: 1, soft: .5, hard: 0}}
      - rate-apply: {publish: out, publish_key: "k:out", when: always, track: v2}
    retry: &retry {max: 2, initial: 1s, max_interval: 2s}
    dead_letter: {stream: d1, key: "k:d1"}
  two:
    enabled: no
    from: {stream: s2}
    stages: [tap: {every: 5, log: {level: payload.level, n: 5}}, map: {payload: "{a: 1}", key: id}, filter: {when: true}]
    to: {stream: s3, format: same}
    retry: {<<: *retry, jitter: 0, multiplier: 1.5}
    lanes: 3
`

// vocabulary is what keys and scalars are made of: every name, default, example, bound
// and allowed value of the language, and what is none of these.
func vocabulary() []string {
	words := []string{
		"", " ", "~", "null", "true", "Yes", "NO", "off", "0", "1", "-1", "+5", "0x10", "0o7", "010", "1_000", "5.0", ".5", "5.", "1e3", "1e400",
		"9223372036854775807", "9223372036854775808", "-9223372036854775809", ".inf", ".nan", "10s", "0s", "-1s", "1h30m", "5 s", "1d", "99999999h",
		"1MiB", "1.5 KB", "1.5B", "0B", "1mb", "9999999GiB", "abc", "a b", "A", "a\nb", "é", "日本", "a\u200bb", "a\u00a0b", "\u2028", "\U0001F600", "#x", "- x",
		"a: b", "{a}", "[a", "*a", "&a", "!x", "%", "@", "`", "'", "\"", "\\", "<<", "=", "|", ">", "2001-01-01", "12:30:45", "${X}", "${WORD}", "${TIME}",
		"${BAD}", "${EMPTY}", "${UNSET}", "${UNSET:-5}", "${UNSET:-b c}", "x${X}y", "$${X}", "${", "${1}", "${X:-{}}", "$", "$$", "{topic}", "{ns}:{topic}",
		"{ns", "{env}{topic}", "redis://h", "redis://h:1/0", "redis://h/x", "redis://h:port", "redis://[::1", "rediss://u:p@h", "unix:///s?db=x",
		"unix://", "unix://h", "http://h", "http://h:x", "https://", "http://%zz", ":80", ":99999", "h:1", "h", "::1:80", "[::1]:80", "127.0.0.1:0", "0.0.0.0:80",
		"payload.x > 1", "payload.", "id", "1 +", "now - ts", "{a: payload.b}", "nope", "telemetry.feedback", "telemetry.Feedback", "telemetry.Envelope",
		strings.Repeat("k", 300), strings.Repeat("k", 600), strings.Repeat("é ", 5000),
	}
	words = append(words, names(flows.Reference())...)
	for _, k := range stages.Builtin().Kinds() {
		words = append(words, k.Name)
		words = append(words, names(k.New().Fields())...)
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// names are the texts that fields are declared with.
func names(fields flows.Fields) (words []string) {
	var collect func(fs flows.Fields)
	collect = func(fs flows.Fields) {
		for _, f := range fs {
			if f.Name == "tests" && f.Kind == flows.KindAny {
				continue // which have a schema and a loader of their own
			}
			words = append(words, f.Name, f.Default, f.Example, f.Min, f.Max, f.Above)
			words = append(words, f.Allowed...)
			collect(f.Fields)
		}
	}
	collect(fields)
	return words
}

// mutation changes a file at places and in ways that its choices say.
type mutation struct {
	choices []byte
	words   []string
	done    []string // what was changed
}

// pick returns a number below n.
func (m *mutation) pick(n int) int {
	v := 0
	for range 2 {
		v <<= 8
		if len(m.choices) > 0 {
			v |= int(m.choices[0])
			m.choices = m.choices[1:]
		}
	}
	return v % max(n, 1)
}

func (m *mutation) word() string { return m.words[m.pick(len(m.words))] }

// place is where a node hangs in a tree: an item of its parent, of a mapping the value
// at an odd index and the key before it.
type place struct {
	parent *yaml.Node
	index  int
}

func (p place) node() *yaml.Node { return p.parent.Content[p.index] }
func (p place) isValue() bool    { return p.parent.Kind == yaml.MappingNode && p.index%2 == 1 }

func places(n *yaml.Node) []place {
	var list []place
	for i, c := range n.Content {
		if n.Kind != yaml.MappingNode || i%2 == 1 {
			list = append(list, place{n, i})
		}
		if c.Kind != yaml.AliasNode {
			list = append(list, places(c)...)
		}
	}
	return list
}

// of returns a changed copy of a file, and false when there is no way to write it.
func (m *mutation) of(src []byte, others [][]byte) ([]byte, bool) {
	var root yaml.Node
	if err := yaml.Unmarshal(src, &root); err != nil {
		return nil, false
	}
	for range 1 + m.pick(2)*m.pick(3) { // mostly one, so that a difference shows
		list := places(&root)
		if len(list) == 0 {
			break
		}
		m.change(list[m.pick(len(list))], list, others)
	}
	out, err := yaml.Marshal(&root)
	return out, err == nil
}

func (m *mutation) change(at place, list []place, others [][]byte) {
	n, p := at.node(), at.parent
	name := ""
	if at.isValue() {
		name = p.Content[at.index-1].Value
	}
	note := func(format string, args ...any) {
		m.done = append(m.done, name+": "+fmt.Sprintf(format, args...))
	}
	scalar := func() *yaml.Node {
		style := []yaml.Style{0, 0, 0, yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle, yaml.LiteralStyle, yaml.FoldedStyle}[m.pick(7)]
		return &yaml.Node{Kind: yaml.ScalarNode, Value: m.word(), Style: style}
	}
	key := func() *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: m.word()} }
	switch m.pick(16) {
	case 0:
		note("dropped")
		if at.isValue() {
			p.Content = slices.Delete(p.Content, at.index-1, at.index+1)
		} else if p.Kind != yaml.DocumentNode {
			p.Content = slices.Delete(p.Content, at.index, at.index+1)
		}
	case 1:
		note("repeated")
		if at.isValue() {
			p.Content = append(p.Content, p.Content[at.index-1], n)
		} else if p.Kind == yaml.SequenceNode {
			p.Content = append(p.Content, n)
		}
	case 2:
		if at.isValue() {
			p.Content[at.index-1] = key()
			note("renamed to %q", p.Content[at.index-1].Value)
		}
	case 3, 4, 5, 6:
		p.Content[at.index] = scalar()
		note("%q", p.Content[at.index].Value)
	case 7:
		note("swapped")
		other := list[m.pick(len(list))]
		if !contains(n, other.node()) && !contains(other.node(), n) {
			p.Content[at.index], other.parent.Content[other.index] = other.node(), n
		}
	case 8:
		note("in a list")
		p.Content[at.index] = &yaml.Node{Kind: yaml.SequenceNode, Content: []*yaml.Node{n}}
	case 9:
		note("in a mapping")
		p.Content[at.index] = &yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key(), n}}
	case 10:
		note("quoted, or not")
		if n.Kind == yaml.ScalarNode {
			n.Style, n.Tag = n.Style^yaml.DoubleQuotedStyle, ""
		}
	case 11:
		if n.Kind == yaml.MappingNode {
			k := key()
			n.Content = append(n.Content, k, scalar())
			note("with %q", k.Value)
		}
	case 12:
		note("of another file")
		var root yaml.Node
		if yaml.Unmarshal(others[m.pick(len(others))], &root) == nil {
			if from := places(&root); len(from) > 0 {
				p.Content[at.index] = from[m.pick(len(from))].node()
			}
		}
	case 13:
		note("empty")
		p.Content[at.index] = &yaml.Node{Kind: []yaml.Kind{yaml.MappingNode, yaml.SequenceNode}[m.pick(2)], Style: yaml.FlowStyle}
	case 14:
		note("changed in a place")
		if n.Kind == yaml.ScalarNode {
			text := []rune(n.Value)
			i := m.pick(len(text) + 1)
			n.Value = string(text[:i]) + []string{" ", "0", "-", "x", ".", "s", "é", "_", "${X}", "\u200b"}[m.pick(10)] + string(text[min(i+m.pick(2), len(text)):])
			n.Tag = ""
		}
	case 15:
		note("tagged")
		if n.Kind == yaml.ScalarNode {
			n.Tag, n.Style = []string{"!!str", "!x", "!!int"}[m.pick(3)], n.Style|yaml.TaggedStyle
		}
	}
}

// contains reports whether a node is part of another, or the same.
func contains(n, part *yaml.Node) bool {
	if n == part {
		return true
	}
	return n.Kind != yaml.AliasNode && slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return contains(c, part) })
}
