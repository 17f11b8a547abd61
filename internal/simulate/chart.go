package simulate

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

const (
	depthRows = 10
	rateRows  = 6
	// labelWidth is the space of the axis on the left, in columns.
	labelWidth = 11
	// MinColumns is the narrowest chart.
	MinColumns = 40
)

// WriteChart draws each variant in so many columns of text: the deepest the
// queue was, the worst level and what was fetched, over time. It needs no
// colour.
func (r Report) WriteChart(w io.Writer, columns int) error {
	out := bufio.NewWriter(w)
	width := max(columns, MinColumns) - labelWidth - 1
	top := ceiling(r.maxFetched())
	for i, v := range r.Variants {
		if i > 0 {
			fmt.Fprintln(out)
		}
		cells := merged(v.Result.Samples, width)
		fmt.Fprintf(out, "%s: queue depth in items\n", v.Name)
		r.depthPanel(out, cells)
		fmt.Fprintf(out, "%*s ", labelWidth, "level")
		for _, c := range cells {
			fmt.Fprint(out, [...]string{"·", "▒", "█"}[c.Worst])
		}
		fmt.Fprintf(out, "\n\nitems/s fetched; ┄ is what could be drained; level is · ok, ▒ soft, █ hard\n")
		panel(out, cells, top, rateRows, func(c Sample) (float64, []float64) { return c.Fetched, []float64{c.Drain} },
			map[int]string{rateRows - 1: decimal(top), 0: "0"})
		r.timeAxis(out, width)
	}
	return out.Flush()
}

func (r Report) depthPanel(out *bufio.Writer, cells []Sample) {
	q := r.Config.Queue
	capacity := float64(q.Capacity)
	row := func(v int) int { return min(depthRows-1, int(float64(v)/capacity*depthRows)) }
	labels := map[int]string{
		0: "0", row(q.Low): fmt.Sprintf("low %d", q.Low), row(q.High): fmt.Sprintf("high %d", q.High),
		depthRows - 1: fmt.Sprintf("of %d", q.Capacity),
	}
	lines := []float64{float64(q.Low), float64(q.High)}
	panel(out, cells, capacity, depthRows, func(c Sample) (float64, []float64) { return float64(c.MaxDepth), lines }, labels)
}

// panel draws bars up to top. of returns a bar's height and the lines behind it;
// labels are by row, counted from below.
func panel(out *bufio.Writer, cells []Sample, top float64, rows int, of func(Sample) (float64, []float64), labels map[int]string) {
	eighths := []rune(" ▁▂▃▄▅▆▇█")
	for row := rows - 1; row >= 0; row-- {
		var line strings.Builder
		for _, c := range cells {
			height, lines := of(c)
			fill := int(math.Round(min(1, max(0, height/top*float64(rows)-float64(row))) * 8))
			char := eighths[fill]
			for _, l := range lines {
				if fill == 0 && int(l/top*float64(rows)) == row {
					char = '┄'
				}
			}
			line.WriteRune(char)
		}
		fmt.Fprintf(out, "%*s│%s\n", labelWidth, labels[row], strings.TrimRight(line.String(), " "))
	}
}

func (r Report) timeAxis(out *bufio.Writer, width int) {
	step := tickStep(r.Config.Duration, max(2, width/10))
	marks, labels := []rune(strings.Repeat("─", width)), []rune(strings.Repeat(" ", width+labelWidth+1))
	cells := min(width, int(r.Config.Duration/r.Config.Interval))
	for at := time.Duration(0); at <= r.Config.Duration; at += step {
		x := int(at.Seconds() / r.Config.Duration.Seconds() * float64(cells))
		if x < width {
			marks[x] = '┴'
		}
		text := []rune(clockTime(at))
		from := min(labelWidth+1+x, len(labels)-len(text))
		copy(labels[from:], text)
	}
	fmt.Fprintf(out, "%*s└%s\n%s\n", labelWidth, "", string(marks), strings.TrimRight(string(labels), " "))
}
