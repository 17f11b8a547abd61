package flowtest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
)

// Update returns the text of a test file in which the tests that failed expect what
// happened, and how many of them were changed. Only what is false in the blocks checks and
// expect of such a test is written anew, with the comments in it, and the outcome of an
// event in its place; everything else stays as it is. A test that could not run to its
// end, or that expects nothing false, stays. The error says which tests cannot be
// rewritten, and why; the others are.
func Update(src []byte, results []*Result) (text []byte, changed int, err error) {
	lf, ending := src, "\n"
	if n := bytes.Count(src, []byte("\n")); n > 0 && n == bytes.Count(src, []byte("\r\n")) {
		lf, ending = bytes.ReplaceAll(src, []byte("\r\n"), []byte("\n")), "\r\n"
	}
	var document yaml.Node
	if err := yaml.Unmarshal(lf, &document); err != nil {
		return nil, 0, err
	}
	if len(document.Content) == 0 {
		return src, 0, nil
	}
	e := editor{lines: strings.Split(string(lf), "\n"), root: document.Content[0]}
	var errs []error
	refuse := func(r *Result, err error) {
		errs = append(errs, fmt.Errorf("test %q cannot be updated: %w", r.Test.Name, err))
	}
	type rewritten struct {
		result *Result
		edits  []edit
	}
	var all []rewritten
	for _, r := range results {
		if r.Err != nil || len(r.Differences) == 0 && !r.unfinished() {
			continue
		}
		before := len(e.edits)
		err := e.rewrite(r)
		if err == nil && len(e.edits) == before && !e.shared {
			err = errors.New("what is false stands elsewhere, behind a << or an alias: write it out in the test")
		}
		if err != nil {
			e.edits = e.edits[:before]
			refuse(r, err)
			continue
		}
		all = append(all, rewritten{r, slices.Clone(e.edits[before:])})
	}
	after := e.apply(e.edits)
	if len(all) > 0 && !onlyExpects(lf, after) {
		var kept []edit
		all = slices.DeleteFunc(all, func(one rewritten) bool {
			if !onlyExpects(lf, e.apply(one.edits)) {
				refuse(one.result, errors.New("more than what it expects would change: write its anchors and texts in a simpler way"))
				return true
			}
			kept = append(kept, one.edits...)
			return false
		})
		after = e.apply(kept)
	}
	if len(all) == 0 {
		return src, 0, errors.Join(errs...)
	}
	return bytes.ReplaceAll(after, []byte("\n"), []byte(ending)), len(all), errors.Join(errs...)
}

// onlyExpects reports whether two texts of a test file say the same but for what is expected.
func onlyExpects(a, b []byte) bool {
	var parts [2][]byte
	for i, text := range [][]byte{a, b} {
		var document map[string]any
		if err := yaml.Unmarshal(text, &document); err != nil {
			return false
		}
		tests, _ := document["tests"].([]any)
		for _, t := range tests {
			test, _ := t.(map[string]any)
			delete(test, "checks")
			delete(test, "expect")
			events, _ := test["events"].([]any)
			for _, event := range events {
				if m, ok := event.(map[string]any); ok {
					delete(m, "outcome")
				}
			}
		}
		var err error
		if parts[i], err = yaml.Marshal(document); err != nil {
			return false
		}
	}
	return bytes.Equal(parts[0], parts[1])
}

// unfinished reports whether something that should expect something does not.
func (r *Result) unfinished() bool {
	return !r.Test.Expect.given() && !r.expectsElsewhere() ||
		slices.ContainsFunc(r.Test.Checks, func(c Checkpoint) bool { return !c.given() })
}

// expectsElsewhere reports whether something is expected but at the end.
func (r *Result) expectsElsewhere() bool {
	return len(r.Test.Checks) > 0 || slices.ContainsFunc(r.Test.Events, func(i Input) bool { return i.Outcome != "" })
}

// editor collects changes of a text, whose nodes say where things stand in it.
type editor struct {
	lines  []string
	root   *yaml.Node
	edits  []edit
	shared bool // the test at hand needs an edit that another one has made
}

// place is a place in the text: a line, counted from 1, and a character of it, from 0.
type place struct{ line, char int }

func placeOf(n *yaml.Node) place { return place{n.Line, n.Column - 1} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.line, q.line), cmp.Compare(p.char, q.char))
}

// edit puts a text in the place of what stands from one place up to another.
type edit struct {
	from, to place
	text     string
}

func (e *editor) line(n int) []rune { return []rune(e.lines[n-1]) }

// endOf is the place behind a line.
func (e *editor) endOf(line int) place { return place{line, len(e.line(line))} }

// apply makes the changes. Of those at one place, the first comes first.
func (e *editor) apply(edits []edit) []byte {
	edits = slices.SortedStableFunc(slices.Values(edits), func(a, b edit) int { return a.from.compare(b.from) })
	lines := slices.Clone(e.lines)
	for _, c := range slices.Backward(edits) {
		first, last := []rune(lines[c.from.line-1]), []rune(lines[c.to.line-1])
		lines = slices.Replace(lines, c.from.line-1, c.to.line, string(first[:c.from.char])+c.text+string(last[c.to.char:]))
	}
	return []byte(strings.Join(lines, "\n"))
}

func (e *editor) rewrite(r *Result) error {
	e.shared = false
	test := nodeAt(e.root, r.Test.node.Pos())
	if test == nil || test.Kind != yaml.MappingNode {
		return errors.New("it is not where it was read")
	}
	for i := range r.Test.Events {
		if err := e.outcome(r, &r.Test.Events[i]); err != nil {
			return err
		}
	}
	for _, name := range []string{"checks", "expect"} {
		if err := e.part(r, test, name); err != nil {
			return err
		}
	}
	return nil
}

// part writes what is not so in the block checks or expect of a test.
func (e *editor) part(r *Result, test *yaml.Node, name string) error {
	key, block := member(test, name)
	if block != nil && block.Kind == yaml.AliasNode {
		return fmt.Errorf("its %s stands for that of another test", name)
	}
	before := copyOf(block)
	if name == "checks" {
		if key == nil {
			return nil
		}
		if block.Kind != yaml.SequenceNode || len(block.Content) != len(r.Test.Checks) {
			return errors.New("its checks are not written out")
		}
		for i, n := range block.Content {
			if n.Kind != yaml.MappingNode {
				return errors.New("its checks are not written out")
			}
			if err := r.writeCheck(n, &r.Test.Checks[i], r.checks[i]); err != nil {
				return err
			}
		}
	} else {
		fresh := block == nil || block.Kind != yaml.MappingNode
		switch {
		case fresh && r.expectsElsewhere():
			return nil // it looks at single events and times only, and these are updated
		case fresh:
			block = &yaml.Node{Kind: yaml.MappingNode}
			r.writeAll(block)
		default:
			if err := r.writeInto(block, &r.Test.Expect, r.end); err != nil {
				return err
			}
			if e := &r.Test.Expect; e.node.Get("elapsed") != nil && e.Elapsed != r.Elapsed {
				set(block, "elapsed", str(r.Elapsed.String()))
			}
		}
	}
	return e.member(test, key, before, block, name)
}

// writeCheck replaces what a check says and is not so. One that expects nothing gets
// the outcomes and the rates.
func (r *Result) writeCheck(n *yaml.Node, c *Checkpoint, m *moment) error {
	if c.given() {
		return r.writeInto(n, &c.Expectation, m)
	}
	m.writeOutcomes(setMapping(n, "outcomes"))
	m.writeRates(n)
	return nil
}

// outcome changes the outcome of an event where all of it ended alike.
func (e *editor) outcome(r *Result, i *Input) error {
	if i.Outcome == "" {
		return nil
	}
	got := ""
	for _, t := range r.outcomesOf(i) {
		o := t.result.Outcome.String()
		if got != "" && got != o {
			return fmt.Errorf("the events at %s did not end alike: %s and %s", i.node.Pos(), got, o)
		}
		got = o
	}
	if got == "" || got == i.Outcome {
		return nil
	}
	pos := i.node.Get("outcome").Pos()
	at := place{pos.Line, pos.Column - 1}
	rest := string(e.line(at.line)[at.char:])
	if strings.HasPrefix(rest, `"`) || strings.HasPrefix(rest, "'") {
		at.char, rest = at.char+1, rest[1:]
	}
	if !strings.HasPrefix(rest, i.Outcome) {
		return fmt.Errorf("the outcome at %s is not written out", pos)
	}
	change := edit{at, place{at.line, at.char + len(i.Outcome)}, got}
	for _, other := range e.edits {
		if other == change {
			e.shared = true // an event that stands for several
			return nil
		}
		if other.from == change.from {
			return fmt.Errorf("the outcome at %s is that of another test too, where it is not %s", pos, got)
		}
	}
	e.edits = append(e.edits, change)
	return nil
}

// member writes a key of a mapping with its value where that has changed. Without a key it
// is added at the end.
func (e *editor) member(parent, key *yaml.Node, before *snapshot, value *yaml.Node, name string) error {
	switch {
	case key != nil && before.same(value):
		return nil
	case parent.Style&yaml.FlowStyle != 0:
		return e.inFlow(parent, key, value, name)
	case key != nil && before.keywise(value):
		return e.members(value, before)
	case key != nil && before.itemwise(value):
		for i, item := range value.Content {
			if !before.content[i].same(item) {
				if err := e.members(item, before.content[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return e.splice(parent, key, value, name)
}

// members writes what has changed in a mapping over several lines.
func (e *editor) members(n *yaml.Node, before *snapshot) error {
	known := make(map[string]*snapshot)
	for i := 0; i+1 < len(before.content); i += 2 {
		known[before.content[i].node.Value] = before.content[i+1]
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, old := n.Content[i], known[n.Content[i].Value]
		if old == nil {
			key = nil
		}
		if err := e.member(n, key, old, n.Content[i+1], n.Content[i].Value); err != nil {
			return err
		}
	}
	return nil
}

// snapshot is what a node was.
type snapshot struct {
	node    *yaml.Node
	text    string
	flow    bool
	content []*snapshot
}

func copyOf(n *yaml.Node) *snapshot {
	if n == nil {
		return nil
	}
	s := &snapshot{node: n, text: marshalled(n), flow: n.Style&yaml.FlowStyle != 0}
	for _, child := range n.Content {
		s.content = append(s.content, copyOf(child))
	}
	return s
}

// clone is a copy of a node, without its anchors.
func clone(n *yaml.Node) *yaml.Node {
	c := *n
	c.Anchor, c.Content = "", slices.Clone(n.Content)
	for i := range c.Content {
		c.Content[i] = clone(c.Content[i])
	}
	return &c
}

func marshalled(n *yaml.Node) string {
	text, err := yaml.Marshal(n)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (s *snapshot) same(n *yaml.Node) bool { return s.text == marshalled(n) }

// keywise reports whether a mapping over several lines still is one, with all its keys.
func (s *snapshot) keywise(n *yaml.Node) bool {
	if s.flow || len(s.content) == 0 || s.node.Kind != yaml.MappingNode || n.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i+1 < len(s.content); i += 2 {
		if !slices.Contains(n.Content, s.content[i].node) {
			return false
		}
	}
	return true
}

// itemwise reports whether a list over several lines still is one, with as many items, and
// those that have changed can be written key by key.
func (s *snapshot) itemwise(n *yaml.Node) bool {
	if s.flow || s.node.Kind != yaml.SequenceNode || len(s.content) == 0 || len(s.content) != len(n.Content) {
		return false
	}
	for i, item := range n.Content {
		if !s.content[i].same(item) && !s.content[i].keywise(item) {
			return false
		}
	}
	return true
}

// splice puts a key with its value into the lines of a mapping.
func (e *editor) splice(parent, key, value *yaml.Node, name string) error {
	column, first := parent.Content[0].Column, 0
	if key != nil {
		first, column = key.Line, key.Column
	}
	end := e.lastLine(parent, key, first)
	text, err := blockOf(key, value, name)
	if err != nil {
		return err
	}
	text = strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", column-1))
	if first == 0 {
		e.edits = append(e.edits, edit{e.endOf(end), e.endOf(end), "\n" + strings.Repeat(" ", column-1) + text})
	} else { // what stands before the key, such as the hyphen of the list, stays
		e.edits = append(e.edits, edit{place{first, column - 1}, e.endOf(end), text})
	}
	return nil
}

// blockOf is a key with its value as lines.
func blockOf(key, value *yaml.Node, name string) (string, error) {
	k := yaml.Node{Kind: yaml.ScalarNode, Value: name}
	if key != nil {
		k = *key
		k.HeadComment, k.FootComment = "", "" // which stay in the file
	}
	tidy(value)
	dropFootComments(value)
	if k.LineComment == "" && value.Style&yaml.FlowStyle == 0 && len(value.Content) > 0 {
		k.LineComment, value.LineComment = value.LineComment, ""
	}
	if k.LineComment != "" && (value.Kind == yaml.ScalarNode || value.Style&yaml.FlowStyle != 0) {
		// The encoder would put it behind the next key.
		if value.LineComment == "" {
			value.LineComment = k.LineComment
		}
		k.LineComment = ""
	}
	var b strings.Builder
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{&k, value}}); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// tidy makes a value one that the encoder writes well: what has comments inside is written
// over several lines, the comment behind a key whose value is on its line comes behind the
// value, and << has no tag.
func tidy(n *yaml.Node) {
	if n.Style&yaml.FlowStyle != 0 && commented(n) {
		n.Style &^= yaml.FlowStyle
	}
	for i, child := range n.Content {
		if child.Tag == "!!merge" {
			child.Tag = ""
		}
		if n.Kind == yaml.MappingNode && i%2 == 1 && len(child.Content) == 0 {
			if key := n.Content[i-1]; key.LineComment != "" && child.LineComment == "" {
				key.LineComment, child.LineComment = "", key.LineComment
			}
		}
		tidy(child)
	}
}

// commented reports whether there are comments inside a node.
func commented(n *yaml.Node) bool {
	return slices.ContainsFunc(n.Content, func(c *yaml.Node) bool {
		return c.HeadComment != "" || c.LineComment != "" || c.FootComment != "" || commented(c)
	})
}

// inFlow puts a value into a mapping in braces, in one line.
func (e *editor) inFlow(parent, key, value *yaml.Node, name string) error {
	if commented(value) || key != nil && value.Line == 0 {
		return errors.New("write it over several lines, not in { }")
	}
	inLine(value)
	text, err := blockOf(nil, value, name)
	if err != nil {
		return err
	}
	if key == nil {
		_, end, last, ok := e.braces(placeOf(parent))
		if !ok {
			return errors.New("write it over several lines, not in { }")
		}
		at, comma := end, ", "
		if before := strings.TrimRight(string(e.line(end.line)[:end.char]), " "); before != "" {
			at.char = len([]rune(before))
		}
		if last == ',' {
			comma = " "
		}
		e.edits = append(e.edits, edit{at, at, comma + text})
		return nil
	}
	from := placeOf(value)
	if rest := e.line(from.line)[from.char:]; rest[0] == '*' {
		alias := strings.TrimRight(strings.Fields(string(rest))[0], ",]}")
		alias, _, _ = strings.Cut(alias, ",")
		e.edits = append(e.edits, edit{from, place{from.line, from.char + len([]rune(alias))}, strings.TrimPrefix(text, name+": ")})
		return nil
	}
	from, end, _, ok := e.braces(from)
	if !ok {
		return errors.New("write it over several lines, not in { }")
	}
	e.edits = append(e.edits, edit{from, place{end.line, end.char + 1}, strings.TrimPrefix(text, name+": ")})
	return nil
}

// inLine has a value written in one line.
func inLine(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode {
		n.Style &^= yaml.LiteralStyle | yaml.FoldedStyle
	} else {
		n.Style |= yaml.FlowStyle
	}
	for _, child := range n.Content {
		inLine(child)
	}
}

// braces finds the brace or bracket that opens at a place, or behind an anchor there, the
// one that closes it, and what stands last before that.
func (e *editor) braces(at place) (from, to place, last rune, ok bool) {
	depth, quote := 0, rune(0)
	for line := at.line; line <= len(e.lines); line++ {
		text := e.line(line)
		i := 0
		if line == at.line {
			i = at.char
		}
		for ; i < len(text); i++ {
			r := text[i]
			space := i == 0 || text[i-1] == ' ' || text[i-1] == '\t'
			switch {
			case quote == '"' && r == '\\':
				i++
			case quote != 0:
				if r == quote {
					quote = 0
				}
			case r == '#' && space:
				i = len(text)
			case (r == '"' || r == '\'') && strings.ContainsRune("{[,:", last):
				quote = r
			case r == '{' || r == '[':
				if depth == 0 {
					from = place{line, i}
				}
				depth++
			case r == '}' || r == ']':
				if depth--; depth == 0 {
					return from, place{line, i}, last, true
				}
			}
			if i < len(text) && r != ' ' && r != '\t' {
				last = r
			}
		}
	}
	return from, to, last, false
}

// lastLine is the last line of the value of a key, or of the mapping when it has none.
func (e *editor) lastLine(parent, key *yaml.Node, first int) int {
	from := first
	if first == 0 {
		from = parent.Line
	}
	next := len(e.lines) + 1
	var look func(n *yaml.Node, inside bool)
	look = func(n *yaml.Node, inside bool) {
		for i, child := range n.Content {
			within := inside || n == parent && first == 0 || n == parent && i > 0 && n.Content[i-1] == key
			if !within && child.Line > from && child.Line < next {
				next = child.Line
			}
			look(child, within)
		}
	}
	look(e.root, false)
	for next > from+1 {
		if line := strings.TrimSpace(e.lines[next-2]); line != "" && line[0] != '#' && line != "..." {
			break
		}
		next--
	}
	// Empty lines are part of a text that keeps them.
	for key == nil && keepsLines(parent) && next <= len(e.lines) && strings.TrimSpace(e.lines[next-1]) == "" {
		next++
	}
	return next - 1
}

// keepsLines reports whether a node ends with a text whose last lines are empty.
func keepsLines(n *yaml.Node) bool {
	for len(n.Content) > 0 {
		n = n.Content[len(n.Content)-1]
	}
	return n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 && strings.HasSuffix(n.Value, "\n\n")
}

// dropFootComments removes the comments behind the last line: they stay in the file.
func dropFootComments(n *yaml.Node) {
	n.FootComment = ""
	if len(n.Content) > 0 {
		if n.Kind == yaml.MappingNode {
			n.Content[len(n.Content)-2].FootComment = ""
		}
		dropFootComments(n.Content[len(n.Content)-1])
	}
}

// nodeAt finds the mapping at a position.
func nodeAt(n *yaml.Node, pos flows.Position) *yaml.Node {
	if n.Line == pos.Line && n.Column == pos.Column && n.Kind == yaml.MappingNode {
		return n
	}
	for _, child := range n.Content {
		if found := nodeAt(child, pos); found != nil {
			return found
		}
	}
	return nil
}

// member returns a key of a mapping and its value.
func member(n *yaml.Node, name string) (key, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// set gives a key of a mapping a value, in its place or at the end.
func set(n *yaml.Node, name string, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			n.Content[i+1] = replaced(n.Content[i+1], value)
			return
		}
	}
	n.Content = append(n.Content, str(name), value)
}

// replaced is value in the place of old: with its comments, the order of its keys, and
// its spelling of what has not changed.
func replaced(old, value *yaml.Node) *yaml.Node {
	value.Line, value.Column, value.Anchor = old.Line, old.Column, old.Anchor
	if old.Kind != value.Kind {
		value.LineComment, value.HeadComment = old.LineComment, old.HeadComment
		return value
	}
	if old.Kind == yaml.ScalarNode {
		before, err := encodeJSON(scalarOf(old))
		if after, err2 := encodeJSON(scalarOf(value)); err == nil && err2 == nil && bytes.Equal(before, after) {
			return old
		}
		value.LineComment, value.HeadComment = old.LineComment, old.HeadComment
		return value
	}
	value.Style, value.LineComment, value.HeadComment = old.Style, old.LineComment, old.HeadComment
	if old.Kind != yaml.MappingNode {
		return value
	}
	var content []*yaml.Node
	for i := 0; i+1 < len(old.Content); i += 2 {
		if _, v := member(value, old.Content[i].Value); v != nil {
			content = append(content, old.Content[i], replaced(old.Content[i+1], v))
		}
	}
	for i := 0; i+1 < len(value.Content); i += 2 {
		if key, _ := member(old, value.Content[i].Value); key == nil {
			content = append(content, value.Content[i], value.Content[i+1])
		}
	}
	value.Content = content
	return value
}

func str(s string) *yaml.Node {
	n := new(yaml.Node)
	n.SetString(s)
	return n
}

func number(v float64) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!float", Value: strconv.FormatFloat(v, 'f', -1, 64)}
	if v == math.Trunc(v) {
		n.Tag = "!!int"
	}
	return n
}

// yamlOf is a JSON value in YAML, in one line.
func yamlOf(v any) *yaml.Node {
	switch v := v.(type) {
	case map[string]any:
		n := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			n.Content = append(n.Content, str(key), yamlOf(v[key]))
		}
		return n
	case []any:
		n := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, item := range v {
			n.Content = append(n.Content, yamlOf(item))
		}
		return n
	case string:
		return str(v)
	case float64:
		return number(v)
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(v)}
	default:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
	}
}

// scalarOf is a scalar's value; all numbers are float64.
func scalarOf(n *yaml.Node) any {
	var v any
	if n.Decode(&v) != nil {
		return n.Value
	}
	switch v := v.(type) {
	case int:
		return float64(v)
	case int64:
		return float64(v)
	default:
		return v
	}
}

// part is what of got a partial expectation has, so that it stays a part.
func part(want, got any) any {
	w, ok := want.(map[string]any)
	g, isMap := got.(map[string]any)
	if !ok || !isMap {
		return got
	}
	kept := make(map[string]any)
	for key, inner := range w {
		if v, ok := g[key]; ok {
			kept[key] = part(inner, v)
		}
	}
	return kept
}

// writeAll makes expectations of everything that happened.
func (r *Result) writeAll(expect *yaml.Node) {
	r.end.writeOutcomes(setMapping(expect, "outcomes"))
	outputs := &yaml.Node{Kind: yaml.MappingNode}
	seen := make(map[string]bool)
	for _, p := range r.world.plan.Flows {
		for _, out := range p.Publications {
			if !seen[out.Topic] {
				seen[out.Topic] = true
				list := &yaml.Node{Kind: yaml.SequenceNode}
				r.end.writeMessages(list, out.Topic, nil)
				set(outputs, out.Topic, list)
			}
		}
	}
	if len(outputs.Content) > 0 {
		set(expect, "outputs", outputs)
	}
	letters := &yaml.Node{Kind: yaml.SequenceNode}
	r.writeLetters(letters, r.end, nil)
	set(expect, "dead_letters", letters)
	r.end.writeRates(expect)
}

// writeRates makes expectations of the providers.
func (m *moment) writeRates(expect *yaml.Node) {
	if len(m.rates) == 0 {
		return
	}
	rates := &yaml.Node{Kind: yaml.MappingNode}
	for _, name := range slices.Sorted(maps.Keys(m.rates)) {
		state := m.rates[name]
		set(rates, name, &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle, Content: []*yaml.Node{
			str("level"), str(state.Level), str("scale"), number(state.Scale), str("effective"), number(state.Effective),
		}})
	}
	set(expect, "rates", rates)
}

// setMapping adds an empty mapping in one line under a key, and returns it.
func setMapping(n *yaml.Node, name string) *yaml.Node {
	fresh := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	set(n, name, fresh)
	return fresh
}

// writeInto replaces what the expectations say of a moment and is not so. What stands for
// another part of the file, and is so, stays an alias.
func (r *Result) writeInto(expect *yaml.Node, e *Expectation, m *moment) error {
	aliases := make(map[*yaml.Node]*yaml.Node) // by what is written in their places
	for i := 1; i < len(expect.Content); i += 2 {
		if alias := expect.Content[i]; alias.Kind == yaml.AliasNode {
			expect.Content[i] = clone(alias.Alias)
			expect.Content[i].Line, expect.Content[i].Column = alias.Line, alias.Column
			aliases[expect.Content[i]] = alias
		}
	}
	defer func() {
		for i, n := range expect.Content {
			if alias := aliases[n]; alias != nil && marshalled(clone(alias.Alias)) == marshalled(n) {
				expect.Content[i] = alias
			}
		}
	}()
	if _, n := member(expect, "outcomes"); n != nil {
		m.writeOutcomes(mapping(expect, "outcomes", n))
	}
	if _, n := member(expect, "outputs"); n != nil {
		for _, o := range e.Outputs {
			_, list := member(n, o.Stream)
			if list == nil || list.Kind != yaml.SequenceNode {
				return fmt.Errorf("its outputs of %s are not written out", o.Stream)
			}
			m.writeMessages(list, o.Stream, o.Messages)
		}
	}
	if _, n := member(expect, "dead_letters"); n != nil {
		if n.Kind != yaml.SequenceNode {
			return errors.New("its dead_letters are not written out")
		}
		r.writeLetters(n, m, e.DeadLetters)
	}
	if _, n := member(expect, "rates"); n != nil {
		for _, want := range e.Rates {
			if _, state := member(n, want.Provider); state != nil {
				writeRate(state, want, m.rates[want.Provider])
			}
		}
	}
	if _, n := member(expect, "metrics"); n != nil {
		for _, want := range e.Metrics {
			s, err := parseSelector(want.Name)
			if err != nil {
				return err
			}
			if got, err := s.sum(m.samples); err == nil && !near(got, want.Value) {
				set(n, want.Name, number(got))
			}
		}
	}
	return nil
}

// mapping makes a key that was left empty a mapping.
func mapping(parent *yaml.Node, name string, n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.MappingNode {
		return n
	}
	return setMapping(parent, name)
}

func (m *moment) writeOutcomes(n *yaml.Node) {
	for _, o := range outcomeOrder() {
		got := m.outcomes[o]
		if _, given := member(n, o.String()); given != nil || got > 0 {
			if given == nil || given.Value != strconv.Itoa(got) {
				set(n, o.String(), number(float64(got)))
			}
		}
	}
}

func (m *moment) writeMessages(list *yaml.Node, stream string, want []Message) {
	got := m.on(stream)
	for i, p := range got {
		value := decoded(p.data)
		if i >= len(list.Content) {
			fresh := &yaml.Node{Kind: yaml.MappingNode}
			if payload, ok := at(value, "/payload"); ok {
				set(fresh, "payload", yamlOf(payload))
			} else {
				set(fresh, "equals", yamlOf(value))
			}
			list.Style &^= yaml.FlowStyle
			list.Content = append(list.Content, fresh)
			continue
		}
		writeMessage(list.Content[i], &want[i], p, value)
	}
	if len(list.Content) > len(got) {
		list.Content = list.Content[:len(got)]
	}
	if len(list.Content) == 0 {
		list.Style |= yaml.FlowStyle
	}
}

// writeMessage replaces what is expected of one message and is not so, and leaves the
// rest as it is spelled.
func writeMessage(n *yaml.Node, want *Message, p publication, value any) {
	payload, _ := at(value, "/payload")
	wrong := func(expected *flows.Node, got any, partial bool) (any, bool) {
		if expected == nil {
			return nil, false
		}
		w, err := jsonOf(expected)
		return w, err == nil && len(differences("", w, got, partial)) > 0
	}
	if _, yes := wrong(want.Equals, value, false); yes {
		set(n, "equals", yamlOf(value))
	}
	if _, yes := wrong(want.Payload, payload, false); yes {
		set(n, "payload", yamlOf(payload))
	}
	if w, yes := wrong(want.Contains, value, true); yes {
		set(n, "contains", yamlOf(part(w, value)))
	}
	if _, values := member(n, "values"); values != nil {
		for _, v := range want.Values {
			got, _ := at(value, v.Pointer)
			if _, yes := wrong(v.Want, got, false); yes {
				set(values, v.Pointer, yamlOf(got))
			}
		}
	}
	if want.Text != "" && !strings.Contains(string(p.data), want.Text) {
		set(n, "text", str(string(p.data)))
	}
}

func (r *Result) writeLetters(list *yaml.Node, m *moment, want []DeadLetter) {
	got := m.letters()
	for i, p := range got {
		have := r.letter(p)
		if i >= len(list.Content) {
			fresh := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
			if have.Event != "" {
				set(fresh, "event", str(have.Event))
			}
			set(fresh, "stage", str(have.Stage))
			set(fresh, "kind", str(have.Kind))
			set(fresh, "attempts", number(float64(have.Attempts)))
			set(fresh, "reason", str(have.Reason))
			list.Style &^= yaml.FlowStyle
			list.Content = append(list.Content, fresh)
			continue
		}
		n, w := list.Content[i], want[i]
		replace := func(name, want, got string, same bool) {
			if want != "" && !same {
				set(n, name, str(got))
			}
		}
		replace("event", w.Event, have.Event, w.Event == have.Event)
		replace("flow", w.Flow, have.Flow, w.Flow == have.Flow)
		replace("stage", w.Stage, have.Stage, w.Stage == have.Stage)
		replace("kind", w.Kind, have.Kind, w.Kind == have.Kind)
		replace("reason", w.Reason, have.Reason, strings.Contains(have.Reason, w.Reason))
		if w.Attempts > 0 && w.Attempts != have.Attempts {
			set(n, router.FieldAttempts, number(float64(have.Attempts)))
		}
	}
	if len(list.Content) > len(got) {
		list.Content = list.Content[:len(got)]
	}
	if len(list.Content) == 0 {
		list.Style |= yaml.FlowStyle
	}
}

func writeRate(n *yaml.Node, want Rate, got ProviderRate) {
	if want.node.Get("scale") != nil && !near(want.Scale, got.Scale) {
		set(n, "scale", number(got.Scale))
	}
	if want.Level != "" && want.Level != got.Level {
		set(n, "level", str(got.Level))
	}
	if want.node.Get("effective") != nil && !near(want.Effective, got.Effective) {
		set(n, "effective", number(got.Effective))
	}
}
