package app

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// maxSource is the size above which no excerpt of a file is shown, in bytes: what
// the loader accepts, and a byte order mark.
const maxSource = 1<<20 + 3

// sources are the texts that diagnostics speak of, by file, one line an item. A file
// is read when it is first asked for; one that cannot be read has no lines.
type sources map[string][]string

// line returns a line of a file, counted from 1, and whether there is such a line.
func (s sources) line(file string, n int) (string, bool) {
	lines, ok := s[file]
	if !ok {
		lines = readLines(file)
		s[file] = lines
	}
	if n < 1 || n > len(lines) {
		return "", false
	}
	return lines[n-1], true
}

// keep remembers the text of a file that was loaded, which one cannot read again from a
// pipe.
func (s sources) keep(file *flows.File) { s[file.Path] = linesOf(file.Text()) }

// linesOf are the lines of a text that is worth showing.
func linesOf(src []byte) []string {
	if len(src) > maxSource || !utf8.Valid(src) {
		return nil
	}
	return splitLines(src)
}

// readLines looks at regular files only: reading a pipe again would wait for ever.
func readLines(file string) []string {
	if builtIn, _ := flows.BuiltIn(nil); file == builtIn.Path {
		return splitLines(flows.DefaultSource())
	}
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxSource {
		return nil
	}
	src, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return linesOf(src)
}

func splitLines(src []byte) []string {
	return strings.Split(string(bytes.TrimPrefix(src, []byte("\uFEFF"))), "\n")
}

// style is how diagnostics are shown to a person.
type style struct {
	// excerpt adds the line of the file, a caret under the column, and the related
	// places.
	excerpt bool
	// stages are those whose secret keys are not shown.
	stages *stages.Registry
	// colour uses the escape sequences of a terminal.
	colour bool
}

// style is how diagnostics are shown on standard error.
func (sys system) style() style {
	look := styleOf(sys.stderr, sys.lookupEnv)
	look.stages = sys.stages
	return look
}

// styleOf suits the style to where w leads: plain lines for a file or a pipe; an
// excerpt on a terminal, in colour unless NO_COLOR is set or TERM is dumb.
func styleOf(w io.Writer, lookupEnv func(string) (string, bool)) style {
	f, ok := w.(*os.File)
	if !ok {
		return style{}
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return style{}
	}
	noColour, _ := lookupEnv("NO_COLOR")
	term, _ := lookupEnv("TERM")
	return style{excerpt: true, colour: noColour == "" && term != "dumb"}
}

// The escape sequences of a terminal.
const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	blue   = "\x1b[34m"
	bold   = "\x1b[1m"
	reset  = "\x1b[0m"
)

func (s style) paint(text, colour string) string {
	if !s.colour || text == "" {
		return text
	}
	return colour + text + reset
}

// print shows one diagnostic: its line, and with excerpts what stands there and at
// the related places.
func (s style) print(w io.Writer, d flows.Diagnostic, src sources) {
	colour := red
	if d.Severity == flows.Warning {
		colour = yellow
	}
	place, rest := d.Pos.String(), d.String()
	if place != "" {
		rest = strings.TrimPrefix(rest, place+": ")
		place = s.paint(harmless(place)+":", bold) + " "
	}
	rest = harmless(rest)
	if word, after, ok := strings.Cut(rest, "warning: "); ok && word == "" && d.Severity == flows.Warning {
		rest = s.paint("warning:", yellow) + " " + after
	}
	fmt.Fprintf(w, "%s%s\n", place, rest)
	if !s.excerpt {
		return
	}
	s.quote(w, d.Pos, colour, src)
	for _, r := range d.Related {
		fmt.Fprintf(w, "  %s %s: %s\n", s.paint("note:", blue), harmless(r.Pos.String()), harmless(r.Message))
		s.quote(w, r.Pos, blue, src)
	}
}

// excerptWidth is how many characters of a line an excerpt shows at most.
const excerptWidth = 100

// quote shows the line of a position with a caret under its column. It shows nothing
// when there is no such line, or when the line may hold a secret.
func (s style) quote(w io.Writer, pos flows.Position, colour string, src sources) {
	text, ok := src.line(pos.File, pos.Line)
	if !ok || pos.Column < 1 || src.secret(pos.File, pos.Line, secretKeys(s.stages)) {
		return
	}
	line := []rune(strings.TrimRight(text, "\r"))
	column := min(pos.Column-1, len(line))
	before, after := "", ""
	if len(line) > excerptWidth {
		start := max(0, min(column-excerptWidth/2, len(line)-excerptWidth))
		if start > 0 {
			before = "…"
		}
		if start+excerptWidth < len(line) {
			after = "…"
		}
		line, column = line[start:start+excerptWidth], column-start
	}
	number := fmt.Sprintf("%6d", pos.Line)
	fmt.Fprintf(w, "%s | %s%s%s\n", number, before, printable(line), after)
	fmt.Fprintf(w, "%6s | %s%s\n", "", strings.Repeat(" ", column+len([]rune(before))), s.paint("^", colour))
}

// printable keeps each character one column wide, and a file's control characters
// from the terminal.
func printable(line []rune) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return utf8.RuneError
		}
		return r
	}, string(line))
}

var (
	keyInLine   = regexp.MustCompile(`([A-Za-z0-9_.-]+)["']?\s*:(?:\s|$)`)
	credentials = regexp.MustCompile(`://[^\s]*@`)
	secretWord  = regexp.MustCompile(`(?i)token|secret|passw|pwd|credential|auth|api.?key`)
)

// secret reports whether a line may hold a secret: the value of a secret key or of
// one spelled nearly so, also when the key ends the line above, or a URL with a
// password.
func (s sources) secret(file string, n int, keys []string) bool {
	text, _ := s.line(file, n)
	if credentials.MatchString(text) || namesSecret(text, keys) {
		return true
	}
	for n--; ; n-- {
		above, ok := s.line(file, n)
		above = strings.TrimSpace(above)
		switch {
		case !ok:
			return false
		case above == "" || above[0] == '#':
			continue
		}
		return namesSecret(above, keys)
	}
}

func namesSecret(text string, keys []string) bool {
	for _, m := range keyInLine.FindAllStringSubmatch(text, -1) {
		if secretWord.MatchString(m[1]) || flows.Nearest(m[1], keys) != "" {
			return true
		}
	}
	return false
}

// secretKeys are the names of the keys that are declared secret.
func secretKeys(reg *stages.Registry) []string {
	var names []string
	var collect func(flows.Fields)
	collect = func(fields flows.Fields) {
		for _, f := range fields {
			if f.Secret && !slices.Contains(names, f.Name) {
				names = append(names, f.Name)
			}
			collect(f.Fields)
		}
	}
	collect(flows.Reference())
	if reg != nil {
		for _, k := range reg.Kinds() {
			collect(k.New().Fields())
		}
	}
	return names
}
