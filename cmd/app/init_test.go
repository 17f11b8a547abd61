package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What init writes is right by check with every warning denied, by its tests, and by
// the schemas beside it.
func TestInit(t *testing.T) {
	t.Chdir(t.TempDir())
	status, out, errs := invoke(t, nil, "", "init", "new/flows")
	if status != exitOK || errs != "" || strings.Count(out, "wrote new/flows/") != 5 || !strings.Contains(out, "  cd new/flows\n") {
		t.Fatalf("status %d\n%s%s", status, out, errs)
	}
	t.Chdir(filepath.Join("new", "flows"))
	for _, args := range [][]string{
		{"check", "--deny", "all", "."},
		{"check", "--deny", "all", "--backend", "redis"},
		{"test"},
		{"run", "--feed", "events.jsonl", "--drain", "--listen", "off"},
		{"graph"},
		{"simulate", "--no-chart"},
	} {
		if status, out, errs := invoke(t, nil, "", args...); status != exitOK {
			t.Errorf("%v: status %d\n%s%s", args, status, out, errs)
		}
	}
	for _, f := range []struct {
		name, schema string
		args         []string
	}{
		{"flows.yaml", "flows.schema.json", nil},
		{"flows_test.yaml", "flows_test.schema.json", []string{"--tests"}},
	} {
		src, err := os.ReadFile(f.name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(src), "# yaml-language-server: $schema="+f.schema+"\n") {
			t.Errorf("%s does not begin with the line of its schema", f.name)
		}
		written, err := os.ReadFile(f.schema)
		if _, out, _ := invoke(t, nil, "", append([]string{"schema"}, f.args...)...); err != nil || out != string(written) {
			t.Errorf("%s is not what schema prints: %v", f.schema, err)
		}
		v, err := document(src)
		if err == nil {
			err = printedSchema(t, f.args...).Validate(v)
		}
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
		}
	}
}

func TestInitKeepsWhatIsThere(t *testing.T) {
	tree(t, map[string]string{"flows.yaml": "mine", "sub/x": "", "file": ""})
	status, out, errs := invoke(t, nil, "", "init")
	if status != exitConfig || out != "" || !strings.Contains(errs, "since flows.yaml would be overwritten") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
	list, err := filepath.Glob("*")
	if err != nil || strings.Join(list, " ") != "file flows.yaml sub" {
		t.Errorf("files after a refusal: %v %v", list, err)
	}
	if status, _, errs = invoke(t, nil, "", "init", "file"); status != exitFailure || errs == "" {
		t.Errorf("into a file: status %d %s", status, errs)
	}
	if status, _, errs = invoke(t, nil, "", "init", "--force"); status != exitOK {
		t.Errorf("--force: status %d %s", status, errs)
	}
	if text, err := os.ReadFile("flows.yaml"); err != nil || string(text) == "mine" {
		t.Errorf("--force left %q, %v", text, err)
	}
}
