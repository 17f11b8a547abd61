package flowtest

import (
	"bytes"
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
// happened, and how many of them were changed. Only the blocks checks and expect of such a test
// are written anew, with their comments, and the outcome of an event in its place; all
// other lines stay as they are. A test that could not run to its end, or that expects
// nothing false, stays. The error says why a test cannot be rewritten.
func Update(src []byte, results []*Result) (text []byte, changed int, err error) {
	var document yaml.Node
	if err := yaml.Unmarshal(src, &document); err != nil {
		return nil, 0, err
	}
	if len(document.Content) == 0 {
		return src, 0, nil
	}
	e := editor{lines: strings.Split(string(src), "\n"), root: document.Content[0]}
	// From the end, so that the places of what comes before stay right.
	for _, r := range slices.Backward(results) {
		empty := r.unfinished()
		if r.Err != nil || len(r.Differences) == 0 && !empty {
			continue
		}
		if err := e.rewrite(r); err != nil {
			return nil, 0, fmt.Errorf("test %q cannot be updated: %w", r.Test.Name, err)
		}
		changed++
	}
	return []byte(strings.Join(e.lines, "\n")), changed, nil
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

// editor changes a file line by line.
type editor struct {
	lines []string
	root  *yaml.Node
}

func (e *editor) rewrite(r *Result) error {
	test := nodeAt(e.root, r.Test.node.Pos())
	if test == nil || test.Kind != yaml.MappingNode {
		return errors.New("it is not where it was read")
	}
	if test.Style&yaml.FlowStyle != 0 {
		return errors.New("write it over several lines, not in { }")
	}
	for i := range r.Test.Events {
		if err := e.outcome(r, &r.Test.Events[i]); err != nil {
			return err
		}
	}
	// What stands further down first, so that the lines of the other stay right.
	parts := []string{"checks", "expect"}
	if a, _ := member(test, "checks"); a != nil {
		if b, _ := member(test, "expect"); b == nil || a.Line > b.Line {
			parts = []string{"expect", "checks"}
		}
	}
	for _, name := range slices.Backward(parts) {
		if err := e.part(r, test, name); err != nil {
			return err
		}
	}
	return nil
}

// part writes the block checks or expect of a test anew, where something in it is not
// so.
func (e *editor) part(r *Result, test *yaml.Node, name string) error {
	key, block := member(test, name)
	if block != nil && block.Kind == yaml.AliasNode {
		return fmt.Errorf("its %s stands for that of another test", name)
	}
	before, err := yaml.Marshal(block)
	if err != nil {
		return err
	}
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
	after, err := yaml.Marshal(block)
	if err != nil || bytes.Equal(before, after) {
		return err
	}
	return e.splice(test, key, block, name)
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
	line := []rune(e.lines[pos.Line-1])
	rest := string(line[pos.Column-1:])
	if !strings.HasPrefix(strings.TrimLeft(rest, `"'`), i.Outcome) {
		return fmt.Errorf("the outcome at %s is not written out", pos)
	}
	e.lines[pos.Line-1] = string(line[:pos.Column-1]) + strings.Replace(rest, i.Outcome, got, 1)
	return nil
}

// splice puts the block of a key into the lines of its test. Without a key it is added
// at the end.
func (e *editor) splice(test, key, expect *yaml.Node, name string) error {
	column := test.Content[0].Column
	first := 0 // line of the key, counted from 1
	if key != nil {
		first, column = key.Line, key.Column
		key.HeadComment, key.FootComment = "", ""
	} else {
		key = &yaml.Node{Kind: yaml.ScalarNode, Value: name}
	}
	end := e.lastLine(test, key, first)
	if first == 0 {
		first = end + 1
	}
	dropFootComments(expect)
	var b bytes.Buffer
	encoder := yaml.NewEncoder(&b)
	encoder.SetIndent(2)
	if err := encoder.Encode(&yaml.Node{Kind: yaml.MappingNode, Content: []*yaml.Node{key, expect}}); err != nil {
		return err
	}
	indent := strings.Repeat(" ", column-1)
	block := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := range block {
		if block[i] != "" {
			block[i] = indent + block[i]
		}
	}
	if first <= end { // what stands before the key, such as the hyphen of the list, stays
		block[0] = string([]rune(e.lines[first-1])[:column-1]) + strings.TrimPrefix(block[0], indent)
	}
	e.lines = slices.Replace(e.lines, first-1, end, block...)
	return nil
}

// lastLine is the last line of the block of key, or of the test when it has none.
func (e *editor) lastLine(test, key *yaml.Node, first int) int {
	from := first
	if first == 0 {
		from = test.Line
	}
	next := len(e.lines) + 1
	var look func(n *yaml.Node, inside bool)
	look = func(n *yaml.Node, inside bool) {
		for i, child := range n.Content {
			within := inside || n == test && first == 0 || n == test && i > 0 && n.Content[i-1] == key
			if !within && child.Line > from && child.Line < next {
				next = child.Line
			}
			look(child, within)
		}
	}
	look(e.root, false)
	for next > from+1 {
		if line := strings.TrimSpace(e.lines[next-2]); line != "" && line[0] != '#' {
			break
		}
		next--
	}
	return next - 1
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

// writeInto replaces what the expectations say of a moment and is not so.
func (r *Result) writeInto(expect *yaml.Node, e *Expectation, m *moment) error {
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
