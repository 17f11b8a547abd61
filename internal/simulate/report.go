package simulate

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
)

// Report is one configuration's results for several variants of a flow.
type Report struct {
	Config   Config
	Variants []Variant
}

// Variant is a flow's settings and what came of them.
type Variant struct {
	Name     string
	Provider string
	// Rates are the provider's effective rates by level, in tokens/s.
	Rates  [3]float64
	Result *Result
}

// WriteTable compares the variants, a column for each.
func (r Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, cell func(Variant) string) {
		fmt.Fprint(t, name)
		for _, v := range r.Variants {
			fmt.Fprint(t, "\t", cell(v))
		}
		fmt.Fprintln(t)
	}
	share := func(d time.Duration) string {
		return fmt.Sprintf("%s (%.1f%%)", seconds(d), 100*d.Seconds()/r.Config.Duration.Seconds())
	}
	row("", func(v Variant) string { return v.Name })
	row("overflow, items", func(v Variant) string { return strconv.FormatUint(v.Result.Overflow, 10) })
	row("max depth, items", func(v Variant) string {
		return fmt.Sprintf("%d (%.1f%%)", v.Result.MaxDepth, 100*float64(v.Result.MaxDepth)/float64(r.Config.Queue.Capacity))
	})
	row("mean utilisation of the drain", func(v Variant) string { return fmt.Sprintf("%.1f%%", 100*v.Result.Utilisation) })
	row("throughput, items/s", func(v Variant) string { return fmt.Sprintf("%.1f", v.Result.Throughput) })
	for _, l := range levels() {
		row("time in "+l.String(), func(v Variant) string { return share(v.Result.InLevel[l]) })
	}
	for _, l := range levels() {
		row("items/s that "+l.String()+" allows", func(v Variant) string {
			return decimal(v.Rates[l] * float64(r.Config.Items))
		})
	}
	row("events ok, soft, hard", func(v Variant) string {
		sent := v.Result.Sent
		return fmt.Sprintf("%d, %d, %d", sent[event.LevelOK], sent[event.LevelSoft], sent[event.LevelHard])
	})
	row("events lost", func(v Variant) string { return strconv.Itoa(len(v.Result.Lost)) })
	row("dead letters", func(v Variant) string { return strconv.Itoa(v.Result.Refused) })
	row("adjustments published", func(v Variant) string { return strconv.Itoa(v.Result.Published) })
	row("time pinned", func(v Variant) string { return share(v.Result.Pinned) })
	row("time let go early", func(v Variant) string { return share(v.Result.Early) })
	return t.Flush()
}

// Findings are what a reader of the table should not overlook, a sentence each.
func (r Report) Findings() []string {
	var list []string
	for _, v := range r.Variants {
		if p := v.Result.AtEnd; p != nil {
			list = append(list, fmt.Sprintf("%s: provider %s is pinned at %s since %s: %s. "+
				"Set on_silence on the provider (on_silence: {after: 60s, step: true}) to have a silent level released, "+
				"or free it with DELETE /rates/%s/coordinators/%s on the admin listener",
				v.Name, v.Provider, p.Level, seconds(p.Since), v.cause(p), v.Provider, Coordinator))
		}
		if early := v.Result.Early; early > 0 && v.Result.Refused == 0 {
			why := "on_silence let go of it before the queue had recovered; a longer after would hold it"
			if len(v.Result.Lost) > 0 {
				why = "an event was lost, or on_silence let go of it too early"
			}
			list = append(list, fmt.Sprintf("%s: for %s provider %s was in a better level than the queue had last signalled: %s",
				v.Name, seconds(early), v.Provider, why))
		}
		if v.Result.Refused > 0 {
			list = append(list, fmt.Sprintf("%s: %d events became dead letters, the first in %v", v.Name, v.Result.Refused, v.Result.Reason))
		}
		if v.Result.Overflow > 0 {
			list = append(list, fmt.Sprintf("%s: the queue overflowed; %d items were dropped", v.Name, v.Result.Overflow))
		}
		slowest := r.Config.Drain.Rate
		for _, c := range r.Config.Drain.Changes {
			slowest = min(slowest, c.Rate)
		}
		if hard := v.Rates[event.LevelHard] * float64(r.Config.Items); min(hard, r.Config.Offered) > slowest {
			list = append(list, fmt.Sprintf("%s: hard still allows %s items/s, more than the slowest drain of %s: "+
				"lower min_rate or the scale of hard", v.Name, decimal(hard), decimal(slowest)))
		}
	}
	return list
}

// cause says why the queue's last signal did not end the level.
func (v Variant) cause(p *Pin) string {
	for i := len(v.Result.Lost) - 1; i >= 0; i-- {
		if l := v.Result.Lost[i]; l.Level < p.Level && l.At >= p.Since {
			return fmt.Sprintf("the %s of %s was lost, and the queue does not repeat it", l.Level, seconds(l.At))
		}
	}
	return fmt.Sprintf("the queue's last %s had no effect", p.Signalled)
}

// WriteCSV writes every sample of every variant.
func (r Report) WriteCSV(w io.Writer) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{
		"variant", "time_s", "depth", "depth_min", "depth_max", "level", "worst_level", "scale",
		"rate_tokens_per_s", "fetched_items_per_s", "drained_items_per_s", "drain_items_per_s", "overflow_items",
	})
	for _, v := range r.Variants {
		for _, s := range v.Result.Samples {
			_ = out.Write([]string{
				v.Name, decimal(s.At.Seconds()), strconv.Itoa(s.Depth), strconv.Itoa(s.MinDepth), strconv.Itoa(s.MaxDepth),
				s.Level.String(), s.Worst.String(), decimal(s.Scale), decimal(s.Rate),
				decimal(s.Fetched), decimal(s.Drained), decimal(s.Drain), strconv.FormatUint(s.Overflow, 10),
			})
		}
	}
	out.Flush()
	return out.Error()
}

// seconds writes a time rounded to a tenth of a second.
func seconds(d time.Duration) string { return decimal(math.Round(d.Seconds()*10)/10) + "s" }

// decimal writes a number with at most three places, so that the last digits of
// floating-point arithmetic do not show.
func decimal(v float64) string {
	text := strconv.FormatFloat(v, 'f', 3, 64)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

// maxFetched is the highest mean that a sample has, of what was fetched, what
// could have been drained and what was offered, in items/s.
func (r Report) maxFetched() float64 {
	top := r.Config.Drain.Rate
	for _, v := range r.Variants {
		for _, s := range v.Result.Samples {
			top = max(top, s.Fetched, s.Drain)
		}
	}
	return top
}

// ceiling is the next number of one digit and zeros, or 25 and zeros.
func ceiling(v float64) float64 {
	if v <= 0 {
		return 1
	}
	unit := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 2.5, 3, 4, 5, 6, 8} {
		if m*unit >= v*(1-1e-9) {
			return m * unit
		}
	}
	return 10 * unit
}

// tickStep is the distance of the marks of a time axis, for at most n of them.
func tickStep(d time.Duration, n int) time.Duration {
	steps := []time.Duration{
		time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond,
		50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	}
	for _, s := range steps {
		if d <= time.Duration(n)*s {
			return s
		}
	}
	step := time.Hour
	for d > time.Duration(n)*step {
		step *= 2
	}
	return step
}

// clockTime writes a time of the axis: 90s, 2m, 1h30m.
func clockTime(d time.Duration) string {
	text := d.String()
	text = strings.TrimSuffix(text, "0s")
	if text == "" {
		return "0"
	}
	if last := text[len(text)-1]; last >= '0' && last <= '9' {
		text += "0s" // it was 10s, 20s, …
	}
	return strings.Replace(text, "h0m", "h", 1)
}
