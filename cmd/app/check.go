package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/flowtest"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// The formats of check.
const (
	formatText   = "text"
	formatJSON   = "json"
	formatGitHub = "github"
)

// checkFlags say what is checked, how strictly, and how the result is shown.
type checkFlags struct {
	fileFlags
	format  string
	deny    []string
	excerpt bool
}

func checkCommand(sys system) *cobra.Command {
	var flags checkFlags
	cmd := &cobra.Command{
		Use:   "check [FILE | DIRECTORY | PATTERN]...",
		Short: "Check flows files without running them",
		Long: `Check reads each file, resolves its variables and plans its flows, as run does,
and stops there. It needs no Redis and opens no connection. Every problem of
every file is reported, as file:line:column: message.

Of a directory, every *.yaml and *.yml is checked, also in the directories in it;
names that start with a dot are left out. A quoted pattern such as 'env/*.yaml' is
expanded here. Without arguments it is the file that run would use. A file of flow
tests, NAME_test.yaml, is checked as pulseflow test reads it, and not run.

Formats:
  text    a line for each problem, on standard error; on a terminal, or with
          --excerpt, the line of the file follows with a caret under the column,
          and notes on related places. Lines that may hold a secret are not shown.
          A file that is right has a line on standard output
  json    an object a line for each problem, on standard output, with file, line,
          column, severity, code, message and related; nothing when all is right
  github  annotations of GitHub Actions, on standard output

Warnings do not fail the check, unless --deny names their code:
` + warningList() + `
A comment in the file silences one, at the end of the line or in the lines above:
  # pulseflow: allow policy-order
Several have commas between them; a reason may follow a colon. A code that there is
not is warned of too (allow-unknown), since a slip silences nothing.

Exit status: 0 every file is right (warnings may have been printed), 2 one is not.`,
		Example: "  pulseflow check\n  pulseflow check deploy/flows.yaml\n  MD_NAMESPACE=prod pulseflow check\n" +
			"  pulseflow check --deny all env/ 'teams/*/flows.yaml'\n  pulseflow check --format github flows.yaml",
		RunE: func(_ *cobra.Command, args []string) error { return flags.run(sys, args) },
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&flags.format, "format", formatText, "text, json or github")
	cmd.Flags().StringSliceVar(&flags.deny, "deny", nil, "make an error of the warnings of this `CODE`, or of all")
	cmd.Flags().BoolVar(&flags.excerpt, "excerpt", false, "show the line of the file also when this is no terminal")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(
		[]string{formatText, formatJSON, formatGitHub}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// warningList is the part of help that explains the codes.
func warningList() string {
	var b strings.Builder
	for _, w := range warnings() {
		fmt.Fprintf(&b, "  %-25s %s\n", w.code, w.meaning)
	}
	return b.String()
}

func (f *checkFlags) run(sys system, args []string) error {
	switch {
	case !slices.Contains([]string{formatText, formatJSON, formatGitHub}, f.format):
		return configError(fmt.Errorf("--format %q: must be text, json or github", f.format))
	case len(args) > 0 && f.config != "":
		return configError(fmt.Errorf("give files as arguments or one with --config, not both"))
	}
	if err := validCodes(f.deny); err != nil {
		return configError(err)
	}
	src := make(sources)
	paths, d := expand(args)
	if len(args) == 0 {
		paths = []string{f.config}
	}
	var right []*router.Plan
	var suites []*flowtest.Suite
	for _, path := range paths {
		if flowtest.IsTestFile(path) {
			suite, found := checkTests(path, sys.stages, paths)
			if !found.HasErrors() {
				suites = append(suites, suite)
			}
			d = append(d, found...)
			continue
		}
		one := f.fileFlags
		one.config = path
		plan, found := one.plan(sys, src)
		found = append(found, flowtest.Check(plan.File, sys.stages, found)...)
		found.Sort()
		deny(found, f.deny)
		if !found.HasErrors() {
			right = append(right, plan)
		}
		d = append(d, found...)
	}
	f.report(sys, right, suites, d, src)
	if d.HasErrors() {
		return configError(errReported)
	}
	return nil
}

// checkTests looks at a file of tests. What is wrong with its flow file is left to
// that one where it is checked too.
func checkTests(path string, kinds *stages.Registry, paths []string) (*flowtest.Suite, flows.Diagnostics) {
	suite, d := flowtest.Load(path, kinds, false)
	if slices.Contains(paths, filepath.Clean(suite.Flows)) {
		d = slices.DeleteFunc(d, func(x flows.Diagnostic) bool { return x.Pos.File == suite.Flows })
	}
	return suite, d
}

// report shows the diagnostics in the chosen format, and in text what the files that
// are right would run.
func (f *checkFlags) report(
	sys system, right []*router.Plan, suites []*flowtest.Suite, d flows.Diagnostics, src sources,
) {
	switch f.format {
	case formatJSON:
		for _, x := range d {
			printJSON(sys.stdout, x)
		}
	case formatGitHub:
		for _, x := range d {
			printGitHub(sys.stdout, x)
		}
	default:
		look := sys.style()
		look.excerpt = look.excerpt || f.excerpt
		for _, x := range d {
			look.print(sys.stderr, x, src)
		}
		for _, plan := range right {
			summarize(sys.stdout, plan)
		}
		for _, s := range suites {
			fmt.Fprintf(sys.stdout, "%s: ok: %s\n", harmless(s.Path), tests(len(s.Tests)))
		}
	}
}

// summarize says how much of a file runs, and why the rest does not.
func summarize(w io.Writer, plan *router.Plan) {
	active := slices.DeleteFunc(slices.Clone(plan.Flows), func(p router.FlowPlan) bool { return p.Disabled != "" })
	fmt.Fprintf(w, "%s: ok: %d of %d flows run, on %s\n",
		harmless(plan.File.Path), len(active), len(plan.Flows), describeBuses(plan.File))
	for _, p := range plan.Flows {
		if p.Disabled != "" {
			fmt.Fprintf(w, "%s: %s\n", harmless(plan.File.Path), p.Disabled)
		}
	}
}

// expand makes a list of files of arguments that are files, directories or patterns,
// each once. An argument that stands for no file is an error. A file that is not
// there is left to its reader.
func expand(args []string) ([]string, flows.Diagnostics) {
	var (
		paths []string
		d     flows.Diagnostics
	)
	for _, arg := range args {
		found, err := expandOne(arg)
		for _, fault := range faultsOf(err) {
			d.Errorf(flows.Position{File: arg}, "%v", fault)
		}
		for _, path := range found {
			if path = filepath.Clean(path); !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths, d
}

// faultsOf takes joined errors apart.
func faultsOf(err error) []error {
	var joined interface{ Unwrap() []error }
	switch {
	case err == nil:
		return nil
	case errors.As(err, &joined):
		return joined.Unwrap()
	}
	return []error{err}
}

func expandOne(arg string) ([]string, error) {
	info, err := os.Stat(arg)
	switch {
	case err == nil && info.IsDir():
		return filesIn(arg)
	case err == nil || !strings.ContainsAny(arg, "*?["):
		return []string{arg}, nil
	case strings.Contains(arg, "**"):
		return nil, fmt.Errorf("** is not supported: name the directory, and all below it is checked")
	}
	matches, err := filepath.Glob(arg)
	if err != nil {
		return nil, fmt.Errorf("not a pattern: %w", err)
	}
	if len(matches) == 0 {
		return nil, fmt.Errorf("the pattern matches no file")
	}
	var (
		paths  []string
		faults []error
	)
	for _, match := range matches {
		info, err := os.Stat(match)
		switch {
		case err != nil || info.Mode().IsRegular():
			paths = append(paths, match)
		case info.IsDir():
			found, err := filesIn(match)
			paths = append(paths, found...)
			for _, fault := range faultsOf(err) {
				faults = append(faults, fmt.Errorf("%s: %w", match, fault))
			}
		}
	}
	if len(paths) == 0 && len(faults) == 0 {
		return nil, errors.New("the pattern matches no file")
	}
	return paths, errors.Join(faults...)
}

// filesIn lists the YAML files of a directory and of those in it, by name. What cannot
// be read is an error beside the files that were found.
func filesIn(dir string) ([]string, error) {
	var (
		paths  []string
		faults []error
	)
	// The separator makes a link to a directory that directory.
	root := filepath.Clean(dir) + string(filepath.Separator)
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			faults = append(faults, err)
			return nil
		}
		hidden := strings.HasPrefix(entry.Name(), ".") && path != root
		switch ext := filepath.Ext(path); {
		case hidden && entry.IsDir():
			return fs.SkipDir
		case hidden || entry.IsDir() || ext != ".yaml" && ext != ".yml":
			return nil
		}
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			return nil // a link to a directory, or a pipe, whose reader would wait
		}
		paths = append(paths, path)
		return nil
	})
	if len(faults) == 0 && len(paths) == 0 {
		faults = append(faults, errors.New("no *.yaml or *.yml file is in it"))
	}
	return paths, errors.Join(faults...)
}

// jsonDiagnostic is a diagnostic as --format json prints it. Line and column are 0
// for the file as a whole; only warnings have a code.
type jsonDiagnostic struct {
	jsonPosition
	Severity string        `json:"severity"`
	Code     string        `json:"code"`
	Message  string        `json:"message"`
	Related  []jsonRelated `json:"related"`
}

type jsonPosition struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

type jsonRelated struct {
	jsonPosition
	Message string `json:"message"`
}

func printJSON(w io.Writer, d flows.Diagnostic) {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(jsonOf(d))
}

func jsonOf(d flows.Diagnostic) jsonDiagnostic {
	position := func(p flows.Position) jsonPosition { return jsonPosition(p) }
	out := jsonDiagnostic{
		jsonPosition: position(d.Pos), Severity: d.Severity.String(), Code: d.Code, Message: d.Message,
		Related: []jsonRelated{},
	}
	for _, r := range d.Related {
		out.Related = append(out.Related, jsonRelated{position(r.Pos), r.Message})
	}
	return out
}

// printGitHub writes a workflow command, which GitHub shows at the line of a change.
func printGitHub(w io.Writer, d flows.Diagnostic) {
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	data := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	where := "file=" + property.Replace(d.Pos.File)
	if d.Pos.Line > 0 {
		where += fmt.Sprintf(",line=%d,col=%d", d.Pos.Line, d.Pos.Column)
	}
	if d.Code != "" {
		where += ",title=" + property.Replace(d.Code)
	}
	message := d.Message
	for _, r := range d.Related {
		message += fmt.Sprintf("\nnote: %s: %s", r.Pos, r.Message)
	}
	fmt.Fprintf(w, "::%s %s::%s\n", d.Severity, where, data.Replace(message))
}
