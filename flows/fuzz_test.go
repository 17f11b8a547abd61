package flows_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
)

// FuzzParse reads arbitrary files. Whatever they are, reading ends, each diagnostic is within the file, and a file
// without errors has a listing that means the same.
func FuzzParse(f *testing.F) {
	f.Add(flows.DefaultSource())
	f.Add([]byte(full))
	files, err := filepath.Glob("testdata/conf.*.yml")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	env := environment(map[string]string{
		"PROVIDER": "ibkr", "EMPTY": "", "BACKEND": "redis", "YAML": "a: [\n", "BINARY": "\xff", "REDIS_URL": "redis://h",
		"NAME": "${X}", "A": "1",
	})
	f.Fuzz(func(t *testing.T, src []byte) {
		file, diags := flows.Parse("f.yaml", src, env)
		diags = check(file, diags)
		lines := strings.Split(strings.TrimPrefix(string(src), "\uFEFF"), "\n")
		for _, d := range diags {
			places := []flows.Position{d.Pos}
			for _, r := range d.Related {
				places = append(places, r.Pos)
			}
			for _, p := range places {
				within := p.Line == 0 && p.Column == 0 ||
					p.Line >= 1 && p.Line <= len(lines) && p.Column >= 1 &&
						p.Column <= utf8.RuneCountInString(lines[p.Line-1])+1
				if p.File != "f.yaml" || !within {
					t.Errorf("%v is not within the file of %d lines: %s", p, len(lines), d)
				}
			}
			if d.Message == "" || strings.Contains(d.Message, "\n") || !utf8.ValidString(d.Message) {
				t.Errorf("message %q is not one line of text", d.Message)
			}
		}
		listing, err := file.Redacted()
		if err != nil {
			t.Fatalf("listing: %v", err)
		}
		if diags.HasErrors() {
			return
		}
		again, diags := flows.Parse("f.yaml", listing, nil)
		if diags.HasErrors() {
			t.Fatalf("the listing cannot be read: %v\n%s", diags, listing)
		}
		file.Tests = nil // not listed
		file.Bus.Redis.URL, again.Bus.Redis.URL = "", ""
		for _, f := range []*flows.File{file, again} {
			for i := range f.Buses {
				f.Buses[i].Redis.URL = ""
			}
		}
		file.Registry.URL, again.Registry.URL = "", ""
		for _, secret := range []*string{
			&file.Admin.PublisherToken, &file.Admin.OperatorToken, &file.Registry.Token,
		} {
			if *secret != "" {
				*secret = "***"
			}
		}
		if strings.Contains(string(listing), "***") { // a stage's secrets are hidden too
			for _, x := range []*flows.File{file, again} {
				for i := range x.Flows {
					x.Flows[i].Stages = nil
				}
			}
		}
		if diff := cmp.Diff(file, again, withoutPlaces()); diff != "" {
			t.Errorf("the listing means something else (-file +listing):\n%s\n%s", diff, listing)
		}
	})
}
