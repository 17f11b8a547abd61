package flows

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The YAML parser's errors have no column, and a line that is often that of the enclosing mapping or is off by one.
// What follows finds the place by itself: it is where the text can be cut off and still has the same error.

// maxSearch is the size of the largest text that is parsed again and again to find the place of an error.
const maxSearch = 64 << 10

var parserError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)

// takeApart returns the line and the problem that an error of the parser names.
func takeApart(err error) (line int, problem string) {
	line, problem = 1, err.Error()
	if m := parserError.FindStringSubmatch(problem); m != nil {
		problem = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	return line, problem
}

// syntaxError reports what the YAML parser could not read.
func (s *source) syntaxError(err error) {
	line, problem := takeApart(err)
	if len(s.text) > maxSearch {
		s.diags.Errorf(s.at(min(line, s.lines), 1), "not valid YAML, near this line: %s", problem)
		return
	}
	start, end := s.locate(err.Error())
	at := cursor{line: 1, column: 1}
	at.advance(s.text, start)
	row, _, _ := strings.Cut(string(s.text[start:]), "\n")
	offset, message := explain(problem, row, end-start)
	at.advance(s.text, offset)
	s.diags.Errorf(s.at(at.line, at.column), "not valid YAML: %s", message)
}

// locate returns the offset of the line that an error is in, and that of the character after which nothing matters to
// it any more.
func (s *source) locate(message string) (line, end int) {
	same := func(length int) bool {
		_, _, err := decodeYAML(s.text[:length])
		return err != nil && err.Error() == message
	}
	ends := []int{} // of each line
	for i, c := range s.text {
		if c == '\n' || i == len(s.text)-1 {
			ends = append(ends, i+1)
		}
	}
	row := sort.Search(len(ends)-1, func(i int) bool { return same(ends[i]) })
	if row > 0 {
		line = ends[row-1]
	}
	starts := []int{} // of each character of the line
	for i := line; i < ends[row]; {
		starts = append(starts, i)
		_, size := utf8.DecodeRune(s.text[i:])
		i += size
	}
	last := sort.Search(len(starts)-1, func(i int) bool { return same(starts[i+1]) })
	return line, starts[last]
}

// maxAliases is the number of aliases for which there is no anchor that are reported in one run.
const maxAliases = 20

// removeAlias reports an alias that stands for nothing and takes it out of the text. It returns false for any other error
// of the parser, and where the place cannot be told.
func (s *source) removeAlias(err error) bool {
	_, problem := takeApart(err)
	m := alias.FindStringSubmatch(problem)
	if m == nil {
		return false
	}
	name := "*" + m[1]
	offset := -1
	if len(s.text) > maxSearch {
		// Where it could first be; a text or a comment that looks like one is a risk to take.
		if at := regexp.MustCompile(`(?m)(?:^|[\s\[{,])(\*` + regexp.QuoteMeta(m[1]) + `)(?:[\s\]},]|$)`).FindSubmatchIndex(s.text); at != nil {
			offset = at[2]
		}
	} else {
		// The parser notices at the alias's last character, or just behind it.
		line, end := s.locate(err.Error())
		if at := bytes.LastIndex(s.text[line:min(end+1, len(s.text))], []byte(name)); at >= 0 {
			offset = line + at
		}
	}
	if offset < 0 {
		return false
	}
	at := cursor{line: 1, column: 1}
	at.advance(s.text, offset)
	s.diags.Errorf(s.at(at.line, at.column), "not valid YAML: %s stands for nothing: no anchor &%s comes before it: write out what is "+
		"meant, or put it in quotes", shorten(name), shorten(m[1]))
	s.text = slices.Concat(s.text[:offset], []byte(strings.Repeat(string(damage), len(name))), s.text[offset+len(name):])
	s.damaged = true
	return true
}

var alias = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)

// explain words a problem for someone who does not know the parser, and returns which byte of the row to point at. The
// end is the byte at which the parser noticed.
func explain(problem, row string, end int) (offset int, message string) {
	end = min(end, len(row))
	start := len(row) - len(strings.TrimLeft(row, " \t"))
	if tab := strings.IndexByte(row[:start], '\t'); tab >= 0 {
		return tab, "a tab indents this line: use spaces"
	}
	noticed := row[:min(end+1, len(row))]
	switch problem {
	case "mapping values are not allowed in this context":
		if strings.Contains(row[:end], ": ") {
			return end, `a ":" cannot be here: a value that holds ": " needs quotes`
		}
		return end, `a ":" cannot be here: the indentation is off, or a line above lacks the space after its ":"`
	case "found character that cannot start any token":
		at := max(strings.LastIndexAny(noticed, "@`%\t"), start)
		first, _ := utf8.DecodeRuneInString(row[at:])
		return at, fmt.Sprintf("a value that starts with %q needs quotes", first)
	case "did not find expected ',' or '}'", "did not find expected ',' or ']'":
		if i := strings.Index(row, "${"); i >= 0 {
			return i, "a ${...} inside { } or [ ] needs quotes"
		}
		return start, strings.TrimPrefix(problem, "did not find ") + ": what this line opens or continues is not closed"
	case "could not find expected ':'":
		return start, `expected "name: value"`
	case "did not find expected key", "did not find expected '-' indicator":
		if strings.HasPrefix(row[end:], ":") {
			end = start
		}
		return end, "this does not belong here: check the indentation, quotes and brackets"
	case "did not find expected alphabetic or numeric character":
		return max(strings.LastIndexAny(noticed, "*&"), start), "a value that starts with * or & needs quotes"
	case "did not find expected node content":
		return end, "expected a value"
	case "found unexpected end of stream":
		return end, "the quotes that open here are never closed: add the closing one"
	case "found unknown escape character":
		return end, `in double quotes, \ starts an escape, and YAML has no such one: write \\ for a plain \, or use single quotes`
	}
	return end, problem
}
