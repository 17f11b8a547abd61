// Command bench measures Pulseflow beside the stock library and the raw limit of
// the machine, in one run, and prints ratios.
//
// Each measurement is a process of its own, so that its CPU time and memory are
// told by the operating system: pulseflow itself, as it is shipped, or this
// program as one of the workers in workers.go. The Redis ones share one server,
// which bench starts, and read the same entries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	var o options
	worker := flag.String("worker", "", "run as a worker (used by bench itself)")
	flag.StringVar(&o.binary, "pulseflow", "bin/pulseflow", "the program to measure")
	flag.IntVar(&o.entries, "n", 200_000, "entries on the stream")
	flag.IntVar(&o.runs, "runs", 3, "runs; the median is printed")
	flag.StringVar(&o.only, "only", "", "measure only what contains this text")
	flag.BoolVar(&o.latency, "latency", false, "measure latency at offered rates instead of throughput")
	flag.StringVar(&o.url, "url", "", "Redis server of a worker (used by bench itself)")
	flag.StringVar(&o.mallocs, "mallocs", "", "file that a worker notes its allocations in (used by bench itself)")
	flag.Parse()
	ctx := context.Background()
	var err error
	switch {
	case *worker != "":
		err = workCounted(ctx, *worker, o)
	case o.latency:
		err = latency(ctx)
	default:
		err = throughput(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	binary  string
	entries int
	runs    int
	only    string
	latency bool
	url     string
	mallocs string
}

// subject is one thing to measure.
type subject struct {
	name string
	// worker is the worker to run; "" runs pulseflow with the publish mode given.
	worker string
	when   string
	alone  bool // does not share rate levels
	inmem  bool
	// limit says which subject its ratio is taken to.
	base string
}

var subjects = []subject{
	{name: "redis: raw XREADGROUP + XACK, no decode", worker: "raw"},
	{name: "redis: stock watermill-redisstream, 1 subscription", worker: "stock1", base: "raw"},
	{name: "redis: stock watermill-redisstream, 16 subscriptions", worker: "stock16", base: "raw"},
	{name: "redis: pulseflow, whole chain", base: "raw"},
	{name: "redis: pulseflow, whole chain, publish on change", when: "change", base: "raw"},
	{name: "redis: pulseflow, publish on change, levels not shared", when: "change", alone: true, base: "raw"},
	{name: "redis: pulseflow, whole chain, publish always", when: "always", base: "raw"},
	{name: "inmem: gochannel + router, no-op handler", worker: "gochannel", inmem: true},
	{name: "inmem: pulseflow, whole chain", worker: "chain", inmem: true, base: "gochannel"},
}

func (s subject) key() string {
	if s.worker != "" {
		return s.worker
	}
	return fmt.Sprintf("pulseflow %s %v", s.when, s.alone)
}

// figures is one measurement.
type figures struct {
	rate   float64 // events/s
	cpu    float64 // µs of user and system time an event
	rss    float64 // MiB at most
	allocs float64 // an event
}

func throughput(ctx context.Context, o options) error {
	server, err := startRedis()
	if err != nil {
		return err
	}
	defer server.stop()
	results := make(map[string][]figures)
	for run := range o.runs {
		for _, s := range subjects {
			if !strings.Contains(s.name, o.only) {
				continue
			}
			f, err := measure(ctx, s, o, server)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			results[s.key()] = append(results[s.key()], f)
			fmt.Fprintf(os.Stderr, "run %d: %-55s %9.0f events/s\n", run+1, s.name, f.rate)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d entries, median of %d\tevents/s\tCPU µs/event\tallocs/event\tRSS MiB\t÷ limit\t÷ stock 16\t\n",
		o.entries, o.runs)
	for _, s := range subjects {
		list := results[s.key()]
		if len(list) == 0 {
			continue
		}
		m := median(list)
		fmt.Fprintf(w, "%s\t%.0f\t%.1f\t%.1f\t%.0f\t%s\t%s\t\n", s.name, m.rate, m.cpu, m.allocs, m.rss,
			ratio(results, s.key(), s.base), ratioIf(!s.inmem, results, s.key(), "stock16"))
	}
	return w.Flush()
}

func ratioIf(yes bool, results map[string][]figures, a, b string) string {
	if !yes {
		return "-"
	}
	return ratio(results, a, b)
}

// ratio is the median of the ratios run by run: what disturbs the machine during
// one run disturbs both.
func ratio(results map[string][]figures, a, b string) string {
	if a == b {
		return "1.00"
	}
	n := min(len(results[a]), len(results[b]))
	if n == 0 {
		return "-"
	}
	ratios := make([]float64, n)
	for i := range n {
		ratios[i] = results[a][i].rate / results[b][i].rate
	}
	slices.Sort(ratios)
	return fmt.Sprintf("%.2f", ratios[n/2])
}

func median(list []figures) figures {
	of := func(get func(figures) float64) float64 {
		values := make([]float64, len(list))
		for i, f := range list {
			values[i] = get(f)
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return figures{
		rate:   of(func(f figures) float64 { return f.rate }),
		cpu:    of(func(f figures) float64 { return f.cpu }),
		rss:    of(func(f figures) float64 { return f.rss }),
		allocs: of(func(f figures) float64 { return f.allocs }),
	}
}

// measure runs one subject to the end of its entries.
func measure(ctx context.Context, s subject, o options, server *redisServer) (figures, error) {
	var args []string
	program := o.binary
	env := os.Environ()
	switch {
	case s.worker != "":
		self, err := os.Executable()
		if err != nil {
			return figures{}, err
		}
		program = self
		args = []string{"-worker", s.worker, "-n", fmt.Sprint(o.entries), "-url", server.url, "-mallocs", server.mallocs()}
	default:
		file, err := flowFile(s.when, s.alone)
		if err != nil {
			return figures{}, err
		}
		defer os.RemoveAll(filepath.Dir(file))
		args = []string{"run", "--config", file, "--backend", "redis", "--log-level", "error", "--listen", server.admin}
		env = append(env, "REDIS_URL="+server.url)
	}
	if !s.inmem {
		if err := server.fill(ctx, o.entries); err != nil {
			return figures{}, err
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return figures{}, err
	}
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		return figures{}, err
	}
	var took time.Duration
	var f figures
	if s.inmem {
		// The worker times itself: there is no stream to watch from outside.
		if _, err := fmt.Fscan(out, &took); err != nil {
			return figures{}, errors.Join(err, cmd.Wait())
		}
	} else {
		if err := server.consumed(ctx); err != nil {
			return figures{}, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		}
		took = time.Since(begun)
		if s.worker == "" {
			f.allocs = allocations(server.admin) / float64(o.entries)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return figures{}, err
	}
	if err := cmd.Wait(); err != nil {
		return figures{}, err
	}
	if s.worker != "" {
		text, err := os.ReadFile(server.mallocs())
		if err != nil {
			return figures{}, err
		}
		if _, err := fmt.Sscan(string(text), &f.allocs); err != nil {
			return figures{}, err
		}
		f.allocs /= float64(o.entries)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return figures{}, errors.New("the system does not tell what a process used")
	}
	f.rate = float64(o.entries) / took.Seconds()
	f.cpu = float64((cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Microseconds()) / float64(o.entries)
	f.rss = float64(usage.Maxrss) / 1024
	return f, nil
}
