package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/capture"
	"github.com/mjdevaccount/pulseflow/internal/flowtest"
	"github.com/mjdevaccount/pulseflow/router"
)

type explainFlags struct {
	config string
	format string
	at     string
	after  string
}

func explainCommand(sys system) *cobra.Command {
	var flags explainFlags
	cmd := &cobra.Command{
		Use:   "explain FLOW EVENT",
		Short: "Tell what a flow does with one event, stage by stage, and why",
		Long: `Explain puts one event through a flow and tells what each stage did with it: what
it decided, why, in which time of its own, and what it changed. Nothing is
connected to and nothing is published; the flow starts as a new process would,
with nothing seen and every provider at its full rate, unless --after gives it
events first. Retries wait on a virtual clock.

FLOW is a flow of the file, or a flows file that has only one. EVENT is a file, or
- for standard input: one event in any dialect, or one entry as it stood on a
stream, {"id": ..., "fields": {"data": ...}}.

Exit status: 0 it was explained, whatever became of the event; 1 it could not be
run to its end; 2 the file, the event or the command line is wrong.`,
		Example: "  pulseflow explain feedback event.json\n  head -1 feedback.jsonl | pulseflow explain feedback -\n" +
			"  pulseflow explain deploy/flows.yaml event.json --format json\n" +
			"  pulseflow explain feedback event.json --after feedback.jsonl",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return flags.run(cmd.Context(), sys, args[0], args[1]) },
	}
	configFlag(cmd, &flags.config)
	cmd.Flags().StringVar(&flags.format, "format", formatText, "text or json")
	cmd.Flags().StringVar(&flags.at, "at", "", "the `TIME` it is meanwhile, in RFC 3339; default is now")
	cmd.Flags().StringVar(&flags.after, "after", "", "events to put through before it: a JSONL `FILE`")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
	_ = cmd.MarkFlagFilename("after", "jsonl")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{formatText, formatJSON},
		cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *explainFlags) run(ctx context.Context, sys system, flow, path string) error {
	if f.format != formatText && f.format != formatJSON {
		return configError(fmt.Errorf("--format %q: must be text or json", f.format))
	}
	now := time.Now().UTC()
	if f.at != "" {
		var err error
		if now, err = time.Parse(time.RFC3339Nano, f.at); err != nil {
			return configError(fmt.Errorf("--at %q: must be a time such as 2026-01-01T00:00:00Z", f.at))
		}
	}
	plan, name, err := f.flow(sys, flow)
	if err != nil {
		return err
	}
	e, err := readEvent(path, sys.stdin)
	if err != nil {
		return configError(err)
	}
	var earlier []capture.Entry
	if f.after != "" {
		if earlier, err = readEvents(f.after); err != nil {
			return configError(err)
		}
	}
	x, err := flowtest.Explain(ctx, plan, name, earlier, e, now)
	if err != nil {
		return err
	}
	if f.format == formatJSON {
		encoder := json.NewEncoder(sys.stdout)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(x)
	}
	var b strings.Builder
	printExplanation(&b, x)
	_, err = io.WriteString(sys.stdout, visible(b.String()))
	return err
}

// flow finds the flow that the argument names: one of the file, or the only one of
// the file it is.
func (f *explainFlags) flow(sys system, arg string) (*router.Plan, string, error) {
	files := fileFlags{config: f.config, backend: "inmem", listen: "off"}
	ext := filepath.Ext(arg)
	isFile := ext == ".yaml" || ext == ".yml"
	if isFile {
		if f.config != "" {
			return nil, "", configError(errors.New("give the file as FLOW or with --config, not both"))
		}
		files.config = arg
	}
	plan, err := files.load(sys)
	if err != nil {
		return nil, "", err
	}
	var names []string
	for _, p := range plan.Flows {
		switch {
		case !isFile && p.Name == arg && p.Disabled != "":
			return nil, "", configError(errors.New(p.Disabled))
		case !isFile && p.Name == arg:
			return plan, arg, nil
		case p.Disabled == "":
			names = append(names, p.Name)
		}
	}
	switch {
	case isFile && len(names) == 1:
		return plan, names[0], nil
	case isFile && len(names) == 0:
		return nil, "", configError(fmt.Errorf("%s: no flow runs: %w", arg, errNothingRuns(plan)))
	case isFile:
		return nil, "", configError(fmt.Errorf("%s has the flows %s: name one, and the file with --config", arg,
			strings.Join(names, ", ")))
	}
	return nil, "", configError(fmt.Errorf("%s: no flow %q%s; flows: %s", plan.File.Path, arg, flows.DidYouMean(arg, names),
		strings.Join(names, ", ")))
}

// maxEvent bounds what is read of an event, far above what a stream takes.
const maxEvent = 64 << 20

// readEvent reads one event from a file, or from stdin for "-". What is no JSON is an
// event too: the flow says what is wrong with it.
func readEvent(path string, stdin io.Reader) (capture.Entry, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return capture.Entry{}, fmt.Errorf("read the event: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := readAll(in, maxEvent)
	if err != nil {
		return capture.Entry{}, fmt.Errorf("read the event: %w", err)
	}
	if text = bytes.TrimSpace(bytes.TrimPrefix(text, []byte("\uFEFF"))); len(text) == 0 {
		return capture.Entry{}, errors.New("there is no event: the input is empty")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	var one json.RawMessage
	if decoder.Decode(&one) == nil && decoder.More() {
		return capture.Entry{}, errors.New("there is more than one event: give one, and those before it with --after")
	}
	e, err := capture.Parse(text)
	if err != nil {
		return capture.Entry{Data: text}, nil
	}
	return e, nil
}

// readAll gives up when there is more than limit.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it is larger than %d MiB", limit>>20)
	}
	return text, err
}

func readEvents(path string) ([]capture.Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--after: %w", err)
	}
	defer f.Close()
	list, err := capture.Read(path, f)
	if err != nil {
		return nil, fmt.Errorf("--after: %w", err)
	}
	return list, nil
}

func printExplanation(w io.Writer, x *flowtest.Explanation) {
	fmt.Fprintf(w, "event %s: %s, %d bytes", oneLine(x.ID), x.Dialect, x.Bytes)
	if x.Schema != "" {
		fmt.Fprintf(w, ", %s track %s", x.Schema, x.Track)
	}
	if x.Key != "" {
		fmt.Fprintf(w, ", key %q", x.Key)
	}
	if x.Time != "" {
		fmt.Fprintf(w, ", of %s", x.Time)
	}
	fmt.Fprintf(w, "\nflow %s, stream %s\n", x.Flow, x.Stream)
	printSteps(w, "  ", x.Steps, true)
	for _, r := range x.Rates {
		if r.Before == r.After {
			continue
		}
		fmt.Fprintf(w, "provider %s: level %s → %s, scale %g → %g, effective %g → %g tokens/s\n", r.Provider,
			r.Before.Level, r.After.Level, r.Before.Scale, r.After.Scale, r.Before.Effective, r.After.Effective)
	}
	if l := x.DeadLetter; l != nil {
		fmt.Fprintf(w, "dead letter on %s\n  stage    %s\n  kind     %s\n", l.Stream, l.Stage, l.Kind)
		if l.Pointer != "" {
			fmt.Fprintf(w, "  pointer  %s\n", l.Pointer)
		}
		fmt.Fprintf(w, "  reason   %s\n", l.Reason)
	}
	fmt.Fprintf(w, "outcome: %s after %s\n", x.Outcome, attempts(x.Attempts))
}

// visible escapes what events may have in them to change the terminal, or how a line reads.
func visible(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r == '\n' || unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			b.WriteString(strings.Trim(strconv.QuoteRune(r), "'"))
		}
	}
	return b.String()
}

// harmless is text on one line, without what would change a terminal.
func harmless(text string) string { return oneLine(visible(text)) }

func oneLine(text string) string { return strings.ReplaceAll(text, "\n", `\n`) }

func attempts(n int) string {
	if n == 1 {
		return "1 attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

// printStep shows one run of a stage, with the time it took where that is asked for.
func printStep(w io.Writer, indent string, s flowtest.ExplainedStep, took bool) {
	notes := s.Notes
	if s.Error != "" {
		notes = append([]string{s.Error}, notes...)
	}
	first := ""
	if len(notes) > 0 {
		first, notes = notes[0], notes[1:]
	}
	duration := ""
	if took {
		duration = fmt.Sprintf("%8s  ", time.Duration(s.Nanoseconds).Round(100*time.Nanosecond))
	}
	fmt.Fprintf(w, "%s\n", strings.TrimRight(fmt.Sprintf("%s%d %-10s  %-7s  %s%s", indent, s.Index, s.Stage, s.Decision, duration, first), " "))
	pad := strings.Repeat(" ", len(indent)+len("1 rate-apply  stopped  ")+len(duration))
	for _, note := range notes {
		fmt.Fprintf(w, "%s%s\n", pad, note)
	}
}

// printSteps shows what the stages did with an event.
func printSteps(w io.Writer, indent string, steps []flowtest.ExplainedStep, took bool) {
	attempt := 1
	for _, s := range steps {
		if s.Attempt != attempt {
			attempt = s.Attempt
			fmt.Fprintf(w, "%sattempt %d\n", indent[2:], attempt)
		}
		printStep(w, indent, s, took)
	}
}
