package stages

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docs/delivery.md lists every kind of error.
func TestDocumentedErrorKinds(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "delivery.md"))
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile("(?s)`error_kind` is one of (.*?)\\. ").FindSubmatch(page)
	if list == nil {
		t.Fatal("the list is not there any more")
	}
	var documented []string
	for _, m := range regexp.MustCompile("`(\\w+)`").FindAllSubmatch(list[1], -1) {
		documented = append(documented, string(m[1]))
	}
	if diff := cmp.Diff(documented, ErrorKinds()); diff != "" {
		t.Errorf("-documented +listed:\n%s", diff)
	}
}
