package flowtest

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
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
	when  string // before what a difference is about: of a check, its time
	found []Difference
}

func (c *comparison) add(n *flows.Node, what string, lines ...string) {
	if len(lines) > 0 {
		c.found = append(c.found, Difference{n.Pos(), c.when + what, lines})
	}
}

// compare holds what happened against what the test expects. An error means that an
// expectation cannot be read.
func (r *Result) compare() ([]Difference, error) {
	c := &comparison{Result: r}
	c.eventOutcomes()
	for i := range r.Test.Checks {
		check := &r.Test.Checks[i]
		c.when = fmt.Sprintf("at %s: ", check.At)
		if err := c.expectation(&check.Expectation, r.checks[i]); err != nil {
			return nil, err
		}
	}
	c.when = ""
	e := &r.Test.Expect
	if err := c.expectation(e, r.end); err != nil {
		return nil, err
	}
	if n := e.node.Get("elapsed"); n != nil && e.Elapsed != r.Elapsed {
		c.add(n, "elapsed", "- "+e.Elapsed.String(), "+ "+r.Elapsed.String())
	}
	return c.found, nil
}

// expectation holds a moment against what is expected of it.
func (c *comparison) expectation(e *Expectation, m *moment) error {
	c.outcomes(e, m)
	if err := c.outputs(e, m); err != nil {
		return err
	}
	c.deadLetters(e, m)
	c.rates(e, m)
	return c.metrics(e, m)
}

func (c *comparison) outcomes(e *Expectation, m *moment) {
	n := e.node.Get("outcomes")
	if n == nil {
		return
	}
	var lines []string
	for _, o := range outcomeOrder() {
		if want, got := e.Outcomes[o], m.outcomes[o]; got != want {
			lines = append(lines, fmt.Sprintf("- %s: %d", o, want), fmt.Sprintf("+ %s: %d", o, got))
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
	for _, t := range r.world.line.tasks {
		if r.world.given[t] == i && t.reader.flow == flow {
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
			if reason := c.reasons[t]; reason != "" {
				got += " (" + reason + ")"
			}
			if times[got] == 0 {
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

func (c *comparison) outputs(e *Expectation, at *moment) error {
	for _, o := range e.Outputs {
		got := at.on(o.Stream)
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
	if p.cause != nil {
		if i := r.world.inputs[p.cause.event]; i != nil {
			l.Event = i.Name
		}
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

func (c *comparison) deadLetters(e *Expectation, m *moment) {
	n := e.node.Get("dead_letters")
	if n == nil {
		return
	}
	got := m.letters()
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
}

func (c *comparison) rates(e *Expectation, m *moment) {
	for _, want := range e.Rates {
		got := m.rates[want.Provider]
		var lines []string
		number := func(name string, want, got float64) {
			if !near(want, got) {
				lines = append(lines, fmt.Sprintf("- %s: %g", name, want), fmt.Sprintf("+ %s: %g", name, got))
			}
		}
		if want.node.Get("scale") != nil {
			number("scale", want.Scale, got.Scale)
		}
		if want.Level != "" && want.Level != got.Level {
			lines = append(lines, "- level: "+want.Level, "+ level: "+got.Level)
		}
		if want.node.Get("effective") != nil {
			number("effective", want.Effective, got.Effective)
		}
		c.add(want.node, "rates: "+want.Provider, lines...)
	}
}

// near reports whether two numbers are the same, but for what computing with them
// loses.
func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

func (c *comparison) metrics(e *Expectation, at *moment) error {
	for _, m := range e.Metrics {
		s, err := parseSelector(m.Name)
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		got, err := s.sum(at.samples)
		switch {
		case err != nil:
			c.add(m.node, "metrics", fmt.Sprintf("- %s: %g", m.Name, m.Value), "+ "+err.Error())
		case !near(got, m.Value):
			c.add(m.node, "metrics", fmt.Sprintf("- %s: %g", m.Name, m.Value), fmt.Sprintf("+ %s: %g", m.Name, got))
		}
	}
	return nil
}
