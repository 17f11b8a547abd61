package simulate

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
)

// The plot's measures, in pixels.
const (
	plotWidth  = 960
	plotLeft   = 84
	plotRight  = 100 // room for the labels of the watermarks
	titleSpace = 34
	legendLine = 20
	depthSize  = 230
	levelSize  = 18
	rateSize   = 150
	panelGap   = 34
	axisSpace  = 46
)

// Strokes of the variants, told apart by colour and by dashes. The colours are
// also distinct to those who do not see red or green.
var strokes = [...]struct{ colour, dash string }{
	{"#0072b2", ""}, {"#d55e00", "7 3"}, {"#009e73", "2 3"}, {"#cc79a7", "9 3 2 3"},
}

// MaxVariants is how many a plot can tell apart.
const MaxVariants = len(strokes)

// Colours of the levels.
var levelColours = [...]string{event.LevelOK: "#e5e9ec", event.LevelSoft: "#f2c14e", event.LevelHard: "#b3261e"}

// WritePlot draws all variants into one SVG document: the queue's depth with its
// watermarks, the level of each, and what was fetched, over time.
func (r Report) WritePlot(w io.Writer) error {
	p := plot{report: r, out: bufio.NewWriter(w)}
	p.draw()
	return p.out.Flush()
}

type plot struct {
	report Report
	out    *bufio.Writer
	points [][]Sample // by variant
}

// maxPoints is how many samples of a variant are drawn.
const maxPoints = 800

func (p *plot) draw() {
	r := p.report
	for _, v := range r.Variants {
		p.points = append(p.points, merged(v.Result.Samples, maxPoints))
	}
	depthTop := titleSpace + legendLine*(len(r.Variants)+1) + 12
	levelTop := depthTop + depthSize + panelGap
	rateTop := levelTop + (levelSize+4)*len(r.Variants) + panelGap - 4
	height := rateTop + rateSize + axisSpace

	p.line(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" `+
		`font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">`, plotWidth, height)
	p.line(`<title>Queue depth, level and rate over time</title>`)
	p.line(`<rect width="%d" height="%d" fill="#fff"/>`, plotWidth, height)
	p.text(plotLeft, 22, "start", `font-size="14" font-weight="bold"`,
		fmt.Sprintf("Items/s: %s offered, drain of %s", decimal(r.Config.Offered), p.drains()))
	p.legend(titleSpace)

	p.timeGrid(depthTop, rateTop+rateSize)
	p.depthPanel(depthTop)
	p.levels(levelTop)
	p.ratePanel(rateTop)
	p.text((plotLeft+plotWidth-plotRight)/2, float64(height-8), "middle", "", "time since the start")
	p.line(`</svg>`)
}

// drains names the drain's rates.
func (p *plot) drains() string {
	text := decimal(p.report.Config.Drain.Rate)
	changes := p.report.Config.Drain.Changes
	if len(changes) > 3 {
		return text + fmt.Sprintf(" and then %d others", len(changes))
	}
	for _, c := range changes {
		text += fmt.Sprintf(", %s from %s on", decimal(c.Rate), clockTime(c.At))
	}
	return text
}

func (p *plot) legend(top float64) {
	for i, v := range p.report.Variants {
		y := top + float64(legendLine*i) + 10
		p.line(`<line x1="%d" y1="%s" x2="%d" y2="%s" %s/>`, plotLeft, px(y), plotLeft+34, px(y), stroke(i))
		text := fmt.Sprintf("%s: overflow %d, max depth %d, utilisation %.1f%%", v.Name, v.Result.Overflow,
			v.Result.MaxDepth, 100*v.Result.Utilisation)
		if v.Result.AtEnd != nil {
			text += fmt.Sprintf(", pinned at %s", v.Result.AtEnd.Level)
		}
		p.text(plotLeft+42, y+4, "start", "", text)
	}
	y := top + float64(legendLine*len(p.report.Variants)) + 10
	x := float64(plotLeft)
	for _, l := range levels() {
		p.line(`<rect x="%s" y="%s" width="14" height="12" fill="%s"/>`, px(x), px(y-6), levelColours[l])
		p.text(x+19, y+4, "start", "", l.String())
		x += 62
	}
	p.line(`<line x1="%s" y1="%s" x2="%s" y2="%[2]s" stroke="#555" stroke-width="1.2" stroke-dasharray="1 3"/>`,
		px(x+8), px(y), px(x+42))
	p.text(x+50, y+4, "start", "", "what could be drained")
	p.line(`<line x1="%s" y1="%s" x2="%s" y2="%[2]s" stroke="#a33" stroke-width="1" stroke-dasharray="5 4"/>`,
		px(x+208), px(y), px(x+242))
	p.text(x+250, y+4, "start", "", "watermarks and capacity")
}

// x is where a time lies. The product is rounded by itself, also on machines
// that could fuse it with the sum, so that a plot is the same on all.
func (p *plot) x(at time.Duration) float64 {
	return plotLeft + float64(at.Seconds()/p.report.Config.Duration.Seconds()*(plotWidth-plotLeft-plotRight))
}

func (p *plot) timeGrid(top, bottom int) {
	step := tickStep(p.report.Config.Duration, 10)
	for at := time.Duration(0); at <= p.report.Config.Duration; at += step {
		p.line(`<path d="M%s %dV%d" stroke="#e3e3e3"/>`, px(p.x(at)), top, bottom)
		p.text(p.x(at), float64(bottom+16), "middle", "", clockTime(at))
	}
}

// headroom is how much higher a panel is than its highest mark.
const headroom = 1.08

// axis draws the frame of a panel, with marks at equal distances.
func (p *plot) axis(top, size int, highest float64, unit string) {
	const marks = 5
	limit := highest * headroom
	for i := range marks + 1 {
		v := highest * float64(i) / marks
		y := yOf(v, limit, top, size)
		p.line(`<line x1="%d" y1="%s" x2="%d" y2="%[2]s" stroke="#e3e3e3"/>`, plotLeft-4, px(y), plotWidth-plotRight)
		p.text(plotLeft-8, y+4, "end", "", decimal(v))
	}
	p.line(`<rect x="%d" y="%d" width="%d" height="%d" fill="none" stroke="#888"/>`, plotLeft, top, plotWidth-plotLeft-plotRight, size)
	middle := top + size/2
	p.line(`<text x="18" y="%d" text-anchor="middle" transform="rotate(-90 18 %[1]d)">%s</text>`, middle, escaped(unit))
}

func (p *plot) depthPanel(top int) {
	q := p.report.Config.Queue
	limit := float64(q.Capacity) * headroom
	marks := [...]struct {
		name  string
		value int
	}{{"low", q.Low}, {"high", q.High}, {"capacity", q.Capacity}}
	p.axis(top, depthSize, float64(q.Capacity), "queue depth, items")
	for _, m := range marks {
		y := yOf(float64(m.value), limit, top, depthSize)
		p.line(`<line x1="%d" y1="%s" x2="%d" y2="%[2]s" stroke="#a33" stroke-dasharray="5 4"/>`, plotLeft, px(y), plotWidth-plotRight)
		p.text(plotWidth-plotRight+6, y+4, "start", `fill="#a33"`, fmt.Sprintf("%s %d", m.name, m.value))
	}
	for i, samples := range p.points {
		// What the depth did between two samples is a band around the line.
		var band strings.Builder
		for j, s := range samples {
			band.WriteString(verb(j) + px(p.x(s.At)) + " " + px(yOf(float64(s.MaxDepth), limit, top, depthSize)))
		}
		for j := len(samples) - 1; j >= 0; j-- {
			band.WriteString("L" + px(p.x(samples[j].At)) + " " + px(yOf(float64(samples[j].MinDepth), limit, top, depthSize)))
		}
		p.line(`<path d="%sZ" fill="%s" fill-opacity="0.25"/>`, band.String(), strokes[i].colour)
		p.curve(i, func(s Sample) float64 { return yOf(float64(s.Depth), limit, top, depthSize) })
	}
}

func (p *plot) levels(top int) {
	p.text(plotLeft-8, float64(top-8), "end", "", "level")
	for i, samples := range p.points {
		y := top + i*(levelSize+4)
		p.line(`<path d="M%d %dH%d" %s/>`, plotLeft-40, y+levelSize/2, plotLeft-8, stroke(i))
		begun := time.Duration(0)
		for from := 0; from < len(samples); {
			to := from
			for to < len(samples) && samples[to].Worst == samples[from].Worst {
				to++
			}
			x1, x2 := p.x(begun), p.x(samples[to-1].At)
			begun = samples[to-1].At
			p.line(`<rect x="%s" y="%d" width="%s" height="%d" fill="%s"/>`, px(x1), y, px(x2-x1), levelSize,
				levelColours[samples[from].Worst])
			from = to
		}
	}
	p.text(plotWidth-plotRight+6, float64(top+levelSize/2+4), "start", "", "worst of each")
	p.text(plotWidth-plotRight+6, float64(top+levelSize/2+18), "start", "", clockTime(p.points[0][0].At))
}

func (p *plot) ratePanel(top int) {
	highest := ceiling(p.report.maxFetched())
	limit := highest * headroom
	p.axis(top, rateSize, highest, "fetched, items/s")
	var drain strings.Builder
	for i, s := range p.points[0] {
		drain.WriteString(verb(i) + px(p.x(s.At)) + " " + px(yOf(s.Drain, limit, top, rateSize)))
	}
	for i := range p.points {
		p.curve(i, func(s Sample) float64 { return yOf(s.Fetched, limit, top, rateSize) })
	}
	p.line(`<path d="%s" fill="none" stroke="#555" stroke-width="1.2" stroke-dasharray="1 3"/>`, drain.String())
}

func (p *plot) curve(index int, y func(Sample) float64) {
	var path strings.Builder
	for i, s := range p.points[index] {
		path.WriteString(verb(i) + px(p.x(s.At)) + " " + px(y(s)))
	}
	p.line(`<path d="%s" fill="none" %s/>`, path.String(), stroke(index))
}

func (p *plot) line(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}

func (p *plot) text(x, y float64, anchor, style, text string) {
	if style != "" {
		style = " " + style
	}
	p.line(`<text x="%s" y="%s" text-anchor="%s"%s>%s</text>`, px(x), px(y), anchor, style, escaped(text))
}

func stroke(index int) string {
	s := strokes[index]
	attributes := fmt.Sprintf(`stroke="%s" stroke-width="1.6"`, s.colour)
	if s.dash != "" {
		attributes += fmt.Sprintf(` stroke-dasharray="%s"`, s.dash)
	}
	return attributes
}

// yOf is where a value lies in a panel; see x for the conversion.
func yOf(v, limit float64, top, size int) float64 {
	return float64(top+size) - float64(min(1, v/limit)*float64(size))
}

func verb(i int) string {
	if i == 0 {
		return "M"
	}
	return "L"
}

// px writes a coordinate to a tenth of a pixel.
func px(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func escaped(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text))
	return b.String()
}
