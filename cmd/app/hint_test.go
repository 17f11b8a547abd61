package app

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// sayWhatToDo are the forms of advice: a rule that the value must keep, the names that
// there are, or a thing to do.
var sayWhatToDo = []*regexp.Regexp{
	regexp.MustCompile(`\b(must|needs|needs?) `),
	regexp.MustCompile(`\bexpected (a|an|true|list|"name|',')`),
	regexp.MustCompile(`\(did you mean "[^"]+"\?\)|; (fields|known): \w`),
	regexp.MustCompile(`\bmissing required field "\w+"`),
	regexp.MustCompile(`[:;,] (or )?(add|allow|check|give|indent|let|list|lower|make|move|name|put|quote|remove|rename|run|save|set|shorten|split|use|write)\b`),
	regexp.MustCompile(`: paths start at `),
}

// Every text of the corpora of faults says what to do about the fault.
func TestDiagnosticsSayWhatToDo(t *testing.T) {
	lines := 0
	for _, dir := range []string{"flows", "router"} {
		goldens, err := filepath.Glob(filepath.Join("..", "..", dir, "testdata", "*.*.golden"))
		if err != nil || len(goldens) < 40 {
			t.Fatalf("%s: %d files: %v", dir, len(goldens), err)
		}
		for _, path := range goldens {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				lines++
				said := false
				for _, form := range sayWhatToDo {
					said = said || form.MatchString(line)
				}
				if !said {
					t.Errorf("%s does not say what to do: %s", filepath.Base(path), line)
				}
			}
		}
	}
	if lines < 180 {
		t.Errorf("only %d diagnostics", lines)
	}
}
