package flows_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/mjdevaccount/pulseflow/flows"
)

// minimal is the smallest file that does something.
const minimal = `version: 1
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages: [dedupe]
`

func parse(t *testing.T, src string, env map[string]string) *flows.File {
	t.Helper()
	f, diags := flows.Parse("flows.yaml", []byte(src), environment(env))
	if diags != nil {
		t.Fatalf("diagnostics: %v", diags)
	}
	return f
}

// withoutPlaces compares files by what they mean, not by where it is written.
func withoutPlaces() cmp.Options {
	return cmp.Options{
		cmpopts.IgnoreTypes(flows.Position{}),
		cmpopts.IgnoreFields(flows.File{}, "Path", "Dir"),
		cmpopts.IgnoreUnexported(flows.File{}, flows.Flow{}),
		cmp.Transformer("value", func(n *flows.Node) any { return n.Value() }),
	}
}

func TestShippedFileEqualsDefault(t *testing.T) {
	shipped, err := os.ReadFile(filepath.Join("..", "flows.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(flows.DefaultSource()), string(shipped)); diff != "" {
		t.Errorf("flows.yaml differs from flows/default.yaml (-default +shipped):\n%s", diff)
	}
}

func TestBuiltIn(t *testing.T) {
	got, diags := flows.BuiltIn(nil)
	if diags != nil {
		t.Fatalf("diagnostics: %v", diags)
	}
	want := &flows.File{
		Version:         1,
		Enabled:         true,
		ShutdownTimeout: 8 * time.Second,
		Bus: flows.Bus{
			Name: "default", Backend: "inmem", Namespace: "mdp", Capacity: 10000, MaxEventSize: 1 << 20, DeadLetterBuffer: 10000,
			Redis: flows.Redis{
				URL: "redis://localhost:6379/0", StreamKey: "{ns}:{ns}.{topic}", Batch: 500, MaxInFlight: 4096,
				AckEvery: 5 * time.Millisecond, AckBatch: 500, Block: 2 * time.Second, Lease: 5 * time.Second,
				MaxIdle: 30 * time.Second, MaxDeliveries: 5, DeadLetterMaxLen: 1_000_000, Trim: "none",
			},
		},
		Admin: flows.Admin{Listen: "127.0.0.1:8088", ReadTimeout: 10 * time.Second},
		Rates: flows.Rates{Share: true, RestoreTimeout: 5 * time.Second},
		Registry: flows.Registry{
			CacheTTL: 5 * time.Minute, Timeout: 30 * time.Second, PreferTrack: "v2", FallbackTrack: "v1",
			Enforcement: "warn",
		},
		Providers: []flows.Provider{{Name: "ibkr", Rate: 60, Burst: 60, MinRate: 1}},
		Flows: []flows.Flow{{
			Name:    "feedback",
			Enabled: true,
			From: flows.Source{
				Bus: "default", Stream: "telemetry.feedback", Key: "mdp:mdp.telemetry.feedback", Group: "pipeline", Start: "oldest",
			},
			To: flows.Target{Format: "canonical"},
			Retry: flows.Retry{
				Max: 3, Initial: 100 * time.Millisecond, MaxInterval: 5 * time.Second, Multiplier: 2, Jitter: 0.2,
			},
			DeadLetter: flows.DeadLetter{
				Stream: "telemetry.feedback.dlq", Key: "mdp:mdp.telemetry.feedback.dlq",
			},
		}},
	}
	stages := got.Flows[0].Stages
	got.Flows[0].Stages = nil
	if diff := cmp.Diff(want, got, withoutPlaces()); diff != "" {
		t.Errorf("the built-in file differs (-want +got):\n%s", diff)
	}
	wantStages := []map[string]any{
		{"validate": map[string]any{"schema": "telemetry.FeedbackEvent", "track": "v1"}},
		{"dedupe": map[string]any{"key": "id", "capacity": int64(10000), "ttl": "10m"}},
		{"handle": map[string]any{
			"with": "feedback", "provider": "ibkr", "policy": map[string]any{"ok": 1.0, "soft": 0.5, "hard": 0.0},
		}},
		{"rate-apply": map[string]any{"publish": "telemetry.rate_adjustment", "when": "change"}},
	}
	for i, s := range stages {
		if diff := cmp.Diff(wantStages[i], map[string]any{s.Kind: s.Config.Value()}); diff != "" || s.Index != i+1 {
			t.Errorf("stage %d has index %d and differs (-want +got):\n%s", i+1, s.Index, diff)
		}
	}
	if len(stages) != len(wantStages) {
		t.Errorf("got %d stages, want %d", len(stages), len(wantStages))
	}
}

// TestBuiltInFollowsEnvironment sets every variable of docs/contract.md §4 and §6.
func TestBuiltInFollowsEnvironment(t *testing.T) {
	flow := func(f *flows.File) flows.Flow { return f.Flows[0] }
	stage := func(f *flows.File, i int, path ...string) any {
		n := f.Flows[0].Stages[i].Config
		for _, key := range path {
			n = n.Get(key)
		}
		return n.Value()
	}
	tests := []struct {
		variable, value string
		want            any
		got             func(*flows.File) any
	}{
		{"PULSE_ENABLED", "No", false, func(f *flows.File) any { return f.Enabled }},
		{"EVENT_BUS_BACKEND", "redis", "redis", func(f *flows.File) any { return f.Bus.Backend }},
		{"REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock", func(f *flows.File) any { return f.Bus.Redis.URL }},
		{"MD_NAMESPACE", "prod", "prod:prod.telemetry.feedback", func(f *flows.File) any { return flow(f).From.Key }},
		{"SCHEMA_TRACK", "v2", "v2", func(f *flows.File) any { return stage(f, 0, "track") }},
		{"PUBLISHER_TOKEN", "t0ken", "t0ken", func(f *flows.File) any { return f.Admin.PublisherToken }},
		{"PUBLISHER_TOKEN", "unset", "", func(f *flows.File) any { return f.Admin.PublisherToken }},
		{"PULSEFLOW_LISTEN", "off", "", func(f *flows.File) any { return f.Admin.Listen }},
		{"PULSEFLOW_LISTEN", ":9000", ":9000", func(f *flows.File) any { return f.Admin.Listen }},
		{"REGISTRY_URL", "https://r/", "https://r/", func(f *flows.File) any { return f.Registry.URL }},
		{"REGISTRY_TOKEN", "t", "t", func(f *flows.File) any { return f.Registry.Token }},
		{"REGISTRY_CACHE_TTL", "60", time.Minute, func(f *flows.File) any { return f.Registry.CacheTTL }},
		{"REGISTRY_TIMEOUT", "5", 5 * time.Second, func(f *flows.File) any { return f.Registry.Timeout }},
		{"SCHEMA_PREFER_TRACK", "v1", "v1", func(f *flows.File) any { return f.Registry.PreferTrack }},
		{"SCHEMA_FALLBACK_TRACK", "v2", "v2", func(f *flows.File) any { return f.Registry.FallbackTrack }},
		{"REGISTRY_ENFORCEMENT", "strict", "strict", func(f *flows.File) any { return f.Registry.Enforcement }},
		{"MDP_FB_ENABLE_FEEDBACK", "0", false, func(f *flows.File) any { return flow(f).Enabled }},
		{"MDP_FB_PROVIDER_NAME", "Polygon.io", "Polygon.io", func(f *flows.File) any { return f.Providers[0].Name }},
		{"MDP_FB_PROVIDER_NAME", "polygon", "polygon", func(f *flows.File) any { return stage(f, 2, "provider") }},
		{"MDP_FB_SCALE_OK", "0.9", 0.9, func(f *flows.File) any { return stage(f, 2, "policy", "ok") }},
		{"MDP_FB_SCALE_SOFT", "0.25", 0.25, func(f *flows.File) any { return stage(f, 2, "policy", "soft") }},
		{"MDP_FB_SCALE_HARD", "0.1", 0.1, func(f *flows.File) any { return stage(f, 2, "policy", "hard") }},
	}
	for _, tt := range tests {
		t.Run(tt.variable+"="+tt.value, func(t *testing.T) {
			f, diags := flows.BuiltIn(environment(map[string]string{tt.variable: tt.value}))
			if diags != nil {
				t.Fatalf("diagnostics: %v", diags)
			}
			if diff := cmp.Diff(tt.want, tt.got(f)); diff != "" {
				t.Errorf("differs (-want +got):\n%s", diff)
			}
			empty, diags := flows.BuiltIn(environment(map[string]string{tt.variable: ""}))
			unset, _ := flows.BuiltIn(nil)
			if diff := cmp.Diff(unset, empty, withoutPlaces()); diff != "" || diags != nil {
				t.Errorf("set but empty is not as unset: %v (-unset +empty):\n%s", diags, diff)
			}
		})
	}
}

// TestBuiltInNamesTheVariable: docs/contract.md §6 wants the variable, the value and what is allowed.
func TestBuiltInNamesTheVariable(t *testing.T) {
	tests := []struct{ variable, value, want string }{
		{"PULSE_ENABLED", "on", `enabled: PULSE_ENABLED="on": expected true or false (yes, no, 1 and 0 do too)`},
		{"EVENT_BUS_BACKEND", "kafka", `bus: backend: EVENT_BUS_BACKEND="kafka": must be inmem or redis`},
		{
			"MD_NAMESPACE", "a b",
			`bus: namespace: MD_NAMESPACE="a b": must be made of letters, digits, dot, colon, ` +
				`hyphen and underscore, at most 256`,
		},
		{
			"REDIS_URL", "http://:pw@h",
			`bus: redis: url: REDIS_URL: must be a URL that starts with redis://, rediss:// or unix://`,
		},
		{
			"PULSEFLOW_LISTEN", "8088",
			`admin: listen: PULSEFLOW_LISTEN="8088": must be host:port, such as 127.0.0.1:8088 or :8088, or off`,
		},
		{
			"REGISTRY_TIMEOUT", "soon",
			`registry: timeout: REGISTRY_TIMEOUT="soon" makes "soons": ` +
				`expected a duration with a unit (ns, us, ms, s, m, h), such as 100ms`,
		},
		{"SCHEMA_PREFER_TRACK", "v3", `registry: prefer_track: SCHEMA_PREFER_TRACK="v3": must be v1 or v2`},
		{
			"MDP_FB_ENABLE_FEEDBACK", "2",
			`flow "feedback": enabled: MDP_FB_ENABLE_FEEDBACK="2": expected true or false (yes, no, 1 and 0 do too)`,
		},
		{
			"MDP_FB_PROVIDER_NAME", "a b",
			`provider name: MDP_FB_PROVIDER_NAME="a b": must be made of letters, digits, dot, hyphen and underscore, at most 64`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.variable, func(t *testing.T) {
			_, diags := flows.BuiltIn(environment(map[string]string{tt.variable: tt.value}))
			if len(diags) != 1 || diags[0].Message != tt.want {
				t.Errorf("got %v, want %s", diags, tt.want)
			}
		})
	}
}

func TestRegistryIsNotUsed(t *testing.T) {
	_, diags := flows.BuiltIn(environment(map[string]string{"REGISTRY_ENABLED": "true"}))
	if len(diags) != 1 || diags[0].Code != flows.CodeRegistryUnused || diags.HasErrors() || diags.Err() != nil {
		t.Errorf("got %v, want one warning", diags)
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	padding := bytes.Repeat([]byte("# padding\n"), 1<<20/10)
	exact := append([]byte(minimal), padding[:1<<20-len(minimal)]...)
	tests := []struct{ name, path, want string }{
		{"file", write("flows.yaml", []byte(minimal)), ""},
		{"CRLF", write("crlf.yaml", []byte(strings.ReplaceAll(minimal, "\n", "\r\n"))), ""},
		{"BOM", write("bom.yaml", []byte("\uFEFF"+minimal)), ""},
		{"no newline at the end", write("end.yaml", []byte(strings.TrimSuffix(minimal, "\n"))), ""},
		{"largest", write("largest.yaml", exact), ""},
		{"largest with BOM", write("largestbom.yaml", append([]byte("\uFEFF"), exact...)), ""},
		{"too large", write("large.yaml", append(exact, '\n')), ": the file is larger than 1 MiB: split it"},
		{"UTF-16", write("utf16.yaml", []byte("\xff\xfev\x00e\x00")), ":1:1: the file is in UTF-16: save it as UTF-8"},
		{"Latin-1", write("latin1.yaml", []byte("# gr\xfc\xdfe\n"+minimal)), ":1:5: byte 0xFC is not valid UTF-8: save the file as UTF-8"},
		{"lone CR", write("cr.yaml", []byte("a: 1\rb: 2\n")), ":1:5: a carriage return (U+000D) stands here without a line feed: save the file with the line ends of Unix or of Windows"},
		{"missing", filepath.Join(dir, "none.yaml"), ": cannot be read: no such file or directory"},
		{"folder", dir, ": cannot be read: is a directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, diags := flows.Load(tt.path, nil)
			if f == nil || f.Path != tt.path {
				t.Fatalf("file is %+v", f)
			}
			want := tt.want
			if want != "" {
				want = tt.path + want
			}
			if diff := cmp.Diff(want, diags.String()); diff != "" {
				t.Fatalf("diagnostics differ (-want +got):\n%s", diff)
			}
			if tt.want == "" && (f.Dir != dir || len(f.Flows) != 1) {
				t.Errorf("Dir is %q, flows are %v", f.Dir, f.Flows)
			}
		})
	}
}

func TestPositionsAfterLineEndsAndWideCharacters(t *testing.T) {
	tests := []struct{ name, src, want string }{
		{"CRLF", "version: 1\r\nenabled: ${UNSET}\r\nbus: {backend: kafka}\r\n" + minimal[len("version: 1\n"):], "2:10 3:16"},
		{"BOM", "\uFEFFenabled: ${UNSET}\nbus: {backend: kafka}\n" + minimal, "1:10 2:16"},
		{"comments", "# über\nenabled: ${UNSET} # größe → 1\nbus: {backend: kafka}\n" + minimal, "2:10 3:16"},
		{"values", "enabled: \"größe → ${UNSET}\"\nbus: {namespace: grö, backend: kafka}\n" + minimal, "1:19 2:18 2:32"},
		{"escapes", "enabled: \"\\u0024{UNSET}\"\nbus: {backend: kafka}\n" + minimal, "1:10 2:16"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, diags := flows.Parse("", []byte(tt.src), nil)
			var got []string
			for _, d := range diags {
				got = append(got, d.Pos.String())
			}
			if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
				t.Errorf("%v\npositions differ (-want +got):\n%s", diags, diff)
			}
		})
	}
}

// Keys that are repeated in what a merge brings in are as much a mistake as any.
func TestRepeatedKeysOfMerges(t *testing.T) {
	for src, want := range map[string]string{
		"bus: {<<: {namespace: a, namespace: b}}":             "1:26 duplicate namespace",
		"bus: {<<: [{namespace: a, namespace: b}], lanes: 2}": "1:27 duplicate namespace",
		"bus: {<<: [{namespace: a}, {namespace: b}]}":         "",
		"bus: {<<: {namespace: a}, namespace: b}":             "",
	} {
		_, diags := flows.Parse("", []byte(src+"\n"+minimal), nil)
		var got []string
		for _, d := range diags {
			if strings.Contains(d.Message, `duplicate key "namespace"`) {
				got = append(got, d.Pos.String()+" duplicate namespace")
			}
		}
		if diff := cmp.Diff(want, strings.Join(got, ", ")); diff != "" || want == "" && len(diags) > 0 {
			t.Errorf("%s: %v\n(-want +got):\n%s", src, diags, diff)
		}
	}
}

func TestOrderAndNames(t *testing.T) {
	f := parse(t, `version: 1
providers:
  zeta: {rate: 5}
  "${NAME}": {rate: 0.5}
  alpha: {rate: 10, burst: 2, min_rate: 0}
flows:
  second: {from: {stream: b}, stages: [x]}
  "first-${NAME}":
    enabled: false
    from: {stream: a}
    stages: [x]
`, map[string]string{"NAME": "mid"})
	wantProviders := []flows.Provider{
		{Name: "zeta", Rate: 5, Burst: 5, MinRate: 1, Pos: flows.Position{File: "flows.yaml", Line: 3, Column: 3}},
		{Name: "mid", Rate: 0.5, Burst: 1, MinRate: 0.5, Pos: flows.Position{File: "flows.yaml", Line: 4, Column: 3}},
		{Name: "alpha", Rate: 10, Burst: 2, Pos: flows.Position{File: "flows.yaml", Line: 5, Column: 3}},
	}
	if diff := cmp.Diff(wantProviders, f.Providers); diff != "" {
		t.Errorf("providers differ (-want +got):\n%s", diff)
	}
	var names []string
	for _, w := range f.Flows {
		names = append(names, w.Name+" "+w.Pos.String()+" "+w.From.Pos.String())
	}
	want := []string{"second flows.yaml:7:3 flows.yaml:7:18", "first-mid flows.yaml:8:3 flows.yaml:10:11"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("flows differ (-want +got):\n%s", diff)
	}
}

func TestStageForms(t *testing.T) {
	f := parse(t, `version: 1
flows:
  f:
    from: {stream: s}
    stages:
      - bare
      - empty:
      - braces: {}
      - with: {a: 1}
      - ${STAGE}
`, map[string]string{"STAGE": "named"})
	var got []string
	for _, s := range f.Flows[0].Stages {
		if s.Config == nil {
			t.Fatalf("stage %s has no configuration node", s.Kind)
		}
		got = append(got, s.Kind+" "+s.Pos.String()+" "+s.Config.Pos().String())
	}
	want := []string{
		"bare flows.yaml:6:9 flows.yaml:6:9",
		"empty flows.yaml:7:9 flows.yaml:7:15",
		"braces flows.yaml:8:9 flows.yaml:8:17",
		"with flows.yaml:9:9 flows.yaml:9:15",
		"named flows.yaml:10:9 flows.yaml:10:9",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("stages differ (-want +got):\n%s", diff)
	}
}

func TestKeysOfStreams(t *testing.T) {
	const file = `version: 1
bus: {namespace: prod, redis: {stream_key: "%s"}}
flows:
  f:
    from: {%s}
    dead_letter: {%s}
    stages: [x]
`
	tests := []struct{ name, template, from, dead, key, deadStream, deadKey string }{
		{"defaults", "{ns}:{ns}.{topic}", "stream: a.b", "", "prod:prod.a.b", "a.b.dlq", "prod:prod.a.b.dlq"},
		{"template", "{{ns}}-{topic}-x", "stream: a", "", "{prod}-a-x", "a.dlq", "{prod}-a-x.dlq"},
		{"key", "{ns}:{topic}", "stream: a, key: other", "", "other", "a.dlq", "other.dlq"},
		{"dead letter stream", "{ns}:{topic}", "stream: a, key: other", "stream: d", "other", "d", "prod:d"},
		{"dead letter key", "{ns}:{topic}", "stream: a", "key: dead", "prod:a", "a.dlq", "dead"},
		{"dead letter both", "{ns}:{topic}", "stream: a", "stream: d, key: dead", "prod:a", "d", "dead"},
		{"braces stay", "{ns}:{topic}", `stream: a, key: "{ns}:{topic}"`, "", "{ns}:{topic}", "a.dlq", "{ns}:{topic}.dlq"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := strings.NewReplacer("%s\"}", tt.template+"\"}", "{%s}\n    d", "{"+tt.from+"}\n    d",
				"r: {%s}", "r: {"+tt.dead+"}").Replace(file)
			w := parse(t, src, nil).Flows[0]
			got := []string{w.From.Key, w.DeadLetter.Stream, w.DeadLetter.Key}
			if diff := cmp.Diff([]string{tt.key, tt.deadStream, tt.deadKey}, got); diff != "" {
				t.Errorf("keys differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLanes(t *testing.T) {
	f := parse(t, `version: 1
flows:
  a: {from: {stream: a}, stages: [x]}
  b: {from: {stream: b}, stages: [x], lanes: 2}
  c: {from: {stream: c}, stages: [x], lanes: 0}
bus: {lanes: 8}
`, nil)
	if got := [3]int{f.Flows[0].Lanes, f.Flows[1].Lanes, f.Flows[2].Lanes}; got != [3]int{8, 2, 0} {
		t.Errorf("lanes are %v, want 8, 2 and 0", got)
	}
}

func TestOnlyEnabledFlowsShareAGroup(t *testing.T) {
	parse(t, `version: 1
flows:
  a: {from: {stream: s}, stages: [x]}
  b: {from: {stream: s}, stages: [x], enabled: false}
  c: {from: {stream: s, group: other}, stages: [x]}
`, nil)
}

func TestAliasesAndMerges(t *testing.T) {
	f := parse(t, `version: 1
flows:
  a:
    from: &from {stream: s, group: &group shared}
    stages: &stages
      - one: &one {a: 1, b: 2}
      - two: {<<: *one, b: 3, c: *group}
    retry: &retry {max: 7, initial: 1s}
  b:
    <<: {from: {stream: other}, lanes: 2}
    stages: *stages
    retry: {<<: [{max: 9}, *retry], initial: 2s}
  c:
    from: {<<: *from, stream: third}
    stages: *stages
`, nil)
	a, b, c := f.Flows[0], f.Flows[1], f.Flows[2]
	got := []any{
		a.Stages[1].Config.Value(), b.From.Stream, b.Lanes, b.Retry.Max, b.Retry.Initial, len(b.Stages),
		c.From.Stream, c.From.Group,
	}
	want := []any{
		map[string]any{"a": int64(1), "b": int64(3), "c": "shared"},
		"other", 2, 9, 2 * time.Second, 2,
		"third", "shared",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("values differ (-want +got):\n%s", diff)
	}
}

// TestBombs gives files that would take for ever if they were expanded.
func TestBombs(t *testing.T) {
	nest := func(first, next string) string {
		src := "a0: &a0 " + first + "\n"
		for i := 1; i < 40; i++ {
			ref := "*a" + string(rune('0'+(i-1)/10)) + string(rune('0'+(i-1)%10))
			if i == 1 {
				ref = "*a0"
			}
			name := "a" + string(rune('0'+i/10)) + string(rune('0'+i%10))
			src += name + ": &" + name + " " + strings.ReplaceAll(next, "*", ref) + "\n"
		}
		return src
	}
	tests := map[string]string{
		"lists":         nest("[x, x]", "[*, *, *, *, *, *, *, *]"),
		"mappings":      nest("{k: v}", "{a: *, b: *, c: *, d: *, e: *}"),
		"merges":        nest("{k: v, l: w}", "{<<: [*, *, *, *, *, *, *, *]}"),
		"open brackets": strings.Repeat("[", 1<<20),
		"open braces":   strings.Repeat("{a: ", 1<<18),
		"dashes":        strings.Repeat("- ", 1<<19),
		"many values":   "[" + strings.Repeat("a,", 120_000) + "]",
		"many keys":     strings.Repeat("a: b\n", 60_000),
		"many aliases":  "b: &a x\na: [" + strings.Repeat("*a,", 120_000) + "]",
		"many faults":   "a:\n" + strings.Repeat("  - ${X}\n", 20_000),
		"late syntax":   "a:\n" + strings.Repeat("  - b\n", 5000) + "x: y: z\n",
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for name, src := range tests {
		done := make(chan flows.Diagnostics, 1)
		go func() {
			_, diags := flows.Parse(name, []byte(src), nil)
			done <- diags
		}()
		select {
		case diags := <-done:
			if !diags.HasErrors() {
				t.Errorf("%s: accepted", name)
			}
		case <-ctx.Done():
			t.Fatalf("%s: does not end", name)
		}
	}
}

func TestManyVariablesAreBounded(t *testing.T) {
	src := minimal + "bus:\n  redis:\n    consumer: \"" + strings.Repeat("${BIG}", 2000) + "\"\n"
	_, diags := flows.Parse("f", []byte(src), environment(map[string]string{"BIG": strings.Repeat("x", 1000)}))
	const want = "the variables of the file bring in more than 1 MiB: shorten their values"
	if len(diags) != 1 || diags[0].Message != want {
		t.Errorf("got %v, want %s", diags, want)
	}
}
