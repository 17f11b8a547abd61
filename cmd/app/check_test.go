package app

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/flows"
)

// tree writes files below a new directory, which becomes the working directory.
func tree(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

// upsideDown has one warning, at 7:44.
const upsideDown = `version: 1
providers:
  ibkr: {rate: 60}
flows:
  feedback:
    from: {stream: telemetry.feedback}
    stages: [handle: {with: feedback, policy: {ok: 0.2, soft: 0.5}}]
`

func TestCheckSeveralFiles(t *testing.T) {
	bad := strings.Replace(minimal, "dedupe", "dedup", 1)
	files := map[string]string{
		"a.yaml": minimal, "env/b.yml": minimal, "env/deep/c.yaml": bad, "env/.hidden.yaml": bad,
		"env/.git/d.yaml": bad, "env/notes.txt": bad, "none/notes.txt": "",
	}
	const fault = `env/deep/c.yaml:9:9: flow "feedback": stage 2: unknown stage "dedup"`
	for name, tt := range map[string]struct {
		args   []string
		status int
		right  []string
		wrong  []string
	}{
		"files":            {[]string{"a.yaml", "env/b.yml"}, exitOK, []string{"a.yaml", "env/b.yml"}, nil},
		"one of two":       {[]string{"a.yaml", "env/deep/c.yaml"}, exitConfig, []string{"a.yaml"}, []string{fault}},
		"directory":        {[]string{"."}, exitConfig, []string{"a.yaml", "env/b.yml"}, []string{fault}},
		"each once":        {[]string{"env", "./env/", "env/b.yml"}, exitConfig, []string{"env/b.yml"}, []string{fault}},
		"pattern":          {[]string{"*.yaml"}, exitOK, []string{"a.yaml"}, nil},
		"pattern of dirs":  {[]string{"e*/dee[p]"}, exitConfig, nil, []string{fault}},
		"matches nothing":  {[]string{"*.yml", "a.yaml"}, exitConfig, []string{"a.yaml"}, []string{"*.yml: the pattern matches no file"}},
		"no pattern":       {[]string{"[.yaml"}, exitConfig, nil, []string{"[.yaml: not a pattern"}},
		"two stars":        {[]string{"env/**/*.yaml"}, exitConfig, nil, []string{"env/**/*.yaml: ** is not supported: name the directory"}},
		"empty directory":  {[]string{"none"}, exitConfig, nil, []string{"none: no *.yaml or *.yml file is in it"}},
		"not there":        {[]string{"x.yaml"}, exitConfig, nil, []string{"x.yaml: cannot be read"}},
		"config and files": {[]string{"--config", "a.yaml", "a.yaml"}, exitConfig, nil, []string{"not both"}},
		"unknown format":   {[]string{"--format", "xml"}, exitConfig, nil, []string{"text, json or github"}},
		"unknown code":     {[]string{"--deny", "policy-ordre"}, exitConfig, nil, []string{`did you mean "policy-order"?`}},
	} {
		t.Run(name, func(t *testing.T) {
			tree(t, files)
			status, out, errs := invoke(t, nil, "", append([]string{"check"}, tt.args...)...)
			var right []string
			for line := range strings.Lines(out) {
				path, _, _ := strings.Cut(line, ":")
				right = append(right, path)
			}
			if diff := cmp.Diff(tt.right, right); diff != "" || status != tt.status {
				t.Errorf("status %d, want %d; files that are right (-want +got):\n%s", status, tt.status, diff)
			}
			if n := strings.Count(errs, "\n"); n != len(tt.wrong) {
				t.Errorf("%d problems, want %d:\n%s", n, len(tt.wrong), errs)
			}
			for _, want := range tt.wrong {
				if !strings.Contains(errs, want) {
					t.Errorf("lacks %q:\n%s", want, errs)
				}
			}
		})
	}
}

func TestCheckFollowsLinks(t *testing.T) {
	tree(t, map[string]string{"..data/flows.yaml": minimal, "mount/x.txt": ""})
	for link, target := range map[string]string{"mount/flows.yaml": "../..data/flows.yaml", "link": "mount"} {
		if err := os.Symlink(target, link); err != nil {
			t.Skip(err)
		}
	}
	if status, out, errs := invoke(t, nil, "", "check", "link"); status != exitOK || !strings.HasPrefix(out, "link/flows.yaml: ok") {
		t.Errorf("status %d\n%s%s", status, out, errs)
	}
}

// twice declares a key twice, which has a related place.
const twice = "version: 1\nversion: 1\nregistry: {enabled: true, 100%: 1}\nflows: {}\n"

// A socket or a pipe is no file of flows: reading it would fail, or wait for ever.
func TestCheckLeavesOutWhatIsNoFile(t *testing.T) {
	tree(t, map[string]string{"env/a.yaml": minimal, "env/empty/notes.txt": ""})
	l, err := net.Listen("unix", "env/socket.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for _, tt := range []struct {
		arg           string
		status        int
		right, stderr string
	}{
		{"env", exitOK, "env/a.yaml: ok", ""},
		{"env/*.yaml", exitOK, "env/a.yaml: ok", ""},
		{"env/sock*", exitConfig, "", "the pattern matches no file"},
		{"env/*", exitConfig, "env/a.yaml: ok", "env/empty: no *.yaml or *.yml file is in it"},
	} {
		status, stdout, stderr := invoke(t, nil, "", "check", tt.arg)
		if status != tt.status || !strings.Contains(stdout, tt.right) || !strings.Contains(stderr, tt.stderr) ||
			strings.Contains(stderr, "socket") {
			t.Errorf("%s: status %d, want %d\n%s%s", tt.arg, status, tt.status, stdout, stderr)
		}
	}
}

// What cannot be read hides nothing that can.
func TestCheckGoesOnBehindAnUnreadableDirectory(t *testing.T) {
	tree(t, map[string]string{"a.yaml": minimal, "b/locked.yaml": minimal, "c.yaml": minimal})
	if err := os.Chmod("b", 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod("b", 0o700) }) //nolint:gosec // a directory, to be removed
	if _, err := os.ReadDir("b"); err == nil {
		t.Skip("this user may read every directory")
	}
	status, stdout, stderr := invoke(t, nil, "", "check", ".")
	if status != exitConfig || !strings.Contains(stdout, "c.yaml: ok") || !strings.Contains(stderr, "permission denied") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
}

func TestCheckFormats(t *testing.T) {
	tree(t, map[string]string{"a,b.yaml": twice})
	status, out, errs := invoke(t, nil, "", "check", "--format", "json", "a,b.yaml", "gone.yaml")
	if status != exitConfig || errs != "" {
		t.Errorf("json: status %d, standard error %q", status, errs)
	}
	var got []jsonDiagnostic
	for line := range strings.Lines(out) {
		var d jsonDiagnostic
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		got = append(got, d)
	}
	at := func(line, column int) jsonPosition { return jsonPosition{"a,b.yaml", line, column} }
	want := []jsonDiagnostic{
		{
			at(2, 1), "error", "", `duplicate key "version": first declared at 1:1: rename or remove one`,
			[]jsonRelated{{at(1, 1), "first declared here"}},
		},
		{at(3, 21), "warning", "registry-unused", "registry: this version uses no schema registry, and validates events by " +
			"the schemas it has: set enabled to false", []jsonRelated{}},
		{at(3, 27), "error", "", `registry: unknown field "100%"; fields: cache_ttl, enabled, enforcement, fallback_track, ` +
			"prefer_track, timeout, token, url", []jsonRelated{}},
		{at(4, 8), "error", "", "flows must not be empty", []jsonRelated{}},
		{jsonPosition{File: "gone.yaml"}, "error", "", "cannot be read: no such file or directory", []jsonRelated{}},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(jsonDiagnostic{}, jsonRelated{})); diff != "" {
		t.Errorf("json (-want +got):\n%s", diff)
	}

	status, out, errs = invoke(t, nil, "", "check", "--format", "github", "a,b.yaml", "gone.yaml")
	const commands = `::error file=a%2Cb.yaml,line=2,col=1::duplicate key "version": first declared at 1:1: rename or remove one%0Anote: a,b.yaml:1:1: first declared here
::warning file=a%2Cb.yaml,line=3,col=21,title=registry-unused::registry: this version uses no schema registry, and validates events by the schemas it has: set enabled to false
::error file=a%2Cb.yaml,line=3,col=27::registry: unknown field "100%25"; fields: cache_ttl, enabled, enforcement, fallback_track, prefer_track, timeout, token, url
::error file=a%2Cb.yaml,line=4,col=8::flows must not be empty
::error file=gone.yaml::cannot be read: no such file or directory
`
	if diff := cmp.Diff(commands, out); diff != "" || status != exitConfig || errs != "" {
		t.Errorf("github: status %d, standard error %q (-want +got):\n%s", status, errs, diff)
	}

	_, _, errs = invoke(t, nil, "", "check", "--excerpt", "a,b.yaml")
	const excerpts = `a,b.yaml:2:1: duplicate key "version": first declared at 1:1: rename or remove one
     2 | version: 1
       | ^
  note: a,b.yaml:1:1: first declared here
     1 | version: 1
       | ^
a,b.yaml:3:21: warning: registry: this version uses no schema registry, and validates events by the schemas it has: set enabled to false [registry-unused]
     3 | registry: {enabled: true, 100%: 1}
       |                     ^
a,b.yaml:3:27: registry: unknown field "100%"; fields: cache_ttl, enabled, enforcement, fallback_track, prefer_track, timeout, token, url
     3 | registry: {enabled: true, 100%: 1}
       |                           ^
a,b.yaml:4:8: flows must not be empty
     4 | flows: {}
       |        ^
`
	if diff := cmp.Diff(excerpts, errs); diff != "" {
		t.Errorf("excerpts (-want +got):\n%s", diff)
	}
}

func TestWarningsAreSilencedAndDenied(t *testing.T) {
	above := func(comment string) string {
		return strings.Replace(upsideDown, "    stages:", "    "+comment+"\n    stages:", 1)
	}
	behind := func(comment string) string { return strings.TrimSuffix(upsideDown, "\n") + " " + comment + "\n" }
	const warned, silent = true, false
	for name, tt := range map[string]struct {
		text   string
		args   []string
		status int
		shown  bool
	}{
		"warning":                {upsideDown, nil, exitOK, warned},
		"denied":                 {upsideDown, []string{"--deny", "policy-order"}, exitConfig, warned},
		"all denied":             {upsideDown, []string{"--deny", "all"}, exitConfig, warned},
		"another denied":         {upsideDown, []string{"--deny", "registry-unused"}, exitOK, warned},
		"allowed behind":         {behind("# pulseflow: allow policy-order"), nil, exitOK, silent},
		"allowed above":          {above("# pulseflow: allow policy-order"), nil, exitOK, silent},
		"allowed, with a reason": {above("# pulseflow: allow policy-order: a test of the alarm"), nil, exitOK, silent},
		"one of two":             {above("# pulseflow: allow registry-unused, policy-order"), nil, exitOK, silent},
		"two lines above":        {above("# pulseflow: allow policy-order\n    # more"), nil, exitOK, silent},
		"allowed wins":           {above("# pulseflow: allow policy-order"), []string{"--deny=all"}, exitOK, silent},
		"another code":           {above("# pulseflow: allow policy"), nil, exitOK, warned},
		"at the end of a line above": {
			strings.Replace(upsideDown, "feedback}\n", "feedback} # pulseflow: allow policy-order\n", 1), nil, exitOK, warned,
		},
	} {
		t.Run(name, func(t *testing.T) {
			status, _, errs := invoke(t, nil, "", append([]string{"check", writeFile(t, tt.text)}, tt.args...)...)
			if shown := strings.Contains(errs, "[policy-order]"); status != tt.status || shown != tt.shown {
				t.Errorf("status %d, want %d; warned %v, want %v\n%s", status, tt.status, shown, tt.shown, errs)
			}
		})
	}
	// Errors are never silenced.
	text := strings.Replace(minimal, "10m}", "often} # pulseflow: allow policy-order", 1)
	if status, _, errs := invoke(t, nil, "", "check", writeFile(t, text)); status != exitConfig || errs == "" {
		t.Errorf("an error was allowed: status %d", status)
	}
}

// A comment that is to silence a warning and has a slip in it is told of, at the slip.
func TestAllowCommentsWithSlips(t *testing.T) {
	const known = "dedupe-after-effect, policy-order"
	for name, tt := range map[string]struct {
		comment string
		want    []string // columns and what is said
	}{
		"right":                {"# pulseflow: allow policy-order, flow-loop: as it should", nil},
		"no comment of ours":   {"# pulseflow: the router; see pulseflow check", nil},
		"prose":                {"# pulseflow allows flow loops", nil},
		"a slip":               {"# pulseflow: allow policy-oder", []string{`40: warning: allow "policy-oder" silences nothing: no warning has this code (did you mean "policy-order"?) [allow`}},
		"in capitals":          {"# pulseflow: allow Policy-Order", []string{`40: warning: allow "Policy-Order" silences nothing: no warning has this code (did you mean "policy-order"?)`}},
		"underscores":          {"# pulseflow: allow policy_order", []string{`40: warning: allow "policy_order" silences nothing: no warning has this code (did you mean "policy-order"?)`}},
		"nothing like it":      {"# pulseflow: allow xyz", []string{`40: warning: allow "xyz" silences nothing: no warning has this code; codes: ` + known}},
		"all":                  {"# pulseflow: allow all", []string{`40: warning: allow "all" silences nothing: no warning has this code; codes: `}},
		"two, of which one is": {"# é pulseflow: no\n# pulseflow: allow flow-loop, flow-unfeed", []string{`31: warning: allow "flow-unfeed" silences nothing: no warning has this code (did you mean "flow-unfed"?)`}},
		"behind other text":    {"# é # pulseflow: allow xyz", []string{`44: warning: allow "xyz" silences nothing`}},
		"both":                 {"# pulseflow: allow a, b : why", []string{`40: warning: allow "a"`, `43: warning: allow "b"`}},
		"no comma":             {"# pulseflow: allow policy-order flow-loop", []string{`53: warning: allow "flow-loop" silences nothing: it lacks the comma before it`}},
		"no code":              {"# pulseflow: allow", []string{`21: warning: this comment silences nothing: write # pulseflow: allow CODE, where CODE is one of ` + known}},
		"a colon too many":     {"# pulseflow: allow: policy-order", []string{`21: warning: this comment silences nothing: write # pulseflow: allow CODE, where CODE is one of ` + known}},
		"another word":         {"# pulseflow: alow policy-order", []string{`21: warning: this comment silences nothing: it must begin with "# pulseflow: allow "`}},
		"no colon":             {"# Pulseflow allow policy-order", []string{`21: warning: this comment silences nothing: it must begin with "# pulseflow: allow "`}},
		"silenced":             {"# pulseflow: allow allow-unknown, of-another-version", nil},
		"control characters":   {"# pulseflow: allow \u202e", []string{`40: warning: allow "\u202e"`}},
	} {
		t.Run(name, func(t *testing.T) {
			text := minimal + "    enabled: true   " + tt.comment + "\n"
			for _, end := range []string{"\n", "\r\n"} {
				path := writeFile(t, strings.ReplaceAll(text, "\n", end))
				status, _, errs := invoke(t, nil, "", "check", path)
				if status != exitOK || strings.Count(errs, "[allow-unknown]\n") != len(tt.want) || strings.Count(errs, "\n") != len(tt.want) {
					t.Errorf("status %d\n%s", status, errs)
				}
				for _, want := range tt.want {
					if !strings.Contains(errs, ":"+want) {
						t.Errorf("lacks %s:\n%s", want, errs)
					}
				}
				status, _, _ = invoke(t, nil, "", "check", "--deny", "allow-unknown", path)
				if want := map[bool]int{true: exitConfig, false: exitOK}[len(tt.want) > 0]; status != want {
					t.Errorf("denied: status %d, want %d", status, want)
				}
			}
		})
	}

	path := writeFile(t, minimal+"# pulseflow: allow policy-oder\n")
	_, out, _ := invoke(t, nil, "", "check", "--format=json", path)
	if d := decode[jsonDiagnostic](t, out); d.Line != 10 || d.Column != 20 || d.Severity != "warning" || d.Code != "allow-unknown" {
		t.Errorf("JSON: %s", out)
	}
	_, out, _ = invoke(t, nil, "", "check", "--format=github", path)
	if !strings.HasPrefix(out, "::warning file=") || !strings.Contains(out, ",line=10,col=20,title=allow-unknown::") {
		t.Errorf("GitHub: %s", out)
	}
	// Wherever the comment silences, its slips are told.
	for _, args := range [][]string{{"graph", path}, {"config", "--config", path}, {"run", "--drain", "--listen=off", "--config", path}} {
		if status, _, errs := invoke(t, nil, "", args...); status != exitOK || !strings.Contains(errs, ":10:20: warning: ") {
			t.Errorf("%s: status %d\n%s", args[0], status, errs)
		}
	}
	if _, _, errs := invoke(t, nil, "", "check", writeFile(t, minimal+strings.Repeat("# pulseflow: allow x\n", 40_000))); strings.Count(errs, "\n") != 20 {
		t.Errorf("%d warnings of many comments", strings.Count(errs, "\n"))
	}
}

// A file that comes through a pipe is silenced by its comments too.
func TestCommentsOfAPipeSilence(t *testing.T) {
	pipe := mkfifo(t, "flows.yaml")
	fed := make(chan error, 1)
	go func() {
		fed <- os.WriteFile(pipe, []byte(strings.TrimSuffix(upsideDown, "\n")+" # pulseflow: allow policy-order\n"), 0o600)
	}()
	status, _, errs := invoke(t, nil, "", "check", "--deny=all", pipe)
	if err := <-fed; err != nil || status != exitOK || errs != "" {
		t.Errorf("status %d, %v\n%s", status, err, errs)
	}
}

func TestEveryWarningCode(t *testing.T) {
	redis := "bus: {backend: redis}\n"
	for code, text := range map[string]string{
		"policy-order":    upsideDown,
		"registry-unused": minimal + "registry: {enabled: true}\n",
		"dedupe-after-effect": strings.Replace(minimal, "      - dedupe",
			"      - handle: {with: feedback}\n      - rate-apply\n      - dedupe", 1),
		"provider-policy-conflict": minimal + `      - handle: {with: feedback}
  other:
    from: {stream: other.feedback}
    stages: [handle: {with: feedback, policy: {soft: 0.25}}]
`,
		"flow-loop": `version: 1
flows:
  there: {from: {stream: a}, stages: [dedupe], to: {stream: b}}
  back: {from: {stream: b}, stages: [{filter: {when: key != "x"}}], to: {stream: a}}
`,
		"flow-unfed": strings.Replace(minimal, "flows:", "admin: {listen: off}\nflows:", 1) +
			"    dead_letter: {stream: left}\n" +
			"  left: {from: {stream: left}, stages: [dedupe], dead_letter: {stream: again}}\n" +
			"  again: {from: {stream: again}, stages: [dedupe], dead_letter: {stream: left}}\n",
		"dead-letters-unread": strings.Replace(minimal, "flows:", "admin: {listen: off}\nflows:", 1) +
			"    dead_letter: {stream: more}\n" +
			"  more: {from: {stream: more}, stages: [dedupe], to: {stream: telemetry.feedback}}\n",
		"allow-unknown":          minimal + "# pulseflow: allow policy-oder\n",
		"retry-longer-than-idle": minimal + "    retry: {max: 10, max_interval: 20s, multiplier: 10}\n" + redis,
		"rates-not-shared":       minimal + redis + "rates: {share: false}\n",
	} {
		status, _, errs := invoke(t, nil, "", "check", writeFile(t, text))
		if status != exitOK || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "["+code+"]") {
			t.Errorf("%s: status %d\n%s", code, status, errs)
		}
	}
	if n := len(warnings()); n != 10 {
		t.Errorf("%d codes, and a test for 10", n)
	}
	t.Chdir(filepath.Join("..", ".."))
	for _, backend := range []string{"inmem", "redis"} {
		if _, _, errs := invoke(t, nil, "", "check", "--backend", backend, "flows.yaml"); errs != "" {
			t.Errorf("the shipped file on %s:\n%s", backend, errs)
		}
	}
}

func TestLongestWait(t *testing.T) {
	const s = time.Second
	for name, tt := range map[string]struct {
		retry flows.Retry
		want  time.Duration
	}{
		"none":     {flows.Retry{Max: 0, Initial: s, MaxInterval: s, Multiplier: 2}, 0},
		"doubling": {flows.Retry{Max: 3, Initial: s, MaxInterval: 60 * s, Multiplier: 2}, 7 * s},
		"capped":   {flows.Retry{Max: 4, Initial: s, MaxInterval: 2 * s, Multiplier: 2}, 7 * s},
		"jitter":   {flows.Retry{Max: 2, Initial: s, MaxInterval: s, Multiplier: 1, Jitter: 0.5}, 3 * s},
		"endless":  {flows.Retry{Max: 1000, Initial: s, MaxInterval: 1 << 62, Multiplier: 100}, 1 << 62},
	} {
		if got := longestWait(tt.retry); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

func TestExcerptsHideSecrets(t *testing.T) {
	for name, text := range map[string]string{
		"a secret":             "version: 1\nadmin: {publisher_token: [hush]}\n",
		"a misspelled one":     "version: 1\nadmin: {publisher_tokn: hush}\n",
		"on its own line":      "version: 1\nadmin:\n  publisher_token:\n    # comment\n    [hush]\n",
		"a URL":                "version: 1\nregistry: {ulr: \"redis://u:hush@h\"}\n",
		"an address elsewhere": "version: 1\nnowhere: https://:hush@h\n",
	} {
		_, out, errs := invoke(t, nil, "", "check", "--excerpt", writeFile(t, text))
		if strings.Contains(out+errs, "hush") || errs == "" {
			t.Errorf("%s:\n%s", name, errs)
		}
	}
}

func TestStyle(t *testing.T) {
	long := strings.Repeat("a", 150) + "é!" + strings.Repeat("b", 150)
	src := sources{"f": {"tab\tand\x1b[31m\r", long}}
	show := func(s style, pos flows.Position, severity flows.Severity) string {
		var b strings.Builder
		s.print(&b, flows.Diagnostic{Pos: pos, Severity: severity, Message: "m"}, src)
		return b.String()
	}
	at := func(line, column int) flows.Position { return flows.Position{File: "f", Line: line, Column: column} }
	for name, tt := range map[string]struct {
		style    style
		pos      flows.Position
		severity flows.Severity
		want     string
	}{
		"plain":            {style{}, at(1, 2), flows.Warning, "f:1:2: warning: m\n"},
		"no escapes":       {style{excerpt: true}, at(1, 5), flows.Error, "f:1:5: m\n     1 | tab and\uFFFD[31m\n       |     ^\n"},
		"behind the end":   {style{excerpt: true}, at(1, 99), flows.Error, "f:1:99: m\n     1 | tab and\uFFFD[31m\n       |             ^\n"},
		"no such line":     {style{excerpt: true}, at(9, 1), flows.Error, "f:9:1: m\n"},
		"the whole file":   {style{excerpt: true}, flows.Position{File: "f"}, flows.Error, "f: m\n"},
		"no position":      {style{excerpt: true}, flows.Position{}, flows.Error, "m\n"},
		"colour of errors": {style{excerpt: true, colour: true}, at(1, 1), flows.Error, "\x1b[1mf:1:1:\x1b[0m m\n     1 | tab and\uFFFD[31m\n       | \x1b[31m^\x1b[0m\n"},
		"colour":           {style{colour: true}, at(1, 1), flows.Warning, "\x1b[1mf:1:1:\x1b[0m \x1b[33mwarning:\x1b[0m m\n"},
		"a long line": {
			style{excerpt: true},
			at(2, 152), flows.Error,
			"f:2:152: m\n     2 | …" + strings.Repeat("a", 49) + "é!" + strings.Repeat("b", 49) + "…\n       | " + strings.Repeat(" ", 51) + "^\n",
		},
	} {
		if diff := cmp.Diff(tt.want, show(tt.style, tt.pos, tt.severity)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := styleOf(&strings.Builder{}, nil); got != (style{}) {
		t.Errorf("style of a buffer: %+v", got)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0) // a device, as a terminal is
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for variable, colour := range map[string]bool{"HOME=x": true, "NO_COLOR=1": false, "NO_COLOR=": true, "TERM=dumb": false} {
		name, value, _ := strings.Cut(variable, "=")
		got := styleOf(null, func(key string) (string, bool) { return value, key == name })
		if key := (style{excerpt: true, colour: colour}); got != key && name != "HOME" {
			t.Errorf("%s: %+v, want %+v", variable, got, key)
		}
	}
}

// A file of the built-in name has an excerpt too, though it is on no disk.
func TestExcerptOfTheBuiltInFile(t *testing.T) {
	t.Chdir(t.TempDir())
	_, _, errs := invoke(t, map[string]string{"EVENT_BUS_BACKEND": "kafka"}, "", "check", "--excerpt")
	if !strings.Contains(errs, "backend: ${EVENT_BUS_BACKEND:-inmem}\n") {
		t.Errorf("no excerpt:\n%s", errs)
	}
}

// Check opens no connection, whatever the file names: the first one that its server
// sees is the test's own.
func TestCheckConnectsToNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	address := ln.Addr().String()
	text := minimal + "bus: {backend: redis, redis: {url: \"redis://" + address + "/0\"}}\n" +
		"registry: {enabled: true, url: \"http://" + address + "\"}\n"
	if status, _, errs := invoke(t, nil, "", "check", writeFile(t, text)); status != exitOK {
		t.Errorf("status %d\n%s", status, errs)
	}
	own, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	first, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if first.RemoteAddr().String() != own.LocalAddr().String() {
		t.Error("check has connected to the server")
	}
}
