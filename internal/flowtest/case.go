package flowtest

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Test is one flow test, as the file has it.
type Test struct {
	Name string
	// Flow is the flow whose stream gets the events and whose outcomes count; empty
	// is the only one that runs.
	Flow string
	// Env are the variables of the flow file. Nothing else of the environment is seen.
	Env []Text
	// Start is when the clock starts, as RFC 3339; Until how long it runs at least.
	Start string
	Until time.Duration
	// Events are what happens, Fail the failures that are injected.
	Events []Input
	Fail   []Failure
	// Checks are what is expected meanwhile, Expect by the end.
	Checks []Checkpoint
	Expect Expectation

	node  *flows.Node
	start time.Time
}

// Text is a named text of the file.
type Text struct {
	Name, Value string
	node        *flows.Node
}

// Input is one event, or several alike, or a recording.
type Input struct {
	// Name is what fail and dead_letters call it.
	Name string
	// At is when it is put on the stream, counted from the start.
	At time.Duration
	// Repeat is how often, Every the time from one to the next.
	Repeat int
	Every  time.Duration
	// Stream is the topic it is put on; empty is that of the test's flow.
	Stream string
	// ID is the event's ID; empty has a new one assigned to each.
	ID string
	// Payload makes a canonical envelope, from Schema, Track, Key, Headers and Time.
	Payload *flows.Node
	Schema  string
	Track   string
	Key     string
	Headers []Text
	// Time is the time of the event's own, counted from the start; At where the file
	// does not say.
	Time time.Duration
	// Envelope is a whole entry, Raw one in any form, Base64 one that is no text, From
	// the file of a recording.
	Envelope *flows.Node
	Raw      string
	Base64   string
	From     string
	// KeepTimes leaves the times of a recording as they are.
	KeepTimes bool
	// Outcome is what is expected to become of each.
	Outcome string

	node *flows.Node
}

// Failure is a failure that is put into a stage.
type Failure struct {
	// Stage is its kind, Flow the flow it is in; empty is the test's.
	Stage, Flow string
	// Times is how many of its runs fail; 0 is all of them.
	Times int
	// Kind is error, permanent, panic or none; Delay is how long the stage takes, in
	// virtual time, before it fails or, with none, goes on. When says whether the stage has done its work
	// by then: before or after.
	Kind, When string
	Delay      time.Duration
	// Event restricts it to the events of an input; empty is all of them.
	Event string
	// Error is the text of the error.
	Error string

	node *flows.Node
}

// Expectation is what a test expects. What is not given is not looked at.
type Expectation struct {
	Outcomes    [stages.Outcomes]int // how many ended so, by stages.Outcome
	Outputs     []Output
	DeadLetters []DeadLetter
	Rates       []Rate
	Metrics     []Metric
	Elapsed     time.Duration

	node *flows.Node
}

// Checkpoint is what is expected at a time, of all that happened until then.
type Checkpoint struct {
	At time.Duration
	Expectation
}

// Output is what is expected on one stream.
type Output struct {
	Stream   string
	Messages []Message
	node     *flows.Node
}

// Message is one expected message. All that is given must hold.
type Message struct {
	// Equals is the whole of it, Payload its payload, Contains a part of it.
	Equals, Payload, Contains *flows.Node
	// Values are the values at JSON pointers.
	Values []Value
	// Text is a part of it as text.
	Text string

	node *flows.Node
}

// Value is a value at a JSON pointer.
type Value struct {
	Pointer string
	Want    *flows.Node
	node    *flows.Node
}

// DeadLetter is one expected dead letter. Empty texts are not looked at.
type DeadLetter struct {
	// Event names the input, Flow, Stage and Kind are the dead letter's, Reason is a
	// part of its reason.
	Event, Flow, Stage, Kind, Reason string
	Attempts                         int

	node *flows.Node
}

// Rate is the expected state of a provider.
type Rate struct {
	Provider         string
	Scale, Effective float64
	Level            string

	node *flows.Node
}

// Metric is the expected value of a metric, by its name and labels.
type Metric struct {
	Name  string
	Value float64
	node  *flows.Node
}

// defaultStart is when the clock of a test starts.
const defaultStart = "2026-01-01T00:00:00Z"

// The kinds of injected failures, and when they happen.
const (
	failError     = "error"
	failPermanent = "permanent"
	failPanic     = "panic"
	failNone      = "none"

	failBefore = "before"
	failAfter  = "after"
)

func text(t *Text) (*string, **flows.Node) { return &t.Name, &t.node }

func textField(t *Text) flows.Field {
	return flows.String("value", &t.Value, "the value, as text")
}

// TestsField declares the key tests, of a test file or of a flow file.
func TestsField(dst *[]Test) flows.Field {
	return flows.List("tests", dst, "test", (*Test).fields, "the tests", flows.Required())
}

func (t *Test) fields(n *flows.Node) flows.Fields {
	t.node = n
	return flows.Fields{
		flows.String("name", &t.Name, "what the test shows, as --run and the report call it", flows.Required(),
			flows.Example("a soft level halves the rate")),
		flows.String("flow", &t.Flow, "the flow whose stream gets the events and whose outcomes count; absent means the "+
			"only one that runs", flows.Example("feedback")),
		flows.Values("env", &t.Env, text, textField, "variables of the flow file; nothing else of the environment is seen"),
		flows.String("start", &t.Start, "when the clock starts, in RFC 3339", flows.Default(defaultStart),
			flows.Check(t.checkStart)),
		flows.Duration("until", &t.Until, "how long the clock runs at least; it always runs until every event is settled",
			flows.Default("0s"), flows.Example("10m")),
		flows.List("events", &t.Events, "event", (*Input).fields, "what is put on the streams, in the order of `at`, and of "+
			"the file at equal times", flows.Required()),
		flows.List("fail", &t.Fail, "fail", (*Failure).fields, "failures to put into stages"),
		flows.List("checks", &t.Checks, "check", (*Checkpoint).fields, "what must have happened at times in between"),
		flows.Object("expect", t.Expect.fields(n.Get("expect")), "what must have happened by the end; what is not given is "+
			"not looked at"),
	}
}

func (t *Test) checkStart() error {
	err := errors.New("must be a time such as 2026-01-01T00:00:00Z")
	if !timeForm.MatchString(t.Start) {
		return err
	}
	start, wrong := time.Parse(time.RFC3339Nano, t.Start)
	if wrong != nil {
		return flows.Beyond(flows.LimitMagnitude, err) // a day that the month does not have
	}
	t.start = start.UTC()
	return nil
}

func (i *Input) fields(n *flows.Node) flows.Fields {
	i.node = n
	return flows.Fields{
		flows.String("name", &i.Name, "what fail and dead_letters call it"),
		flows.Duration("at", &i.At, "when it is put on the stream, counted from the start", flows.Default("0s")),
		flows.Int("repeat", &i.Repeat, "how often", flows.Default("1"), flows.Min(1), flows.Max(100_000)),
		flows.Duration("every", &i.Every, "the time from one to the next, also from line to line of a recording",
			flows.Default("0s")),
		flows.String("stream", &i.Stream, "the topic it is put on; absent means the one that the test's flow reads"),
		flows.String("id", &i.ID, "the ID of the event; absent has a new one assigned to each, so that none is a duplicate"),
		flows.Any("payload", &i.Payload, "a payload, to be put into a canonical envelope; without ts it has the event's time",
			flows.Check(func() error { return beMapping(i.Payload, "") })),
		flows.String("schema", &i.Schema, "the schema id of the payload; absent means the one that the flow validates",
			flows.Example(event.SchemaFeedback)),
		flows.Enum("track", &i.Track, []string{event.TrackV1, event.TrackV2}, "the schema track of the payload",
			flows.Default(event.TrackV1)),
		flows.String("key", &i.Key, "the envelope's key; absent means the payload's coordinator_id"),
		flows.Values("headers", &i.Headers, text, textField, "the envelope's headers"),
		flows.Duration("time", &i.Time, "the event's own time, counted from the start; absent means the time it is put on "+
			"the stream", flows.Example("5s")),
		flows.Any("envelope", &i.Envelope, "a whole entry instead of a payload, in any dialect; its times stay as they are",
			flows.Check(func() error { return beMapping(i.Envelope, " (what is no object goes under raw)") })),
		flows.String("raw", &i.Raw, "an entry byte for byte instead, JSON or not"),
		flows.String("base64", &i.Base64, "an entry that is no text instead, in base64", flows.Check(i.checkBase64)),
		flows.String("from", &i.From, "a recording instead: a JSONL file, relative to this one, of events or entries",
			flows.Example("feedback.jsonl"), flows.Mistaken("file", "path", "recording", "jsonl", "feed")),
		flows.Bool("keep_times", &i.KeepTimes, "whether the times of a recording stay; else its newest event happens when "+
			"it is put on the stream", flows.Default("false")),
		flows.Enum("outcome", &i.Outcome, outcomes(), "what must become of each"),
	}
}

func beMapping(n *flows.Node, hint string) error {
	if !n.IsMapping() {
		return errors.New("must be a mapping" + hint)
	}
	return nil
}

func (i *Input) checkBase64() error {
	if _, err := base64.StdEncoding.DecodeString(i.Base64); err != nil {
		return errors.New("must be base64")
	}
	return nil
}

func outcomes() []string {
	list := make([]string, stages.Outcomes)
	for i, o := range outcomeOrder() {
		list[i] = o.String()
	}
	return list
}

// outcomeOrder are the outcomes as reports have them.
func outcomeOrder() []stages.Outcome {
	return []stages.Outcome{stages.OutcomeSuccess, stages.OutcomeDuplicate, stages.OutcomeFiltered, stages.OutcomeError}
}

func (f *Failure) fields(n *flows.Node) flows.Fields {
	f.node = n
	return flows.Fields{
		flows.String("stage", &f.Stage, "the kind of the stage that fails, the first of its kind in the flow",
			flows.Required(), flows.Example("handle")),
		flows.String("flow", &f.Flow, "the flow it is in; absent means the test's"),
		flows.Int("times", &f.Times, "how many runs of the stage fail; 0 is every one", flows.Default("1"), flows.Min(0)),
		flows.Enum("kind", &f.Kind, []string{failError, failPermanent, failPanic, failNone}, "error is tried again, "+
			"permanent is not, panic is a panic, and none is no failure but the delay alone", flows.Default(failError)),
		flows.Duration("delay", &f.Delay, "how long the stage takes first, in virtual time", flows.Default("0s"),
			flows.Check(f.checkDelay, "kind")),
		flows.Enum("when", &f.When, []string{failBefore, failAfter}, "before the stage does its work, or after it and "+
			"the stages behind it have done theirs", flows.Default(failBefore)),
		flows.String("event", &f.Event, "the name of the events it is for; absent is all"),
		flows.String("error", &f.Error, "the text of the error", flows.Default("injected failure")),
	}
}

func (f *Failure) checkDelay() error {
	if f.Kind == failNone && f.Delay == 0 {
		return errors.New("must be more than 0s with kind none, which would do nothing")
	}
	return nil
}

func (c *Checkpoint) fields(n *flows.Node) flows.Fields {
	return append(flows.Fields{
		flows.Duration("at", &c.At, "when, counted from the start: once all that was due by then has happened",
			flows.Required(), flows.Example("5s")),
	}, c.soFar(n)...)
}

func (e *Expectation) fields(n *flows.Node) flows.Fields {
	return append(e.soFar(n),
		flows.Duration("elapsed", &e.Elapsed, "the virtual time from the start until the last event was settled"))
}

// soFar are the keys that make sense at any time.
func (e *Expectation) soFar(n *flows.Node) flows.Fields {
	e.node = n
	var counts flows.Fields
	for _, o := range outcomeOrder() {
		counts = append(counts, flows.Int(o.String(), &e.Outcomes[o], "how many of the flow's events ended so",
			flows.Default("0"), flows.Min(0)))
	}
	return flows.Fields{
		flows.Object("outcomes", counts, "how the flow's events ended; what is left out is 0"),
		flows.Values("outputs", &e.Outputs, func(o *Output) (*string, **flows.Node) { return &o.Stream, &o.node },
			func(o *Output) flows.Field {
				return flows.List("messages", &o.Messages, "message", (*Message).fields, "each message, in order; [] is none")
			}, "what was published, by stream: topic or full key"),
		flows.List("dead_letters", &e.DeadLetters, "dead letter", (*DeadLetter).fields,
			"each dead letter of every flow, in order; [] is none"),
		flows.Map("rates", &e.Rates, "provider", func(r *Rate) (*string, **flows.Node) { return &r.Provider, &r.node },
			(*Rate).fields, "the providers"),
		flows.Values("metrics", &e.Metrics, func(m *Metric) (*string, **flows.Node) { return &m.Name, &m.node },
			func(m *Metric) flows.Field { return flows.Float("value", &m.Value, "the value") },
			"metrics, by name and labels; labels that are left out are summed over"),
	}
}

// given reports whether anything is expected.
func (e *Expectation) given() bool {
	if e.node != nil && !e.node.IsMapping() && !e.node.IsNull() {
		return true // something that is wrong, and has been reported
	}
	keys := 0
	for range e.node.Pairs() {
		keys++
	}
	if e.node.Get("at") != nil { // of a check
		keys--
	}
	return keys > 0
}

func (m *Message) fields(n *flows.Node) flows.Fields {
	m.node = n
	return flows.Fields{
		flows.Any("equals", &m.Equals, "the whole message"),
		flows.Any("payload", &m.Payload, "its payload, whole"),
		flows.Any("contains", &m.Contains, "a part of it: objects may have more members, everything else is equal"),
		flows.Values("values", &m.Values, func(v *Value) (*string, **flows.Node) { return &v.Pointer, &v.node },
			func(v *Value) flows.Field { return flows.Any("value", &v.Want, "the value there") },
			"values at JSON pointers, such as /payload/scale"),
		flows.String("text", &m.Text, "a part of it, as text"),
	}
}

func (d *DeadLetter) fields(n *flows.Node) flows.Fields {
	d.node = n
	return flows.Fields{
		flows.String("event", &d.Event, "the name of the event"),
		flows.String("flow", &d.Flow, "the flow"),
		flows.String("stage", &d.Stage, "the stage that failed; decode for what is no event"),
		flows.String("kind", &d.Kind, "the kind of error", flows.Example(stages.KindSchema)),
		flows.String("reason", &d.Reason, "a part of the reason"),
		flows.Int("attempts", &d.Attempts, "how often the stages ran", flows.Min(1)),
	}
}

func (r *Rate) fields() flows.Fields {
	return flows.Fields{
		flows.Float("scale", &r.Scale, "the scale", flows.Min(0), flows.Max(1)),
		flows.Enum("level", &r.Level, []string{"ok", "soft", "hard"}, "the level"),
		flows.Float("effective", &r.Effective, "the effective rate, in tokens a second", flows.Min(0)),
	}
}

// form is which of the keys that say what an event is it has, and an error when that
// is not one of them.
func (i *Input) form() (string, error) {
	var given []string
	all := []string{"payload", "envelope", "raw", "base64", "from"}
	for _, key := range all {
		if i.node.Get(key) != nil {
			given = append(given, key)
		}
	}
	switch len(given) {
	case 1:
		return given[0], nil
	case 0:
		return "", fmt.Errorf("says no event: give it one of %s", strings.Join(all, ", "))
	default:
		return "", fmt.Errorf("has %s: give only one of them", strings.Join(given, " and "))
	}
}
