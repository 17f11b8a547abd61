package flowtest

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Difference is something that was not as a test expects. Lines are what was expected
// ("- ") and what was there ("+ ").
type Difference struct {
	Pos   flows.Position
	What  string
	Lines []string
}

// String is the difference as a report has it, over several lines.
func (d Difference) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", d.Pos, d.What)
	for _, line := range d.Lines {
		b.WriteString("\n  " + line)
	}
	return b.String()
}

// comparison gathers the differences of a result.
type comparison struct {
	*Result
	found []Difference
}

func (c *comparison) add(n *flows.Node, what string, lines ...string) {
	if len(lines) > 0 {
		c.found = append(c.found, Difference{n.Pos(), what, lines})
	}
}

// compare holds what happened against what the test expects. An error means that an
// expectation cannot be read.
func (r *Result) compare() ([]Difference, error) {
	c := &comparison{Result: r}
	c.outcomes()
	c.eventOutcomes()
	for _, part := range []func() error{c.outputs, c.deadLetters, c.metrics} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	c.ratesAtEnd()
	e := &r.Test.Expect
	if n := e.node.Get("elapsed"); n != nil && e.Elapsed != r.Elapsed {
		c.add(n, "elapsed", "- "+e.Elapsed.String(), "+ "+r.Elapsed.String())
	}
	return c.found, nil
}

// counts are how the events of the test's flow ended.
func (r *Result) counts() map[string]int {
	counts := make(map[string]int)
	for _, h := range r.Events {
		if h.Flow == r.Test.Flow {
			counts[h.Outcome]++
		}
	}
	return counts
}

func (c *comparison) outcomes() {
	e := &c.Test.Expect
	n := e.node.Get("outcomes")
	if n == nil {
		return
	}
	counts := c.counts()
	var lines []string
	for _, o := range []struct {
		name string
		want int
	}{
		{stages.OutcomeSuccess.String(), e.Success},
		{stages.OutcomeDuplicate.String(), e.Duplicate},
		{stages.OutcomeError.String(), e.Error},
	} {
		if got := counts[o.name]; got != o.want {
			lines = append(lines, fmt.Sprintf("- %s: %d", o.name, o.want), fmt.Sprintf("+ %s: %d", o.name, got))
		}
	}
	c.add(n, "outcomes", lines...)
}

// readerOf is the flow whose verdict on an input counts: the test's, or the first that
// reads the stream it was put on.
func (r *Result) readerOf(i *Input) string {
	if i.Stream != "" {
		for _, p := range r.world.plan.Flows {
			if p.Topic == i.Stream && p.Disabled == "" && (p.Name == r.Test.Flow || r.topic() != i.Stream) {
				return p.Name
			}
		}
	}
	return r.Test.Flow
}

// topic is what the test's flow reads.
func (r *Result) topic() string {
	for _, p := range r.world.plan.Flows {
		if p.Name == r.Test.Flow {
			return p.Topic
		}
	}
	return ""
}

// outcomesOf are what became of an input's events, in order.
func (r *Result) outcomesOf(i *Input) []*task {
	var list []*task
	flow := r.readerOf(i)
	for _, t := range r.world.given {
		if r.world.inputs[t.event] == i && t.reader.flow == flow {
			list = append(list, t)
		}
	}
	return list
}

func (c *comparison) eventOutcomes() {
	for i := range c.Test.Events {
		in := &c.Test.Events[i]
		if in.Outcome == "" {
			continue
		}
		var wrong []string // in the order in which they came up
		times := make(map[string]int)
		all := c.outcomesOf(in)
		for _, t := range all {
			got := t.result.Outcome.String()
			if got == in.Outcome {
				continue
			}
			if got += c.because(t); times[got] == 0 {
				wrong = append(wrong, got)
			}
			times[got]++
		}
		if len(wrong) == 0 {
			continue
		}
		what := fmt.Sprintf("event %d", i+1)
		if in.Name != "" {
			what = fmt.Sprintf("event %q", in.Name)
		}
		lines := []string{"- " + in.Outcome}
		for _, got := range wrong {
			line := "+ " + got
			if len(all) > 1 {
				line += fmt.Sprintf(", %d of %d", times[got], len(all))
			}
			lines = append(lines, line)
		}
		c.add(in.node.Get("outcome"), what+": outcome", lines...)
	}
}

// because says why an event failed.
func (c *comparison) because(t *task) string {
	for _, l := range c.world.letters() {
		if l.cause == t.event {
			return fmt.Sprintf(" (%s: %s)", l.meta[router.FieldStage], l.meta[router.FieldReason])
		}
	}
	return ""
}

func (c *comparison) outputs() error {
	for _, o := range c.Test.Expect.Outputs {
		got := c.world.on(o.Stream)
		for i, m := range o.Messages {
			if i >= len(got) {
				break
			}
			lines, err := m.differences(got[i])
			if err != nil {
				return fmt.Errorf("outputs: %s: %w", o.Stream, err)
			}
			c.add(m.node, fmt.Sprintf("outputs: %s: message %d", o.Stream, i+1), lines...)
		}
		if len(got) == len(o.Messages) {
			continue
		}
		lines := []string{"- " + count(len(o.Messages), "message"), "+ " + count(len(got), "message")}
		for i := len(o.Messages); i < len(got); i++ {
			lines = append(lines, "+ "+string(got[i].data))
		}
		c.add(o.node, "outputs: "+o.Stream, lines...)
	}
	return nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return strconv.Itoa(n) + " " + what
}

// differences holds a message against what is expected of it.
func (m *Message) differences(p publication) ([]string, error) {
	got := decoded(p.data)
	payload, _ := at(got, "/payload")
	var lines []string
	for _, w := range []struct {
		want    *flows.Node
		path    string
		got     any
		partial bool
	}{
		{m.Equals, "", got, false},
		{m.Payload, "/payload", payload, false},
		{m.Contains, "", got, true},
	} {
		if w.want == nil {
			continue
		}
		want, err := jsonOf(w.want)
		if err != nil {
			return nil, err
		}
		lines = append(lines, differences(w.path, want, w.got, w.partial)...)
	}
	for _, v := range m.Values {
		want, err := jsonOf(v.Want)
		if err != nil {
			return nil, err
		}
		value, ok := at(got, v.Pointer)
		if !ok {
			lines = append(lines, minus(v.Pointer, want), "+ "+v.Pointer+": nothing")
			continue
		}
		lines = append(lines, differences(v.Pointer, want, value, false)...)
	}
	if m.Text != "" && !strings.Contains(string(p.data), m.Text) {
		lines = append(lines, "- text: "+strconv.Quote(m.Text), "+ "+string(p.data))
	}
	return lines, nil
}

// letter is a dead letter as an expectation would have it.
func (r *Result) letter(p publication) DeadLetter {
	attempts, _ := strconv.Atoi(p.meta[router.FieldAttempts]) // ours: a number
	l := DeadLetter{
		Flow: p.meta[router.FieldFlow], Stage: p.meta[router.FieldStage], Kind: p.meta[router.FieldErrorKind],
		Reason: p.meta[router.FieldReason], Attempts: attempts,
	}
	if i := r.world.inputs[p.cause]; i != nil {
		l.Event = i.Name
	}
	return l
}

// String is a dead letter in one line.
func (l DeadLetter) String() string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+": "+value)
		}
	}
	add("event", l.Event)
	add("flow", l.Flow)
	add("stage", l.Stage)
	add("kind", l.Kind)
	add("reason", l.Reason)
	if l.Attempts > 0 {
		add("attempts", strconv.Itoa(l.Attempts))
	}
	return strings.Join(parts, ", ")
}

func (c *comparison) deadLetters() error {
	e := &c.Test.Expect
	n := e.node.Get("dead_letters")
	if n == nil {
		return nil
	}
	got := c.world.letters()
	for i := range e.DeadLetters {
		if i >= len(got) {
			break
		}
		want, have := e.DeadLetters[i], c.letter(got[i])
		var lines []string
		differ := func(name, want, got string, same bool) {
			if want != "" && !same {
				lines = append(lines, "- "+name+": "+want, "+ "+name+": "+got)
			}
		}
		differ("event", want.Event, have.Event, want.Event == have.Event)
		differ("flow", want.Flow, have.Flow, want.Flow == have.Flow)
		differ("stage", want.Stage, have.Stage, want.Stage == have.Stage)
		differ("kind", want.Kind, have.Kind, want.Kind == have.Kind)
		differ("reason", want.Reason, have.Reason, strings.Contains(have.Reason, want.Reason))
		if want.Attempts > 0 {
			differ("attempts", strconv.Itoa(want.Attempts), strconv.Itoa(have.Attempts), want.Attempts == have.Attempts)
		}
		c.add(want.node, fmt.Sprintf("dead_letters: %d", i+1), lines...)
	}
	if len(got) != len(e.DeadLetters) {
		lines := []string{"- " + count(len(e.DeadLetters), "dead letter"), "+ " + count(len(got), "dead letter")}
		for i := len(e.DeadLetters); i < len(got); i++ {
			lines = append(lines, "+ "+c.letter(got[i]).String())
		}
		c.add(n, "dead_letters", lines...)
	}
	return nil
}

func (c *comparison) ratesAtEnd() {
	for _, want := range c.Test.Expect.Rates {
		got := c.rates[want.Provider]
		var lines []string
		number := func(name string, want, got float64) {
			if !near(want, got) {
				lines = append(lines, fmt.Sprintf("- %s: %g", name, want), fmt.Sprintf("+ %s: %g", name, got))
			}
		}
		if want.node.Get("scale") != nil {
			number("scale", want.Scale, got.scale)
		}
		if want.Level != "" && want.Level != got.level {
			lines = append(lines, "- level: "+want.Level, "+ level: "+got.level)
		}
		if want.node.Get("effective") != nil {
			number("effective", want.Effective, got.effective)
		}
		c.add(want.node, "rates: "+want.Provider, lines...)
	}
}

// near reports whether two numbers are the same, but for what computing with them
// loses.
func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

func (c *comparison) metrics() error {
	want := c.Test.Expect.Metrics
	if len(want) == 0 {
		return nil
	}
	all, err := c.world.metrics.samples()
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	for _, m := range want {
		s, err := parseSelector(m.Name)
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		got, err := s.sum(all)
		switch {
		case err != nil:
			c.add(m.node, "metrics", fmt.Sprintf("- %s: %g", m.Name, m.Value), "+ "+err.Error())
		case !near(got, m.Value):
			c.add(m.node, "metrics", fmt.Sprintf("- %s: %g", m.Name, m.Value), fmt.Sprintf("+ %s: %g", m.Name, got))
		}
	}
	return nil
}
