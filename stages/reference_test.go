package stages

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
)

// The text for a terminal says what the page says: each word of the summary, the doc
// and the keys, in lines that fit.
func TestText(t *testing.T) {
	const width = 60
	for _, k := range Builtin().Kinds() {
		text := k.Text(width)
		flat := strings.Join(strings.Fields(text), " ")
		want := append([]string{k.Summary}, strings.Split(plainText(k.Doc), "\n\n")...)
		var collect func(fields flows.Fields, prefix string)
		collect = func(fields flows.Fields, prefix string) {
			for _, f := range fields {
				want = append(want, prefix+f.Name+" (", plainText(f.Doc))
				collect(f.Fields, prefix+f.Name+".")
			}
		}
		collect(k.New().Fields(), "")
		for _, part := range want {
			if part = strings.Join(strings.Fields(part), " "); !strings.Contains(flat, part) {
				t.Errorf("%s: lacks %q", k.Name, part)
			}
		}
		prose, _, _ := strings.Cut(text, "Example:")
		for line := range strings.Lines(prose) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width && strings.Contains(line, " ") &&
				!strings.HasPrefix(line, k.Name+": ") {
				t.Errorf("%s: %d characters in %q", k.Name, n, line)
			}
		}
	}
}

func TestWrap(t *testing.T) {
	got := wrap("one two\nthree averyveryverylongword é é", "  ", 10)
	if diff := cmp.Diff("  one two\n  three\n  averyveryverylongword\n  é é", got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
