package flows

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"
)

// TestListing covers the kinds of value that the file itself has no key of yet.
func TestListing(t *testing.T) {
	var (
		names, tokens, none []string
		small, large        float64
		count               int64
	)
	fields := Fields{
		Strings("names", &names, "doc", Default("[a, '1', '$${X}']")),
		Strings("tokens", &tokens, "doc", Default("[t]"), Secret()),
		Strings("none", &none, "doc", Secret()),
		Float("small", &small, "doc", Default("1e-9")),
		Float("large", &large, "doc", Default("2.5e20")),
		Int64("count", &count, "doc", Default("5_000")),
	}
	var diags Diagnostics
	fields.Decode(nil, "", &diags)
	got, err := yaml.Marshal(listing(fields))
	if err != nil || diags != nil {
		t.Fatal(err, diags)
	}
	const want = `names:
    - a
    - "1"
    - $${X}
tokens: '***'
none: []
small: 1e-09
large: 2.5e+20
count: 5000
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("listing differs (-want +got):\n%s", diff)
	}
}
