package app

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/flowtest"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// printedSchema compiles what the command prints.
func printedSchema(t testing.TB, args ...string) *jsonschema.Schema {
	t.Helper()
	status, out, errs := invoke(t, nil, "", append([]string{"schema"}, args...)...)
	if status != exitOK || errs != "" {
		t.Fatalf("status %d\n%s", status, errs)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("flows.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("flows.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// A schema accepts what is right.
func TestSchemaAccepts(t *testing.T) {
	schema := printedSchema(t)
	accept := func(name string, src []byte) {
		v, err := document(src)
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	files, err := filepath.Glob(filepath.Join("..", "..", "stages", "testdata", "*.yaml"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	for _, path := range append(files, filepath.Join("..", "..", "flows.yaml")) {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		accept(path, src)
	}
	n := 0
	for _, b := range blocks(t, filepath.Join("..", "..", "README.md")) {
		if b.info == "yaml" && strings.HasPrefix(b.text, "version:") {
			n++
			accept(fmt.Sprintf("README.md:%d", b.line), []byte(b.text))
		}
	}
	if n == 0 {
		t.Error("README.md has no flow file")
	}
	accept("minimal", []byte(minimal))
	t.Chdir(t.TempDir())
	_, out, _ := invoke(t, nil, "", "config")
	accept("the resolved configuration", []byte(out))
}

// It rejects what is wrong, or the YAML parser does before it, but for the faults that
// carry a limit of schemas; and the limits are no excuse for what it sees.
func TestSchemaRejects(t *testing.T) {
	schema := printedSchema(t)
	excused := make(map[flows.Limit]int)
	for _, pattern := range []string{"../../flows/testdata/conf.*.yml", "../../router/testdata/plan.*.yml"} {
		files, err := filepath.Glob(filepath.FromSlash(pattern))
		if err != nil || len(files) < 30 {
			t.Fatalf("%s: %d files: %v", pattern, len(files), err)
		}
		for _, path := range files {
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			// The corpus of package flows knows no stage.
			src = bytes.ReplaceAll(src, []byte("stages: [x]"), []byte("stages: [dedupe]"))
			a := compare(schema, src, nil)
			if fault := a.fault(); fault != "" {
				t.Errorf("%s: %s", path, fault)
			}
			for _, x := range a.loader {
				if x.Beyond != "" && a.schema == nil {
					excused[x.Beyond]++
				}
			}
		}
	}
	large := compare(schema, []byte(minimal+strings.Repeat("#\n", 1<<19)), nil)
	if large.schema != nil || len(large.loader) != 1 {
		t.Errorf("a large file: schema %v, loader %v", large.schema, large.loader)
	}
	excused[large.loader[0].Beyond]++
	for _, l := range flows.Limits() {
		if excused[l.Limit] == 0 {
			t.Errorf("limit %s: no file of the corpus needs it", l.Limit)
		}
	}
}

// An editor must not mark what runs: each key with each of many values, and wherever
// the loader accepts the file, so does the schema.
func TestSchemaNeverRejectsWhatRuns(t *testing.T) {
	schema := printedSchema(t)
	values := []string{
		"true", "Yes", "FALSE", "0", "1", "2", "-1", "0.5", "1.0", "1e3", "10s", "0s", "1h30m", "1MiB", "1.5 KB", `""`, "null",
		"[]", "{}", "abc", "a b", "v1", "redis", `"5"`, "${X:-1}", `"${X:-1}s"`, "$${X}", "{topic}", "redis://h/0", "http://h",
		"off", `":80"`, "[dedupe]", "[a, 1]", "{stream: a}", "2001-01-01", "~", "0x10", "1_000", "+5", ".5", "5.",
	}
	accepted := 0
	try := func(path, text string) {
		f, d := flows.Parse("flows.yaml", []byte(text), nil)
		_, more := router.NewPlan(f, stages.Builtin())
		if d.HasErrors() || more.HasErrors() || testsWrong(f) {
			return
		}
		accepted++
		v, err := document([]byte(text))
		if err == nil {
			err = schema.Validate(v)
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", path, err, text)
		}
	}
	var vary func(fields flows.Fields, path string, file func(pair string) string)
	vary = func(fields flows.Fields, path string, file func(string) string) {
		for _, f := range fields {
			for _, v := range values {
				try(path+f.Name, file(f.Name+": "+v))
			}
			if f.Kind == flows.KindObject {
				vary(f.Fields, path+f.Name+".", func(pair string) string { return file(f.Name + ": {" + pair + "}") })
			}
		}
	}
	// in puts a pair into a mapping that has the others it needs.
	in := func(form string, needs ...string) func(string) string {
		return func(pair string) string {
			pairs := []string{pair}
			for _, need := range needs {
				if name, _, _ := strings.Cut(need, ":"); !strings.HasPrefix(pair, name+":") {
					pairs = append(pairs, need)
				}
			}
			return strings.Replace(form, "PAIRS", strings.Join(pairs, ", "), 1)
		}
	}
	const flow = "flows: {f: {from: {stream: s}, stages: [dedupe]}}"
	vary(flows.Reference(), "", in("{PAIRS}", "version: 1", flow))
	providers, _ := flows.Reference().Lookup("providers")
	vary(providers.Fields, "providers.*.", in("{version: 1, "+flow+", providers: {p: {PAIRS}}}", "rate: 5000"))
	flowKeys, _ := flows.Reference().Lookup("flows")
	vary(flowKeys.Fields, "flows.*.", in("{version: 1, flows: {f: {PAIRS}}}", "from: {stream: s}", "stages: [dedupe]"))
	needs := map[string][]string{"handle": {"with: feedback"}, "validate": {"schema: telemetry.FeedbackEvent"}}
	for _, k := range stages.Builtin().Kinds() {
		form := "{version: 1, providers: {ibkr: {rate: 1}}, flows: {f: {from: {stream: s}, stages: [" +
			"{handle: {with: feedback}}, {" + k.Name + ": {PAIRS}}]}}}"
		vary(k.New().Fields(), k.Name+".", in(form, needs[k.Name]...))
	}
	if accepted < 300 {
		t.Errorf("only %d files were right", accepted)
	}
}

// testsWrong reports whether the tests in a file have a fault that concerns one value.
func testsWrong(f *flows.File) bool {
	if f.Tests == nil {
		return false
	}
	var d flows.Diagnostics
	flowtest.TestsField(new([]flowtest.Test)).Decode(f.Tests, "", &d)
	return d.HasErrors()
}

// What the loader of tests accepts, their schema does, key by key and value by value;
// and where it refuses the value itself, the schema does too.
func TestSchemaOfTests(t *testing.T) {
	whole, inFile := printedSchema(t, "--tests"), printedSchema(t)
	shipped, err := os.ReadFile(filepath.Join("..", "..", "flows_test.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := document(shipped)
	if err == nil {
		err = whole.Validate(v)
	}
	if err != nil {
		t.Errorf("flows_test.yaml: %v", err)
	}
	values := []string{
		"true", "0", "1", "-1", "0.5", "1.5", "10s", "0s", `""`, "null", "[]", "{}", "abc", "v1", "panic", "after", "soft",
		"error", `"5"`, `"${X}"`, "[{}]", "{a: 1}", "{a: b}", "{a: []}", "{a: [{text: x}]}", "{a: {scale: 1}}", "{a: {level: x}}",
		"[{text: x}]", "[{stage: x}]", "[{raw: x}]", "{success: 1}", "{success: x}", "2026-01-01T00:00:00Z", "[{values: {/a: null}}]",
		"[{payload: null}]",
	}
	accepted, refused := 0, 0
	try := func(text string) {
		src := "tests: " + text
		node, d := flows.Document("x_test.yaml", []byte(src), "tests")
		if d.HasErrors() {
			t.Fatalf("%s: %v", src, d)
		}
		flowtest.TestsField(new([]flowtest.Test)).Decode(node.Get("tests"), "", &d)
		v, err := document([]byte(src))
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		file, err := document([]byte(minimal + src))
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		for name, result := range map[string]error{"of a test file": whole.Validate(v), "of a flow file": inFile.Validate(file)} {
			switch wrong := d.HasErrors(); {
			case !wrong && result != nil:
				t.Errorf("%s: the loader accepts it, and the schema %s does not: %v", src, name, result)
			case wrong && result == nil:
				t.Errorf("%s: the schema %s accepts it, and the loader does not: %v", src, name, d)
			}
		}
		if d.HasErrors() {
			refused++
		} else {
			accepted++
		}
	}
	var vary func(fields flows.Fields, test func(pair string) string)
	vary = func(fields flows.Fields, test func(string) string) {
		for _, f := range fields {
			for _, v := range values {
				try(test(f.Name + ": " + v))
			}
			switch f.Kind {
			case flows.KindObject:
				vary(f.Fields, func(pair string) string { return test(f.Name + ": {" + pair + "}") })
			case flows.KindList:
				needs := ""
				if f.Name == "fail" {
					needs = "stage: x, "
				}
				vary(f.Fields, func(pair string) string {
					if strings.HasPrefix(pair, "stage:") {
						return test(f.Name + ": [{" + pair + "}]")
					}
					return test(f.Name + ": [{" + needs + pair + "}]")
				})
			case flows.KindMap:
				vary(f.Fields, func(pair string) string { return test(f.Name + ": {x: {" + pair + "}}") })
			case flows.KindValues:
				if inner := f.Fields[0]; inner.Kind == flows.KindList {
					vary(inner.Fields, func(pair string) string { return test(f.Name + ": {x: [{" + pair + "}]}") })
				}
			}
		}
	}
	list, _ := flowtest.Fields().Lookup("tests")
	vary(list.Fields, func(pair string) string {
		others := []string{pair}
		for _, need := range []string{"name: n", "events: [{raw: x}]"} {
			if name, _, _ := strings.Cut(need, ":"); !strings.HasPrefix(pair, name+":") {
				others = append(others, need)
			}
		}
		return "[{" + strings.Join(others, ", ") + "}]"
	})
	if accepted < 200 || refused < 500 {
		t.Errorf("%d accepted and %d refused", accepted, refused)
	}
}
