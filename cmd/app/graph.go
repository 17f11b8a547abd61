package app

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// The formats of graph.
const (
	formatMermaid = "mermaid"
	formatDOT     = "dot"
)

func graphCommand(sys system) *cobra.Command {
	var (
		files  fileFlags
		format string
	)
	cmd := &cobra.Command{
		Use:   "graph [FILE]",
		Short: "Draw a flows file as Mermaid or DOT",
		Long: `Graph prints what a file makes of its events: the streams with their keys, the
flows with their stages in order, where dead letters go, and the providers whose
rate is adjusted. Flows that do not run are drawn with dashes. It opens no
connection.

GitHub, GitLab and many editors draw Mermaid in a fenced block; Graphviz draws DOT.
Mermaid refuses more than 500 arrows, which are some 150 flows: draw those as DOT.

Exit status: 0, or 2 when the file is wrong.`,
		Example: "  pulseflow graph\n  pulseflow graph deploy/flows.yaml --format dot | dot -Tsvg > flows.svg",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if format != formatMermaid && format != formatDOT {
				return configError(fmt.Errorf("--format %q: must be mermaid or dot", format))
			}
			if len(args) == 1 && files.config != "" {
				return configError(errors.New("give the file as an argument or with --config, not both"))
			}
			if len(args) == 1 {
				files.config = args[0]
			}
			plan, err := files.load(sys)
			if err != nil {
				return err
			}
			g := newGraph(plan)
			text := g.mermaid()
			if format == formatDOT {
				text = g.dot()
			}
			_, err = fmt.Fprint(sys.stdout, text)
			return err
		},
	}
	files.register(cmd)
	cmd.Flags().StringVar(&format, "format", formatMermaid, "mermaid or dot")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(
		[]string{formatMermaid, formatDOT}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// graph is what is drawn, whatever the format. Streams and providers are in the order
// in which the file speaks of them first.
type graph struct {
	streams, providers []node
	flows              []flowBox
	edges              []edge

	ids map[router.Target]string // of streams, by the bus and the key
}

// node has an id of letters and digits, and the lines of its label.
type node struct {
	id    string
	label []string
}

// flowBox is a flow around its stages.
type flowBox struct {
	node
	stages []node
	off    bool
}

// edge leads from one node to another. A failure edge leads to the dead letters, from
// the flow as a whole.
type edge struct {
	from, to, label string
	failure         bool
	flow            int // of a failure edge: the index of the flow
}

func newGraph(plan *router.Plan) *graph {
	g := &graph{ids: make(map[router.Target]string)}
	providers := make(map[string]string, len(plan.File.Providers))
	for i, p := range plan.File.Providers {
		id := "provider" + strconv.Itoa(i+1)
		providers[p.Name] = id
		g.providers = append(g.providers, node{id, []string{
			p.Name, "rate " + number(p.Rate) + "/s, burst " + number(p.Burst) + ", floor " + number(p.MinRate) + "/s",
		}})
	}
	for i := range plan.Flows {
		g.flow(plan, i, providers)
	}
	return g
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// stream returns the id of the stream with a key on a bus, which is drawn once. The
// default bus is not named.
func (g *graph) stream(topic, bus, key string) string {
	id, ok := g.ids[router.Target{Bus: bus, Key: key}]
	if !ok {
		id = "stream" + strconv.Itoa(len(g.streams)+1)
		g.ids[router.Target{Bus: bus, Key: key}] = id
		label := []string{topic, key}
		if bus != flows.DefaultBus {
			label = append(label, "bus "+bus)
		}
		g.streams = append(g.streams, node{id, label})
	}
	return id
}

func (g *graph) flow(plan *router.Plan, index int, providers map[string]string) {
	p := plan.Flows[index]
	id := "flow" + strconv.Itoa(index+1)
	box := flowBox{node: node{id, []string{"flow " + p.Name}}, off: p.Disabled != ""}
	if box.off {
		box.label[0] += " (off)"
	}
	from, label, provider := g.stream(p.Topic, p.Bus, p.StreamKey), "group "+p.Group, ""
	var effects []edge
	for i, s := range p.Stages {
		step := node{id + "s" + strconv.Itoa(i+1), []string{s.Kind}}
		switch c := s.Config.(type) {
		case *stages.ValidateConfig:
			step.label = append(step.label, c.Schema)
		case *stages.HandleConfig:
			step.label = append(step.label, "with "+c.With)
			provider = providers[c.Provider]
		case *stages.RateApplyConfig:
			if provider != "" {
				effects = append(effects, edge{from: step.id, to: provider, label: "adjusts"})
			}
		}
		if c, ok := s.Config.(stages.Publishes); ok {
			for _, out := range c.Publications() {
				effects = append(effects, g.publication(step.id, p.Bus, out))
			}
		}
		box.stages = append(box.stages, step)
		g.edges = append(g.edges, edge{from: from, to: step.id, label: label})
		from, label = step.id, ""
	}
	if p.To.Key != "" {
		effects = append(effects, g.publication(from, p.ToBus, p.To))
	}
	g.flows = append(g.flows, box)
	g.edges = append(g.edges, effects...)
	g.edges = append(g.edges, edge{
		from: id, to: g.stream(p.DeadLetterTopic, p.Bus, p.DeadLetterKey), label: failure(p.Retry.Max), failure: true, flow: index,
	})
}

// publication is the edge to a stream that something publishes to.
func (g *graph) publication(from, bus string, out stages.Publication) edge {
	label := "publishes"
	if out.Label != "" {
		label += ", " + out.Label
	}
	return edge{from: from, to: g.stream(out.Topic, bus, out.Key), label: label}
}

// failure says when an event becomes a dead letter.
func failure(retries int) string {
	switch retries {
	case 0:
		return "fails"
	case 1:
		return "fails after 1 retry"
	default:
		return fmt.Sprintf("fails after %d retries", retries)
	}
}

// mermaidText escapes a label for double quotes. Mermaid's own escape is # with the
// number of the character.
func mermaidText(lines ...string) string {
	var b strings.Builder
	for i, line := range lines {
		if i > 0 {
			b.WriteString("<br/>")
		}
		for _, r := range line {
			switch {
			case strings.ContainsRune("\"#&<>`\\|", r):
				fmt.Fprintf(&b, "#%d;", r)
			case unicode.IsControl(r):
				b.WriteRune(unicode.ReplacementChar)
			default:
				b.WriteRune(r)
			}
		}
	}
	return `"` + b.String() + `"`
}

// mermaid draws the graph as a Mermaid flowchart.
func (g *graph) mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	for _, s := range g.streams {
		fmt.Fprintf(&b, "  %s[(%s)]\n", s.id, mermaidText(s.label...))
	}
	for _, f := range g.flows {
		fmt.Fprintf(&b, "  subgraph %s[%s]\n", f.id, mermaidText(f.label...))
		for _, s := range f.stages {
			fmt.Fprintf(&b, "    %s[%s]\n", s.id, mermaidText(s.label...))
		}
		b.WriteString("  end\n")
		if f.off {
			fmt.Fprintf(&b, "  style %s stroke-dasharray: 5 5\n", f.id)
		}
	}
	for _, p := range g.providers {
		fmt.Fprintf(&b, "  %s{{%s}}\n", p.id, mermaidText(p.label...))
	}
	for _, e := range g.edges {
		arrow := "-->"
		if e.failure {
			arrow = "-.->"
		}
		if e.label != "" {
			arrow += "|" + mermaidText(e.label) + "|"
		}
		fmt.Fprintf(&b, "  %s %s %s\n", e.from, arrow, e.to)
	}
	return b.String()
}

// dotText quotes a label for DOT, whose escapes are \\, \" and \n. It also reads the
// entities of HTML in a label.
func dotText(lines ...string) string {
	lines = slices.Clone(lines)
	for i, line := range lines {
		line = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return unicode.ReplacementChar
			}
			return r
		}, line)
		lines[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "&", "&amp;").Replace(line)
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}

// dot draws the graph for Graphviz.
func (g *graph) dot() string {
	var b strings.Builder
	b.WriteString("digraph flows {\n  rankdir=LR\n  compound=true\n  node [shape=box]\n")
	for _, s := range g.streams {
		fmt.Fprintf(&b, "  %s [shape=cylinder, label=%s]\n", s.id, dotText(s.label...))
	}
	for _, f := range g.flows {
		fmt.Fprintf(&b, "  subgraph cluster_%s {\n    label=%s\n", f.id, dotText(f.label...))
		if f.off {
			b.WriteString("    style=dashed\n")
		}
		for _, s := range f.stages {
			fmt.Fprintf(&b, "    %s [label=%s]\n", s.id, dotText(s.label...))
		}
		b.WriteString("  }\n")
	}
	for _, p := range g.providers {
		fmt.Fprintf(&b, "  %s [shape=hexagon, label=%s]\n", p.id, dotText(p.label...))
	}
	for _, e := range g.edges {
		from, attributes := e.from, ""
		if e.label != "" {
			attributes = "label=" + dotText(e.label)
		}
		if e.failure {
			// Graphviz has no edge from a cluster: it starts at the last stage and is cut off
			// at the border.
			box := g.flows[e.flow]
			from = box.stages[len(box.stages)-1].id
			attributes += ", style=dashed, ltail=cluster_" + e.from
		}
		if attributes != "" {
			attributes = " [" + attributes + "]"
		}
		fmt.Fprintf(&b, "  %s -> %s%s\n", from, e.to, attributes)
	}
	b.WriteString("}\n")
	return b.String()
}
