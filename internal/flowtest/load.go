package flowtest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// Suite is the tests of one file, with the flow file that they are about.
type Suite struct {
	// Path is the file the tests stand in, Flows the flow file; they are one when a flow
	// file has tests.
	Path, Flows string
	Tests       []*Test

	env   []Text // of all tests
	kinds *stages.Registry

	mu    sync.Mutex
	plans map[string]planned // by environment
}

// planned is a flow file under one environment.
type planned struct {
	plan  *router.Plan
	diags flows.Diagnostics
}

// suffixes are the ends of the names of test files.
func suffixes() []string { return []string{"_test.yaml", "_test.yml"} }

// IsTestFile reports whether a file is a test file by its name.
func IsTestFile(path string) bool {
	return slices.ContainsFunc(suffixes(), func(s string) bool {
		return strings.HasSuffix(path, s) && len(filepath.Base(path)) > len(s)
	})
}

// TestFile returns the test file beside a flow file, "" when there is none.
func TestFile(flowFile string) string {
	base := strings.TrimSuffix(flowFile, filepath.Ext(flowFile))
	return firstOf(base+suffixes()[0], base+suffixes()[1])
}

// flowFile returns the flow file beside a test file, "" when there is none.
func flowFile(testFile string) string {
	for _, s := range suffixes() {
		if base, ok := strings.CutSuffix(testFile, s); ok {
			return firstOf(base+".yaml", base+".yml")
		}
	}
	return ""
}

func firstOf(paths ...string) string {
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			return path
		}
	}
	return ""
}

// Fields declares a test file.
func Fields() flows.Fields { return new(Suite).fields(new([]Test), new(string)) }

func (s *Suite) fields(tests *[]Test, flowsPath *string) flows.Fields {
	return flows.Fields{
		flows.String("flows", flowsPath, "the flow file, relative to this one; absent means the one of the same name "+
			"without _test", flows.Example("flows.yaml")),
		flows.Values("env", &s.env, text, textField, "variables of the flow file for all tests; those of a test win"),
		TestsField(tests),
	}
}

// Load reads the tests of a test file, or of a flow file that has some. All problems
// are collected, also those of the flow file, whose stages are of kinds, under each
// test's environment. Without errors among them the suite can be run. A test need not
// expect anything when unfinished is set. An error that the schema of the file lets
// through says in Beyond why.
func Load(path string, kinds *stages.Registry, unfinished bool) (*Suite, flows.Diagnostics) {
	s := &Suite{Path: path, Flows: path, kinds: kinds, plans: make(map[string]planned)}
	root, d := flows.LoadDocument(path, "tests")
	if root == nil {
		return s, d
	}
	var tests []Test
	if IsTestFile(path) {
		var given string
		s.fields(&tests, &given).Decode(root, "", &d)
		switch {
		case given == "" && root.Get("flows") != nil:
			s.Flows = flowFile(path) // that something is wrong with the key has been said
		case given == "":
			if s.Flows = flowFile(path); s.Flows == "" {
				d.Beyondf(flows.Position{File: path}, flows.LimitOutside, "no flow file of this name without _test is beside it: name one with flows")
			}
		case filepath.IsAbs(given):
			s.Flows = given
		default:
			s.Flows = filepath.Join(filepath.Dir(path), given)
		}
	} else if n := root.Get("tests"); n != nil {
		TestsField(&tests).Decode(n, "", &d)
	} else {
		d.Errorf(flows.Position{File: path}, "has no tests: add some under tests, or in %s_test.yaml beside it",
			strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)))
	}
	s.resolve(tests, unfinished, &d)
	return s, d
}

// resolve holds the tests against the flow file, also those that are wrong in themselves:
// what they refer to wrongly is to be told in the same run.
func (s *Suite) resolve(tests []Test, unfinished bool, d *flows.Diagnostics) {
	names := make(map[string]*Test)
	for i := range tests {
		t := &tests[i]
		s.Tests = append(s.Tests, t)
		if first := names[t.Name]; first != nil && t.Name != "" {
			d.Add(flows.Diagnostic{
				Pos: t.node.Get("name").Pos(), Beyond: flows.LimitReference, Message: fmt.Sprintf("test %q: there is one of this name already: give each its own", t.Name),
				Related: []flows.Related{{Pos: first.node.Get("name").Pos(), Message: "the first one is here"}},
			})
		}
		names[t.Name] = t
		if t.node.IsMapping() {
			(&resolver{suite: s, test: t, number: i + 1, diags: d, unfinished: unfinished}).resolve()
		}
	}
	d.Sort()
}

// plan resolves the flow file under the environment of a test. Whole is false when a
// variable has no text, which has been reported.
func (s *Suite) plan(t *Test) (plan *router.Plan, d flows.Diagnostics, whole bool) {
	env := make(map[string]string)
	whole = true
	for _, v := range slices.Concat(s.env, t.Env) {
		value, ok := v.node.Text()
		env[v.Name], whole = value, whole && ok
	}
	var key strings.Builder
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&key, "%q=%q,", name, env[name])
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.plans[key.String()]
	if !ok {
		file, d := flows.Load(s.Flows, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
		plan, more := router.NewPlan(file, s.kinds)
		p = planned{plan, append(d, more...)}
		s.plans[key.String()] = p
	}
	return p.plan, p.diags, whole
}

// resolver holds a test against its flow file.
type resolver struct {
	suite      *Suite
	test       *Test
	number     int // of the test in the file, from 1
	diags      *flows.Diagnostics
	unfinished bool
	plan       *router.Plan
	flow       *router.FlowPlan // the test's; nil when it cannot be told
	events     []string         // names
}

// beyondf reports a fault of a test. All that is found here a schema cannot say; what it
// can is declared with the fields.
func (r *resolver) beyondf(n *flows.Node, limit flows.Limit, format string, args ...any) {
	if n == nil {
		n = r.test.node
	}
	scope := fmt.Sprintf("test %q", r.test.Name)
	if r.test.Name == "" {
		scope = fmt.Sprintf("test %d", r.number)
	}
	r.diags.Beyondf(n.Pos(), limit, "%s: %s", scope, fmt.Sprintf(format, args...))
}

// referencef reports that what a test names is not there.
func (r *resolver) referencef(n *flows.Node, format string, args ...any) {
	r.beyondf(n, flows.LimitReference, format, args...)
}

// unknown words that a name is none of those there are.
func unknown(what, name string, names []string) string {
	if len(names) == 0 {
		return fmt.Sprintf("%s %q: there is none", what, name)
	}
	return fmt.Sprintf("unknown %s %q%s; known: %s", what, name, flows.DidYouMean(name, names), strings.Join(names, ", "))
}

func (r *resolver) resolve() {
	if r.suite.Flows == "" {
		return
	}
	plan, d, whole := r.suite.plan(r.test)
	for _, x := range d {
		if x.Severity == flows.Error && whole {
			x.Related = append(slices.Clone(x.Related), flows.Related{
				Pos: r.test.node.Pos(), Message: "found for this test, which sees no variable but those under env",
			})
			if x.Pos.File != r.suite.Path {
				x.Beyond = flows.LimitOutside
			}
			r.diags.Add(x)
		}
	}
	r.plan = plan
	if len(plan.Flows) == 0 {
		return // nothing of the file could be made out
	}
	if n := r.test.node.Get("flow"); n == nil || r.test.Flow != "" {
		r.flow = r.findFlow(r.test.Flow, n)
	}
	if r.flow != nil {
		r.test.Flow = r.flow.Name
	}
	for i := range r.test.Events {
		if e := &r.test.Events[i]; e.node.IsMapping() {
			r.event(i+1, e)
		}
	}
	for i := range r.test.Fail {
		if f := &r.test.Fail[i]; f.node.IsMapping() {
			r.failure(f)
		}
	}
	r.expectations()
}

func (r *resolver) flowNames() []string {
	names := make([]string, len(r.plan.Flows))
	for i, p := range r.plan.Flows {
		names[i] = p.Name
	}
	return names
}

// findFlow returns the flow of a name, or the only one that runs, and reports why
// there is none.
func (r *resolver) findFlow(name string, n *flows.Node) *router.FlowPlan {
	var running []*router.FlowPlan
	for i := range r.plan.Flows {
		p := &r.plan.Flows[i]
		switch {
		case p.Name == name && p.Disabled != "":
			r.referencef(n, "flow: %s", p.Disabled)
			return nil
		case p.Name == name:
			return p
		case p.Disabled == "":
			running = append(running, p)
		}
	}
	switch {
	case name != "":
		r.referencef(n, "flow: %s", unknown("flow", name, r.flowNames()))
	case len(running) == 1:
		return running[0]
	case len(running) == 0:
		r.referencef(n, "no flow of %s runs: %s", r.suite.Flows, r.plan.Flows[0].Disabled)
	default:
		r.referencef(n, "which flow? Name one with flow: %s", strings.Join(r.flowNames(), ", "))
	}
	return nil
}

// onlyFor refuses keys that say nothing in an event of another form.
func (r *resolver) onlyFor(i *Input, where, form, want string, keys ...string) {
	if form == want {
		return
	}
	for _, key := range keys {
		if n := i.node.Get(key); n != nil {
			r.beyondf(n, flows.LimitNeighbour, "%s: %s has no effect without %s", where, key, want)
		}
	}
}

func (r *resolver) event(number int, i *Input) {
	where := fmt.Sprintf("event %d", number)
	form, err := i.form()
	if err != nil {
		r.beyondf(i.node, flows.LimitNeighbour, "%s: %v", where, err)
		return
	}
	if name, ok := i.node.Get("name").Text(); ok && i.Name == "" {
		r.events = append(r.events, name) // which is of a wrong type
	} else if i.Name != "" {
		if slices.Contains(r.events, i.Name) {
			r.referencef(i.node.Get("name"), "%s: there is an event %q already", where, i.Name)
		}
		r.events = append(r.events, i.Name)
	}
	r.onlyFor(i, where, form, "payload", "schema", "track", "key", "headers", "time")
	r.onlyFor(i, where, form, "from", "keep_times")
	if i.node.Get("time") == nil {
		i.Time = noTime
	}
	if i.Stream != "" && r.reader(i.Stream) == nil {
		r.referencef(i.node.Get("stream"), "%s: stream: no flow reads %q: the flows read %s", where, i.Stream,
			strings.Join(r.topics(), ", "))
	}
	switch form {
	case "payload":
		if i.Schema == "" {
			i.Schema = r.schema(i.Stream)
		}
		if i.Schema == "" && i.node.Get("schema") == nil && r.reader(i.Stream) != nil {
			r.referencef(i.node, "%s: schema: the flow validates none: say which the payload has", where)
		}
	case "from":
		if i.node.Get("id") != nil {
			r.beyondf(i.node.Get("id"), flows.LimitNeighbour, "%s: id has no effect with from: entries keep theirs", where)
		}
		if i.From == "" {
			return // which has been reported
		}
		if !filepath.IsAbs(i.From) {
			i.From = filepath.Join(filepath.Dir(r.suite.Path), i.From)
		}
		list, err := readRecording(i.From)
		switch {
		case err != nil:
			r.beyondf(i.node.Get("from"), flows.LimitOutside, "%s: from: %v", where, err)
		case len(list) == 0:
			r.beyondf(i.node.Get("from"), flows.LimitOutside, "%s: from: the recording is empty", where)
		}
	}
}

// reader returns the flow that reads a topic, the test's own for "".
func (r *resolver) reader(topic string) *router.FlowPlan {
	if topic == "" {
		return r.flow
	}
	for i := range r.plan.Flows {
		if p := &r.plan.Flows[i]; p.Topic == topic && p.Disabled == "" {
			return p
		}
	}
	return nil
}

func (r *resolver) topics() []string {
	var topics []string
	for _, p := range r.plan.Flows {
		if p.Disabled == "" && !slices.Contains(topics, p.Topic) {
			topics = append(topics, p.Topic)
		}
	}
	return topics
}

// schema is the one that the flow of a topic validates.
func (r *resolver) schema(topic string) string {
	if p := r.reader(topic); p != nil {
		for _, s := range p.Stages {
			if c, ok := s.Config.(*stages.ValidateConfig); ok {
				return c.Schema
			}
		}
	}
	return ""
}

func (r *resolver) failure(f *Failure) {
	flow := r.flow
	if f.Flow != "" {
		flow = r.findFlow(f.Flow, f.node.Get("flow"))
	}
	var kinds []string
	if flow != nil {
		f.Flow, kinds = flow.Name, kindsOf(flow)
	} else {
		for i := range r.plan.Flows {
			kinds = append(kinds, kindsOf(&r.plan.Flows[i])...)
		}
		slices.Sort(kinds)
		kinds = slices.Compact(kinds)
	}
	if f.Stage != "" && !slices.Contains(kinds, f.Stage) {
		r.referencef(f.node.Get("stage"), "fail: stage: %s", unknown("stage", f.Stage, kinds))
	}
	r.eventName(f.Event, f.node, "fail")
}

func (r *resolver) eventName(name string, n *flows.Node, where string) {
	if name != "" && !slices.Contains(r.events, name) {
		r.referencef(n.Get("event"), "%s: event: %s", where, unknown("event", name, r.events))
	}
}

func kindsOf(p *router.FlowPlan) []string {
	kinds := make([]string, len(p.Stages))
	for i, s := range p.Stages {
		kinds[i] = s.Kind
	}
	return kinds
}

func (r *resolver) expectations() {
	e := &r.test.Expect
	if e.node == nil {
		e.node = r.test.node.Get("expect") // by a key that is spelled wrongly
	}
	expects := e.given() || r.test.node.Get("checks") != nil && (len(r.test.Checks) > 0 || !r.test.node.Get("checks").IsList())
	for i := range r.test.Events {
		expects = expects || r.test.Events[i].node.Get("outcome") != nil
	}
	if !expects && !r.unfinished {
		r.beyondf(e.node, flows.LimitNeighbour, "expects nothing: give it expect, checks, or an outcome of an event; pulseflow test --update writes "+
			"what happens")
	}
	for i := range r.test.Checks {
		c := &r.test.Checks[i]
		if !c.given() && !r.unfinished {
			r.beyondf(c.node, flows.LimitNeighbour, "check %d: expects nothing: give it rates, outcomes, outputs, dead_letters or metrics; pulseflow "+
				"test --update writes what happens", i+1)
		}
		r.expectation(&c.Expectation)
	}
	r.expectation(e)
}

func (r *resolver) expectation(e *Expectation) {
	for _, o := range e.Outputs {
		if known := streams(r.plan); !slices.ContainsFunc(known, func(s stream) bool { return s.is(o.Stream) }) {
			names := make([]string, len(known))
			for i, s := range known {
				names[i] = s.topic
			}
			r.referencef(o.node, "outputs: %s", unknown("stream", o.Stream, names))
		}
		for _, m := range o.Messages {
			for _, v := range m.Values {
				if v.Pointer != "" && !strings.HasPrefix(v.Pointer, "/") {
					r.beyondf(v.node, flows.LimitExpression, "values: %q is no JSON pointer: it starts with /, as in /payload/scale", v.Pointer)
				}
			}
		}
	}
	for i := range e.DeadLetters {
		l := &e.DeadLetters[i]
		r.eventName(l.Event, l.node, "dead_letters")
		if l.Flow != "" && !slices.Contains(r.flowNames(), l.Flow) {
			r.referencef(l.node.Get("flow"), "dead_letters: %s", unknown("flow", l.Flow, r.flowNames()))
		}
	}
	providers := make([]string, len(r.plan.File.Providers))
	for i, p := range r.plan.File.Providers {
		providers[i] = p.Name
	}
	for _, p := range e.Rates {
		if !slices.Contains(providers, p.Provider) {
			r.referencef(p.node, "rates: %s", unknown("provider", p.Provider, providers))
		}
	}
	for _, m := range e.Metrics {
		if _, err := parseSelector(m.Name); err != nil {
			r.beyondf(m.node, flows.LimitExpression, "metrics: %v", err)
		}
	}
}

// stream is a stream that something in a plan reads or writes.
type stream struct{ topic, key string }

// is reports whether a test means the stream by name.
func (s stream) is(name string) bool { return name == s.topic || name == s.key }

// streams lists those of a plan.
func streams(plan *router.Plan) []stream {
	var list []stream
	add := func(topic, key string) {
		if s := (stream{topic, key}); !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	for _, p := range plan.Flows {
		for _, out := range p.Publications {
			add(out.Topic, out.Key)
		}
		add(p.Topic, p.StreamKey)
		add(p.DeadLetterTopic, p.DeadLetterKey)
	}
	return list
}
