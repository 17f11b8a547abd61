package flows

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// The limits of a file. They are far above any real configuration, and low enough that no file can make the loader
// spend noticeable time or memory.
const (
	maxFileSize = 1 << 20
	maxNodes    = 100_000
	maxDepth    = 100
)

// newTree returns the builder of a file's tree and the parser's root to build from, which is nil when there is no tree
// to speak of; why has then been reported. Needs says what an empty file lacks.
func newTree(name string, src []byte, env func(string) (string, bool), needs string, diags *Diagnostics) (*tree, *yaml.Node) {
	text := bytes.TrimPrefix(src, []byte("\uFEFF"))
	s := source{name: name, text: text, lines: 1 + bytes.Count(text, []byte("\n")), diags: diags}
	readable := s.readable()
	var document *yaml.Node
	if readable {
		document = s.parse(needs)
	}
	return &tree{source: s, env: env, built: map[*yaml.Node]*Node{}, open: map[*yaml.Node]bool{}}, document
}

// source is the text of a file.
type source struct {
	name  string
	text  []byte
	lines int
	diags *Diagnostics
	// damaged is set when something in the text was reported and replaced by the character damage, as many columns of it,
	// so that the rest can be looked at. A scalar with one in it is of no use.
	damaged bool
}

const damage = utf8.RuneError

// at makes a position. The parser puts what is missing at the end of a file one line too far.
func (s source) at(line, column int) Position {
	if line > s.lines {
		line, column = s.lines, 1+utf8.RuneCount(s.text[bytes.LastIndexByte(s.text, '\n')+1:])
	}
	return Position{File: s.name, Line: line, Column: column}
}

// readable reports what the YAML parser would refuse without saying where, or read differently from an editor, and takes
// it out of the text: the first such place of each line. It returns false for a text that is not worth going on with.
func (s *source) readable() bool {
	if len(s.text) > maxFileSize {
		s.diags.Beyondf(Position{File: s.name}, LimitExtent, "the file is larger than 1 MiB: split it")
		return false
	}
	if bytes.HasPrefix(s.text, []byte("\xFF\xFE")) || bytes.HasPrefix(s.text, []byte("\xFE\xFF")) {
		s.diags.Errorf(s.at(1, 1), "the file is in UTF-16: save it as UTF-8")
		return false
	}
	var (
		sound   bytes.Buffer // the text without what is damaged, once something is
		taken   int          // bytes of the text that are in it
		told    int          // the last line that was reported
		encoded bool         // that it is not UTF-8 was reported
	)
	line, column := 1, 1
	for i := 0; i < len(s.text); {
		r, size := utf8.DecodeRune(s.text[i:])
		wrong := true
		switch {
		case r == utf8.RuneError && size == 1:
			if !encoded {
				s.diags.Errorf(s.at(line, column), "byte 0x%02X is not valid UTF-8: save the file as UTF-8", s.text[i])
			}
			encoded = true
		case r == '\n':
			line, column, wrong = line+1, 0, false
		case r == '\r' && !bytes.HasPrefix(s.text[i+1:], []byte("\n")):
			// What the lines are is anyone's guess.
			s.diags.Beyondf(s.at(line, column), LimitSpelling, "a carriage return (U+000D) stands here without a line feed: save the "+
				"file with the line ends of Unix or of Windows")
			return false
		case r == '\t', r == '\r':
			wrong = false
		case r < ' ', r >= 0x7F && r < 0xA0, r == 0x2028, r == 0x2029, r == 0xFEFF, r == 0xFFFE, r == 0xFFFF:
			if told != line {
				s.diags.Beyondf(s.at(line, column), LimitSpelling, "%s", notAllowed(r))
			}
			told = line
		default:
			wrong = false
		}
		if wrong {
			sound.Write(s.text[taken:i])
			sound.WriteRune(damage)
			taken = i + size
		}
		i += size
		column++
	}
	if taken > 0 {
		sound.Write(s.text[taken:])
		s.text, s.damaged = sound.Bytes(), true
	}
	return true
}

// notAllowed says what to do about a character that is not to be seen in an editor.
func notAllowed(r rune) string {
	if r == 0xFEFF {
		return "a byte order mark (U+FEFF) stands here, in the midst of the file: remove it"
	}
	return fmt.Sprintf("the control character %U is not allowed: remove it, or write an escape in double quotes", r)
}

// parse returns the root node of the only document.
func (s *source) parse(needs string) *yaml.Node {
	first, second, err := decodeYAML(s.text)
	for range maxAliases {
		if err == nil || !s.removeAlias(err) {
			break
		}
		first, second, err = decodeYAML(s.text)
	}
	switch {
	case err != nil:
		s.syntaxError(err)
		return nil
	case first == nil:
		s.diags.Errorf(Position{File: s.name}, "the file is empty: it needs at least %s", needs)
		return nil
	case second != nil:
		s.diags.Errorf(s.at(second.Line, second.Column), "a second document starts here, and a file holds only one: remove the ---, or move it to a file of its own")
		return joined(first.Content[0], second.Content[0])
	}
	return first.Content[0]
}

// joined returns the first of two documents, together with the second where that seems to be the rest of it: where it has
// other keys.
func joined(first, second *yaml.Node) *yaml.Node {
	if first.Kind == yaml.ScalarNode && first.ShortTag() == "!!null" {
		return second
	}
	if first.Kind != yaml.MappingNode || second.Kind != yaml.MappingNode {
		return first
	}
	for i := 0; i < len(first.Content); i += 2 {
		for k := 0; k < len(second.Content); k += 2 {
			if first.Content[i].Value == second.Content[k].Value {
				return first
			}
		}
	}
	first.Content = append(first.Content, second.Content...)
	return first
}

// decodeYAML returns the first two documents of a text, nil where there is none. The error is the parser's own, since
// syntaxError takes its text apart.
func decodeYAML(src []byte) (first, second *yaml.Node, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(src))
	for _, document := range []**yaml.Node{&first, &second} {
		var n yaml.Node
		switch err := decoder.Decode(&n); {
		case errors.Is(err, io.EOF):
			return first, second, nil
		case err != nil:
			return nil, nil, err
		}
		*document = &n
	}
	return first, second, nil
}

// tree builds nodes from the parser's.
type tree struct {
	source
	env    func(string) (string, bool)
	built  map[*yaml.Node]*Node // what an alias may stand for
	open   map[*yaml.Node]bool  // what is being built, and so contains the alias that is being looked at
	nodes  int                  // built so far, counting each alias as all that it stands for
	values int                  // bytes that variables brought in
	full   bool                 // a limit was hit, and reported
	raw    bool                 // variables are not replaced in what is being built
	cursor cursor               // the last place that was looked up
}

func (t *tree) position(y *yaml.Node) Position { return t.at(y.Line, y.Column) }

// refuse reports a fault and returns a node that nobody will complain about again.
func (t *tree) refuse(y *yaml.Node, format string, args ...any) *Node {
	return t.refuseBeyond(y, "", format, args...)
}

// refuseBeyond is refuse about what a JSON Schema cannot say.
func (t *tree) refuseBeyond(y *yaml.Node, limit Limit, format string, args ...any) *Node {
	t.diags.Beyondf(t.position(y), limit, format, args...)
	return &Node{pos: t.position(y)}
}

func (t *tree) build(y *yaml.Node, depth int) *Node {
	if t.full {
		return &Node{pos: t.position(y)}
	}
	if depth > maxDepth {
		t.full = true
		return t.refuseBeyond(y, LimitExtent, "nested more than %d deep: remove levels", maxDepth)
	}
	if y.Kind == yaml.AliasNode {
		return t.alias(y, depth)
	}
	t.nodes++
	if t.nodes > maxNodes {
		t.full = true
		return t.refuseBeyond(y, LimitExtent, "the file holds more than %d values: split it", maxNodes)
	}
	t.open[y] = true
	n := t.content(y, depth)
	delete(t.open, y)
	if y.Anchor != "" {
		t.built[y] = n
	}
	return n
}

// alias puts the anchor's node in the place of an alias. The node is shared, not copied; its size counts again.
func (t *tree) alias(y *yaml.Node, depth int) *Node {
	if t.open[y.Alias] {
		return t.refuse(y, "alias *%s is part of what it stands for: write out what is meant", shorten(y.Value))
	}
	n, ok := t.built[y.Alias]
	if !ok {
		return &Node{pos: t.position(y)}
	}
	t.nodes += n.size
	if t.nodes > maxNodes || depth+n.height-1 > maxDepth {
		t.full = true
		return t.refuseBeyond(y, LimitExtent,
			"alias *%s makes the file too large: the limit is %d values, nested at most %d deep: use fewer aliases",
			shorten(y.Value), maxNodes, maxDepth)
	}
	return n
}

func (t *tree) content(y *yaml.Node, depth int) *Node {
	if y.Style&yaml.TaggedStyle != 0 {
		refused := t.refuseBeyond(y, LimitSpelling, "tag %s is not supported: write the value without a tag", shorten(y.Tag))
		if y.Kind == yaml.ScalarNode {
			return refused
		}
	}
	n := &Node{pos: t.position(y), size: 1, height: 1}
	switch y.Kind {
	case yaml.ScalarNode:
		t.scalar(n, y)
	case yaml.SequenceNode:
		n.shape = listNode
		for _, item := range y.Content {
			n.items = append(n.items, t.child(n, item, depth))
		}
	case yaml.MappingNode:
		n.shape = mappingNode
		t.mapping(n, y, depth)
	}
	return n
}

func (t *tree) child(parent *Node, y *yaml.Node, depth int) *Node {
	n := t.build(y, depth+1)
	parent.size += n.size
	parent.height = max(parent.height, n.height+1)
	return n
}

func (t *tree) scalar(n *Node, y *yaml.Node) {
	n.shape, n.tag = scalarNode, y.ShortTag()
	n.quoted = y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	n.text = y.Value
	if t.damaged && strings.ContainsRune(n.text, damage) {
		n.shape = unusable
		return
	}
	n.origin = &origin{source: &t.source, style: y.Style, value: y.Value}
	t.interpolate(n)
}

// interpolate replaces the variables of a scalar, and reports a fault at the variable's own place.
func (t *tree) interpolate(n *Node) {
	if t.raw {
		return
	}
	result := interpolate(n.text, t.env)
	for _, v := range result.vars {
		if t.values += len(v.value); t.values > maxFileSize && result.fault == "" {
			result.fault, result.limit = "the variables of the file bring in more than 1 MiB: shorten their values", LimitVariable
		}
	}
	if result.fault != "" {
		t.diags.Beyondf(t.variablePosition(n.pos, result.part), result.limit, "%s", result.fault)
		n.shape = unusable
		return
	}
	n.text, n.vars = result.text, result.vars
	if n.origin != nil {
		n.origin.spans = result.spans
	}
}

// variablePosition returns the place of the nth "${" of a scalar. Escapes can make the scalar's text differ from the
// file's; where the file has no such "${", the scalar's own place is returned.
func (t *tree) variablePosition(scalar Position, n int) Position {
	t.cursor.seek(t.text, scalar.Line, scalar.Column)
	c := t.cursor
	for ; ; n-- {
		i := bytes.Index(t.text[c.offset:], []byte("${"))
		if i < 0 {
			return scalar
		}
		c.advance(t.text, i)
		if n == 0 {
			return t.at(c.line, c.column)
		}
		c.advance(t.text, len("${"))
	}
}

// cursor is a place in a text, as an offset and as an editor counts. Its zero value is the start.
type cursor struct{ offset, line, column int }

// seek moves to a line and column, or to the end of the text. Places are mostly asked for in the order of the file, so
// that going on from the last one keeps the whole linear.
func (c *cursor) seek(text []byte, line, column int) {
	if c.line == 0 || c.line > line || c.line == line && c.column > column {
		*c = cursor{line: 1, column: 1}
	}
	for c.offset < len(text) && (c.line < line || c.line == line && c.column < column) {
		_, size := utf8.DecodeRune(text[c.offset:])
		c.advance(text, size)
	}
}

// advance moves over n bytes, which must be whole characters.
func (c *cursor) advance(text []byte, n int) {
	for _, r := range string(text[c.offset : c.offset+n]) {
		c.column++
		if r == '\n' {
			c.line, c.column = c.line+1, 1
		}
	}
	c.offset += n
}

func (t *tree) mapping(n *Node, y *yaml.Node, depth int) {
	var merges []*Node
	mergeKeys := 0
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.ShortTag() == "!!merge" {
			if mergeKeys++; mergeKeys > 1 {
				t.refuse(k, `"<<" may be given only once in a mapping: list the mappings as in <<: [*a, *b]`)
			}
			merged := t.child(n, v, depth)
			t.mergedTwice(v, merged)
			merges = append(merges, t.merge(merged)...)
			continue
		}
		key := t.key(n, k)
		outer := t.raw
		t.raw = outer || depth == 1 && key != nil && key.text == keyTests
		value := t.child(n, v, depth)
		t.raw = outer
		if key != nil {
			n.pairs = append(n.pairs, pair{key: key, value: value})
		}
	}
	if len(merges) == 0 {
		return
	}
	given := make(map[string]bool, len(n.pairs))
	for _, p := range n.pairs {
		given[p.key.text] = true
	}
	for _, m := range merges {
		for _, p := range m.pairs {
			if !given[p.key.text] {
				given[p.key.text] = true
				n.pairs = append(n.pairs, p)
			}
		}
	}
}

// merge returns the mappings that a merge key brings in, the most important first.
func (t *tree) merge(n *Node) []*Node {
	mappings := []*Node{n}
	if n.shape == listNode {
		mappings = n.items
	}
	for _, m := range mappings {
		if m.shape != mappingNode && m.shape != unusable {
			t.diags.Errorf(m.pos, `"<<" needs a mapping or a list of mappings, found %s`, m.describeType())
		}
	}
	return mappings
}

// mergedTwice reports repeated keys of the mappings that stand under a merge key themselves. One that an alias stands
// for is looked at in its own place.
func (t *tree) mergedTwice(y *yaml.Node, n *Node) {
	switch {
	case y.Kind == yaml.MappingNode && n.shape == mappingNode:
		decoding{diags: t.diags}.repeated(n.pairs, "key")
	case y.Kind == yaml.SequenceNode && n.shape == listNode:
		for i, item := range n.items {
			if y.Content[i].Kind == yaml.MappingNode {
				t.mergedTwice(y.Content[i], item)
			}
		}
	}
}

// key builds a mapping's key. Variables in it are left alone: only the free names of a map may have them.
func (t *tree) key(parent *Node, y *yaml.Node) *Node {
	target := y
	if y.Kind == yaml.AliasNode {
		target = y.Alias
	}
	switch {
	case target.Kind != yaml.ScalarNode:
		t.refuse(y, "a key must be a plain name, and not %s: write a word before the colon", kindOf(target))
		return nil
	case target.Style&yaml.TaggedStyle != 0:
		t.refuseBeyond(y, LimitSpelling, "a key must be a plain name, without a tag")
	case t.damaged && strings.ContainsRune(target.Value, damage):
		return nil
	}
	parent.size++
	t.nodes++
	n := &Node{pos: t.position(y), shape: scalarNode, text: target.Value, tag: "!!str", size: 1, height: 1}
	if y.Anchor != "" {
		t.built[y] = n
	}
	return n
}

func kindOf(y *yaml.Node) string {
	if y.Kind == yaml.SequenceNode {
		return "a list"
	}
	return "a mapping"
}
