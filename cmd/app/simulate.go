package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/internal/simulate"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

const (
	// samplesPerRun is how many samples a run has unless --interval says otherwise.
	samplesPerRun = 300
	// offeredShare is the source's rate in drains.
	offeredShare = 1.5
	// defaultColumns is the width of the chart where COLUMNS does not tell, and
	// mostColumns the widest.
	defaultColumns = 80
	mostColumns    = 500
)

type simulateFlags struct {
	fileFlags
	flow, provider string
	duration       time.Duration
	interval       time.Duration
	offered        string
	items          int
	drain          float64
	drainGiven     bool
	drainAt        []string
	capacity       int
	high, low      string
	delay          time.Duration
	lose           []string
	loseFor        time.Duration
	compare, try   []string
	csv, svg       string
	noChart        bool
}

func simulateCommand(sys system) *cobra.Command {
	var flags simulateFlags
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "See what the policy of a flow does to a queue, on a virtual clock",
		Long: `Simulate runs a flow in a closed loop and in no time. A source fetches with the
tokens of a provider; what it fetches fills a bounded queue that is drained at a
given rate; the queue signals soft, hard and ok as the Store does; and its events
pass the stages of the flow, with the settings of the file, to the provider's rate. A
flow that is switched off is simulated all the same.

It prints a chart and a table. Settings are compared by naming a second file with
--compare, or what would be other in this one with --try, whose keys are ok, soft,
hard (the scales), rate, burst, min_rate, ramp_up and on_silence (a duration, or
hold). There is no randomness: the same command prints the same.

The queue of the Store signals once on each transition: soft above the low
watermark, hard at the high one, ok back at the low one. --lose makes an event go
astray: ok (the first of that level), 3 (the third of all), hard:2 (the second
hard), each with @90s to count from there.

The source fetches at most at the offered rate, and does not catch up. Items that
find the queue full are dropped, and counted as overflow.

Exit status: 0, also when the queue overflows; 1 a file could not be written;
2 the file, a variable or the command line is wrong.`,
		Example: `  pulseflow simulate
  pulseflow simulate --drain-at 1m=20%,2m=100% --try soft=0.7,ramp_up=30s --svg plot.svg
  pulseflow simulate --lose ok --try on_silence=60s
  pulseflow simulate --compare other.yaml --csv samples.csv --no-chart`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		flags.drainGiven = f.Changed("drain")
		return flags.run(cmd.Context(), sys)
	}
	configFlag(cmd, &flags.config)
	f.StringVar(&flags.flow, "flow", "", "flow to simulate; default is the only one that adjusts the provider")
	f.StringVar(&flags.provider, "provider", "", "provider whose tokens the source takes; default is the only one that a flow adjusts")
	f.DurationVar(&flags.duration, "duration", 5*time.Minute, "how long to run, in virtual time")
	f.StringVar(&flags.offered, "offered", fmt.Sprintf("%vx", offeredShare), "what the source fetches when nothing holds it up: "+
		"items/s, or times --drain as 1.5x")
	f.IntVar(&flags.items, "items", 50, "items that come with one token")
	f.Float64Var(&flags.drain, "drain", 0, "items/s that leave the queue; default is two thirds of what the provider's full rate brings")
	f.StringSliceVar(&flags.drainAt, "drain-at", nil, "other drain rates from a time on, as `TIME=RATE`,...: items/s, or % of --drain")
	f.IntVar(&flags.capacity, "capacity", simulate.DefaultCapacity, "items the queue holds")
	f.StringVar(&flags.high, "high", percent(simulate.DefaultHigh), "high watermark: items, or % of the capacity")
	f.StringVar(&flags.low, "low", percent(simulate.DefaultLow), "low watermark: items, or % of the capacity")
	f.DurationVar(&flags.delay, "delay", 100*time.Millisecond, "time from the queue's signal to the flow")
	f.StringSliceVar(&flags.lose, "lose", nil, "`EVENT` that never arrives: LEVEL, NUMBER or LEVEL:NUMBER, with @TIME or without; may be repeated")
	f.DurationVar(&flags.loseFor, "lose-for", 10*time.Second, "how long events like the lost one are lost too; 0 for it alone")
	f.StringArrayVar(&flags.compare, "compare", nil, "another flows `FILE` to show beside; may be repeated")
	f.StringArrayVar(&flags.try, "try", nil, "other settings to show beside, as `KEY=VALUE`,...; may be repeated")
	f.DurationVar(&flags.interval, "interval", 0, fmt.Sprintf("time between two samples; default is the duration divided by %d", samplesPerRun))
	f.StringVar(&flags.csv, "csv", "", "write the samples to this `FILE`, or - for standard output in place of chart and table")
	f.StringVar(&flags.svg, "svg", "", "write a plot to this `FILE`, or - for standard output in place of chart and table")
	f.BoolVar(&flags.noChart, "no-chart", false, "print the table only")
	for flag, ext := range map[string][]string{"config": {"yaml", "yml"}, "compare": {"yaml", "yml"}, "csv": {"csv"}, "svg": {"svg"}} {
		_ = cmd.MarkFlagFilename(flag, ext...)
	}
	return cmd
}

func percent(share float64) string { return fmt.Sprintf("%v%%", 100*share) }

func (f *simulateFlags) run(ctx context.Context, sys system) error {
	switch {
	case f.csv == "-" && f.svg == "-":
		return configError(errors.New("--csv and --svg: only one can be standard output"))
	case f.csv != "" && filepath.Clean(f.csv) == filepath.Clean(f.svg):
		return configError(fmt.Errorf("--csv and --svg: both are %s, and one would replace the other", f.csv))
	}
	subjects, err := f.subjects(sys)
	if err != nil {
		return err
	}
	for _, s := range subjects {
		for _, out := range []string{f.csv, f.svg} {
			if err := notRead(out, s.plan.File.Path); err != nil {
				return configError(err)
			}
		}
	}
	cfg, err := f.settings(&subjects[0])
	if err != nil {
		return configError(err)
	}
	report := simulate.Report{Config: cfg}
	for _, s := range subjects {
		result, err := simulate.Run(ctx, cfg, s.flow)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil: // what the coordinator refuses of the settings
			return configError(fmt.Errorf("simulate %s: %w", s.name, err))
		}
		report.Variants = append(report.Variants, simulate.Variant{
			Name: s.name, Provider: s.flow.Provider, Rates: s.rates(), Result: result,
		})
	}
	return f.show(sys, report)
}

// show writes the files, and then prints what is not one of them.
func (f *simulateFlags) show(sys system, report simulate.Report) error {
	printed := false
	for path, write := range map[string]func(io.Writer) error{f.csv: report.WriteCSV, f.svg: report.WritePlot} {
		switch path {
		case "":
		case "-":
			printed = true
			if err := write(sys.stdout); err != nil {
				return err
			}
		default:
			if err := writeTo(path, write); err != nil {
				return err
			}
		}
	}
	if !printed {
		if !f.noChart {
			if err := report.WriteChart(sys.stdout, columns(sys)); err != nil {
				return err
			}
			fmt.Fprintln(sys.stdout)
		}
		if err := report.WriteTable(sys.stdout); err != nil {
			return err
		}
	}
	out := sys.stdout
	if printed {
		out = sys.stderr
	}
	for _, finding := range report.Findings() {
		fmt.Fprintf(out, "\n%s\n", finding)
	}
	return nil
}

// notRead refuses to write to a file that the command reads: a name has come into the place
// of another.
func notRead(out string, inputs ...string) error {
	there, err := os.Stat(out)
	if err != nil || !there.Mode().IsRegular() {
		return nil
	}
	for _, in := range inputs {
		if info, err := os.Stat(in); err == nil && os.SameFile(there, info) {
			return fmt.Errorf("%s is read by this command, and would be replaced: write to another file", out)
		}
	}
	return nil
}

func writeTo(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// columns is the width of the terminal as COLUMNS tells it.
func columns(sys system) int {
	text, _ := sys.lookupEnv("COLUMNS")
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return min(n, mostColumns)
	}
	return defaultColumns
}

// subject is one flow to simulate.
type subject struct {
	name string
	plan *router.Plan
	flow simulate.Flow
}

// subjects are the flow of the file, that of each other file, and the file's own
// with each set of other settings.
func (f *simulateFlags) subjects(sys system) ([]subject, error) {
	if n := 1 + len(f.compare) + len(f.try); n > simulate.MaxVariants {
		return nil, configError(fmt.Errorf("%d variants are more than a plot can tell apart: at most %d", n, simulate.MaxVariants))
	}
	first, err := f.subject(sys, f.config)
	if err != nil {
		return nil, err
	}
	list := []subject{first}
	for _, path := range f.compare {
		if path == "" {
			return nil, configError(errors.New("--compare: the name is empty: name a file"))
		}
		s, err := f.subject(sys, path)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	for _, text := range f.try {
		s, err := f.subject(sys, f.config)
		if err != nil {
			return nil, err
		}
		if err := s.change(text); err != nil {
			return nil, configError(fmt.Errorf("--try %q: %w", text, err))
		}
		s.name = text
		list = append(list, s)
	}
	for i, s := range list {
		for _, other := range list[:i] {
			if s.name == other.name {
				return fullNames(list), nil
			}
		}
	}
	return list, nil
}

// fullNames tells files of the same name apart by their paths.
func fullNames(list []subject) []subject {
	for i := range list {
		if path := list[i].plan.File.Path; list[i].name == filepath.Base(path) {
			list[i].name = path
		}
	}
	return list
}

// subject loads a file and finds its flow.
func (f *simulateFlags) subject(sys system, path string) (subject, error) {
	one := f.fileFlags
	one.config = path
	plan, err := one.load(sys)
	if err != nil {
		return subject{}, err
	}
	var found []subject
	var others []string
	for _, p := range plan.Flows {
		for _, provider := range adjusted(p) {
			if !slices.ContainsFunc(plan.File.Providers, named(provider)) {
				continue
			}
			others = append(others, fmt.Sprintf("flow %q adjusts %q", p.Name, provider))
			if f.flow != "" && f.flow != p.Name || f.provider != "" && f.provider != provider {
				continue
			}
			found = append(found, subject{name: filepath.Base(plan.File.Path), plan: plan, flow: simulate.Flow{
				Name: p.Name, Track: p.Track, Stages: p.Stages, Providers: plan.File.Providers, Provider: provider,
			}})
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(others) == 0:
		return subject{}, configError(fmt.Errorf("%s: no flow adjusts the rate of a declared provider", plan.File.Path))
	case len(found) == 0:
		return subject{}, configError(fmt.Errorf("%s: no flow fits --flow and --provider: %s", plan.File.Path, strings.Join(others, ", ")))
	default:
		return subject{}, configError(fmt.Errorf("%s: choose with --flow or --provider: %s", plan.File.Path, strings.Join(others, ", ")))
	}
}

// adjusted are the providers that a flow adjusts, each once.
func adjusted(p router.FlowPlan) []string {
	var names []string
	applies := slices.ContainsFunc(p.Stages, func(s stages.Planned) bool {
		_, ok := s.Config.(*stages.RateApplyConfig)
		return ok
	})
	for _, s := range p.Stages {
		h, ok := s.Config.(*stages.HandleConfig)
		if ok && applies && h.NeedsProviders() && !slices.Contains(names, h.Provider) {
			names = append(names, h.Provider)
		}
	}
	return names
}
