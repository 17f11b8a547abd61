package app

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// printedSchema compiles what the command prints.
func printedSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	status, out, errs := invoke(t, nil, "", "schema")
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

// document is a YAML file as an editor hands it to a schema.
func document(src []byte) (any, error) {
	var root yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(src))
	if err := decoder.Decode(&root); err != nil {
		return nil, err
	}
	if err := decoder.Decode(new(yaml.Node)); err == nil {
		return nil, fmt.Errorf("a second document")
	}
	var v any
	if err := root.Decode(&v); err != nil {
		return nil, err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err // such as .nan, which JSON has not
	}
	return jsonschema.UnmarshalJSON(bytes.NewReader(text))
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

// The faults that a schema cannot see, and why. Every other fault of the corpus it
// rejects, or the YAML parser before it does.
func schemaCannotSee() map[string]string {
	const (
		environment = "depends on the environment"
		parts       = "relates parts of the file"
		keys        = "relates two keys"
		spelling    = "YAML sees no difference"
		magnitude   = "the magnitude of a duration or size"
	)
	return map[string]string{
		"integer_leading_zero": spelling, "tag_binary": spelling, "tag_custom": spelling,
		"flow_dead_letter_loop": parts, "flow_dead_letter_loop_by_key": parts, "flow_same_group": parts,
		"stream_two_keys": parts, "flow_retry_interval": keys, "flow_retry_interval_default": keys, "provider_floor": keys, "tls_pair": keys,
		"redis_url_socket_database": "a number in a query",
		"registry_unused":           "a warning",
		"size_below_min":            magnitude,
		"provider_ramp_short":       magnitude,
		"provider_breaker_idle":     keys,
		"provider_silence_idle":     keys,
		"flow_to_loop":              parts,
		"flow_to_key_alone":         keys,
		"flow_to_empty":             keys,

		"provider_duplicate": environment, // the second one's name is a variable
		"stage_unusable":     environment, // and a tag
		"stage_variable_bad": environment, "stage_variable_unset": environment, "provider_variable_unset": environment,
		"variable_boolean": environment, "variable_default_enum": environment, "variable_duration_composed": environment,
		"variable_empty": environment, "variable_enum": environment, "variable_in_block_text": environment,
		"variable_injects_nothing": environment, "variable_named_like_a_secret": environment,
		"variable_not_utf8": environment, "variable_second": environment, "variable_secret": environment,
		"variable_unset": environment,
	}
}

// It rejects what is wrong, as far as a schema can see it.
func TestSchemaRejects(t *testing.T) {
	schema := printedSchema(t)
	files, err := filepath.Glob(filepath.Join("..", "..", "flows", "testdata", "conf.*.yml"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	want, got := make(map[string]string), make(map[string]string)
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "conf."), ".yml")
		reason, excused := schemaCannotSee()[name]
		if excused {
			want[name] = reason
		}
		// The corpus belongs to package flows, which knows no stage.
		v, err := document(bytes.ReplaceAll(src, []byte("stages: [x]"), []byte("stages: [dedupe]")))
		if err == nil && schema.Validate(v) == nil {
			got[name] = reason
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("accepted faults (-expected +accepted):\n%s", diff)
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
		if d.HasErrors() || more.HasErrors() {
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
