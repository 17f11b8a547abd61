package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/telemetry"
	"github.com/mjdevaccount/pulseflow/router"
)

type runFlags struct {
	fileFlags
	feed      []string
	stream    string
	keepTimes bool
	drain     bool
	watch     bool
	logLevel  string
	logFormat string
}

// runName is the name of the command that a signal ends in an orderly way.
const runName = "run"

func runCommand(sys system) *cobra.Command {
	var flags runFlags
	cmd := &cobra.Command{
		Use:   runName,
		Short: "Run the flows of a file until a signal",
		Long: `Run starts every flow of the file and its admin listener, and stays up until
SIGINT or SIGTERM. It then stops reading, finishes what is in flight within
shutdown_timeout, and prints a summary. A second signal ends it at once.

With the redis backend the process is up, and /readyz says degraded, while Redis
cannot be reached; flows attach when it comes.

On SIGHUP, on POST /reload and, with --watch, when the file or a schema that it
refers to has changed, the file is loaded again. One that is wrong changes
nothing: what is wrong is in the log and in /flows. Of a right one only the flows
that changed are stopped and started anew; no event is lost, and the keys of
dedupe and the rate levels are kept. Most of bus, admin and rates cannot change
while the process runs, and is refused. docs/reload.md tells more.

A recording given with --feed is put on the streams once the flows run. Each of
its lines is an event, or an entry as it stood on a stream:
{"stream": ..., "id": ..., "fields": {"data": ...}}. An entry keeps its id, so
feeding it twice makes duplicates. Times are moved so that the newest event is
now; --keep-times leaves them.

Exit status: 0 stopped or drained, 1 failed while running, 2 the file, a
variable or the command line is wrong.`,
		Example: `  pulseflow run
  pulseflow run --feed testdata/feedback.jsonl --drain
  pulseflow run --config flows.yaml --watch
  EVENT_BUS_BACKEND=redis REDIS_URL=redis://localhost:6379/0 pulseflow run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), sys, &flags) },
	}
	flags.register(cmd)
	flags.registerListen(cmd)
	cmd.Flags().StringArrayVar(&flags.feed, "feed", nil, "recording to put on the streams: a JSONL file, or - for "+
		"standard input; may be repeated")
	cmd.Flags().StringVar(&flags.stream, "stream", "", "topic for the entries of --feed; default is the one they name, "+
		"or the only one")
	cmd.Flags().BoolVar(&flags.keepTimes, "keep-times", false, "leave the times of --feed as recorded")
	cmd.Flags().BoolVar(&flags.drain, "drain", false, "stop once the feed is consumed and the flows are idle")
	cmd.Flags().BoolVar(&flags.watch, "watch", false, "load the file again when it, or a schema it refers to, has changed")
	cmd.Flags().StringVar(&flags.logLevel, "log-level", "info", "debug, info, warn or error")
	cmd.Flags().StringVar(&flags.logFormat, "log-format", "text", "text or json")
	_ = cmd.MarkFlagFilename("feed", "jsonl")
	return cmd
}

// gcPercent is the garbage collector's target where GOGC does not set it. What lives
// on is a few megabytes, and every event leaves a few kilobytes of garbage: at Go's
// own 100 the collector runs dozens of times a second.
const gcPercent = 400

func run(ctx context.Context, sys system, flags *runFlags) error {
	log, err := telemetry.NewLogger(sys.stderr, flags.logLevel, flags.logFormat)
	if err != nil {
		return configError(err)
	}
	flags.fed = len(flags.feed) > 0
	plan, err := await(ctx, 0, func() (*router.Plan, error) { return flags.load(sys) })
	switch {
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil // stopped before anything ran
	case err != nil:
		return err
	}
	if _, set := sys.lookupEnv("GOGC"); !set {
		debug.SetGCPercent(gcPercent)
	}
	feed, err := await(ctx, 0, func() ([]recorded, error) { return flags.recording(sys, plan, time.Now()) })
	switch {
	case ctx.Err() != nil:
		return nil // stopped before anything ran
	case err != nil:
		return configError(err)
	}
	svc, err := newService(plan, func() (*router.Plan, flows.Diagnostics) { return flags.planAgain(sys) }, log)
	if err != nil {
		return err
	}
	if flags.watch {
		if svc.reloads.watch, err = flags.watchFile(plan, log); err != nil {
			return errors.Join(err, svc.close())
		}
		defer svc.reloads.watch.files.Close()
	}
	if sys.hangups != nil {
		var stop func()
		svc.reloads.hangups, stop = sys.hangups()
		defer stop()
	}
	begun := time.Now()
	err = svc.run(ctx, feed, flags.drain)
	svc.summary(sys.stdout, time.Since(begun))
	return err
}

// watchFile watches the file that was loaded, which the built-in one is not.
func (f *runFlags) watchFile(plan *router.Plan, log *slog.Logger) (*fileWatch, error) {
	path := cmp.Or(f.config, defaultFile)
	if plan.File.Path != path {
		return nil, configError(errNothingToWatch)
	}
	if readOnce(path) {
		return nil, configError(fmt.Errorf("--watch: %s cannot be watched: it is not a regular file", path))
	}
	return newFileWatch(path, plan, log)
}

// recording reads the feeds, so that a mistake in one is told before anything runs.
func (f *runFlags) recording(sys system, plan *router.Plan, now time.Time) ([]recorded, error) {
	var all []recorded
	topics := activeTopics(plan)
	for _, path := range f.feed {
		list, err := openRecording(path, sys.stdin)
		if err != nil {
			return nil, err
		}
		if len(list) > 0 && len(topics) == 0 {
			return nil, fmt.Errorf("feed %s: no flow runs: %w", path, errNothingRuns(plan))
		}
		if !f.keepTimes {
			if err := shiftTimes(list, now); err != nil {
				return nil, fmt.Errorf("feed %s: %w", path, err)
			}
		}
		for i := range list {
			if list[i].topic, err = topicOf(list[i], f.stream, topics); err != nil {
				return nil, fmt.Errorf("feed %s: %w", path, err)
			}
		}
		all = append(all, list...)
	}
	return all, nil
}

// activeTopics lists the topics that running flows read, each once.
func activeTopics(plan *router.Plan) []string {
	var topics []string
	seen := make(map[string]bool)
	for _, p := range plan.Flows {
		if p.Disabled == "" && !seen[p.Topic] {
			seen[p.Topic] = true
			topics = append(topics, p.Topic)
		}
	}
	return topics
}

func errNothingRuns(plan *router.Plan) error {
	for _, p := range plan.Flows {
		if p.Disabled != "" {
			return errors.New(p.Disabled)
		}
	}
	return errors.New("the file has no flows")
}

// feedAll puts the recording on the bus, waiting where it is full.
func (s *service) feedAll(ctx context.Context, feed []recorded) error {
	for _, e := range feed {
		bus, key := source(s.plan(), e.topic)
		if err := s.buses.of(bus.Name).feed(ctx, key, e); err != nil {
			return fmt.Errorf("feed line %d: %w", e.Line, err)
		}
	}
	if len(feed) > 0 {
		s.log.Info("feed is on the bus", slog.Int("entries", len(feed)))
	}
	return nil
}
