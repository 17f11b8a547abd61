package flows

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// origin is how a scalar stands in the file. Places within its text are found from it, when someone asks.
type origin struct {
	source *source
	style  yaml.Style
	value  string // before variables were replaced
	spans  []span
}

// span is a part of a scalar's value that stands for another text after interpolation. Offsets are in bytes.
type span struct{ from, fromLength, to, toLength int }

// At returns the place in the file of a character of the node's text, counted from 0. Quotes, escapes, and the folded
// and indented lines of block scalars are accounted for. A character that a variable brought in is placed at the
// variable, one beyond the end just behind the last, and for anything but a scalar the node's own place is returned.
func (n *Node) At(character int) Position {
	if n == nil || n.origin == nil || n.shape != scalarNode {
		return n.Pos()
	}
	offset := 0
	for range max(character, 0) {
		if offset == len(n.text) {
			break
		}
		_, size := utf8.DecodeRuneInString(n.text[offset:])
		offset += size
	}
	return n.origin.at(n.pos, n.origin.before(offset))
}

// before turns an offset in the text after interpolation into one in the value before it.
func (o *origin) before(offset int) int {
	shift := 0
	for _, s := range o.spans {
		switch {
		case offset < s.to:
			return offset + shift
		case offset < s.to+s.toLength:
			return s.from
		}
		shift = s.from + s.fromLength - (s.to + s.toLength)
	}
	return offset + shift
}

// at returns the place of the byte at an offset of the value, of a scalar that starts at pos. The value and the file are
// read side by side: what YAML drops or folds is white space, so all other characters come in the same order in both.
func (o *origin) at(pos Position, offset int) Position {
	var c cursor
	text := o.source.text
	c.seek(text, pos.Line, pos.Column)
	o.open(text, &c)
	for i, want := range o.value {
		if i >= offset {
			break
		}
		o.over(text, &c, want)
	}
	if offset < len(o.value) {
		want, _ := utf8.DecodeRuneInString(o.value[offset:])
		o.approach(text, &c, want)
	}
	return o.source.at(c.line, c.column)
}

// open moves from the start of the scalar's node to its content.
func (o *origin) open(text []byte, c *cursor) {
	// A scalar of any style starts behind its anchor and its tag.
	for c.offset < len(text) && (text[c.offset] == '&' || text[c.offset] == '!') {
		anchor := text[c.offset] == '&'
		c.advance(text, 1)
		for c.offset < len(text) && (anchor && isAnchor(text[c.offset]) || !anchor && !isBlank(text[c.offset])) {
			_, size := utf8.DecodeRune(text[c.offset:])
			c.advance(text, size)
		}
		o.skipBlank(text, c)
	}
	switch {
	case o.quoted():
		c.advance(text, min(1, len(text)-c.offset))
	case o.block():
		end := bytes.IndexByte(text[c.offset:], '\n')
		if end < 0 {
			end = len(text) - c.offset - 1
		}
		c.advance(text, end+1)
	}
}

func (o *origin) quoted() bool { return o.style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 }
func (o *origin) block() bool  { return o.style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 }

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// isAnchor reports whether the parser takes c for a part of an anchor's name.
func isAnchor(c byte) bool {
	return c == '_' || c == '-' || c-'0' <= 9 || (c|0x20)-'a' < 26
}

func (o *origin) skipBlank(text []byte, c *cursor) {
	for c.offset < len(text) && isBlank(text[c.offset]) {
		c.advance(text, 1)
	}
}

// approach moves over what stands in the file only, up to the character want.
func (o *origin) approach(text []byte, c *cursor, want rune) {
	if want == ' ' || want == '\t' || want == '\n' {
		// The indentation of a block is dropped, its other blanks are kept.
		if o.block() && want == ' ' && c.column == 1 {
			o.skipBlank(text, c)
		}
		return
	}
	o.skipBlank(text, c)
	for o.style&yaml.DoubleQuotedStyle != 0 && bytes.HasPrefix(text[c.offset:], []byte("\\\n")) {
		c.advance(text, 1) // a line that goes on
		o.skipBlank(text, c)
	}
}

// over moves over one character of the value.
func (o *origin) over(text []byte, c *cursor, want rune) {
	o.approach(text, c, want)
	rest := text[c.offset:]
	if len(rest) == 0 {
		return
	}
	switch {
	case o.style&yaml.DoubleQuotedStyle != 0 && rest[0] == '\\':
		c.advance(text, escapeLength(rest))
	case o.style&yaml.SingleQuotedStyle != 0 && want == '\'':
		c.advance(text, min(2, len(rest)))
	case want == '\n' || want == ' ' || want == '\t':
		// A fold: the blanks before what follows are skipped with it.
		if isBlank(rest[0]) {
			c.advance(text, 1)
		}
	default:
		_, size := utf8.DecodeRune(rest)
		c.advance(text, size)
	}
}

// escapeLength is the length, in bytes, of the escape that text starts with.
func escapeLength(text []byte) int {
	if len(text) < 2 {
		return len(text)
	}
	var length int
	switch text[1] {
	case 'x':
		length = 4
	case 'u':
		length = 6
	case 'U':
		length = 10
	default:
		_, size := utf8.DecodeRune(text[1:])
		length = 1 + size
	}
	return min(length, len(text))
}

// Key returns the node of a mapping's key, or nil.
func (n *Node) Key(key string) *Node {
	if n == nil {
		return nil
	}
	for _, p := range n.pairs {
		if p.key.text == key {
			return p.key
		}
	}
	return nil
}

// Item returns an item of a list, counted from 0, or nil.
func (n *Node) Item(i int) *Node {
	if n == nil || i < 0 || i >= len(n.items) {
		return nil
	}
	return n.items[i]
}

// Origin words which variables the node's text was made from, as diagnostics do: `LEVEL="x" makes "level == x"`. It is
// empty when there are none.
func (n *Node) Origin() string {
	if n == nil || len(n.vars) == 0 {
		return ""
	}
	return strings.TrimSuffix(n.complaint("", false), ": ")
}
