package stages

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/mjdevaccount/pulseflow/event"
)

// The remarks that stages make in a trace. They cost more than the stages do, and are
// made only for those who asked for a trace.

// remark says in one line what the condition yields, and the values it read of the
// event of d:
//
//	payload.bid > payload.ask is false (payload.ask = 10.2, payload.bid = 10)
func (x *expression) remark(d *Delivery, s surroundings, yields bool) string {
	text := cut(strings.Join(strings.Fields(x.source), " ")) + fmt.Sprintf(" is %t", yields)
	var env expressionEnv
	if env.fill(x, d, s) != nil {
		return text
	}
	var read []string
	add := func(name string, v any) { read = append(read, name+" = "+jsonText(v)) }
	for _, name := range slices.Sorted(maps.Keys(x.reads)) {
		if name != "payload" || x.members == nil {
			add(name, env.value(name))
			continue
		}
		for _, member := range x.members {
			add("payload."+member, env.Payload[member])
		}
	}
	if len(read) == 0 {
		return text
	}
	return text + " (" + strings.Join(read, ", ") + ")"
}

// jsonText is a value as a remark shows it.
func jsonText(v any) string {
	text, err := event.AppendValue(nil, v)
	if err != nil {
		return cut(fmt.Sprint(v))
	}
	return cut(string(text))
}

// remarkChange says what has changed from one event to another.
func remarkChange(t *Trace, before, after *event.Event) {
	said := false
	note := func(format string, args ...any) {
		said = true
		t.Note(format, args...)
	}
	if before.Schema != after.Schema {
		note("schema: %s → %s", cut(before.Schema), cut(after.Schema))
	}
	if from, to := before.OrderKey(), after.OrderKey(); from != to {
		note("key: %q → %q", cut(from), cut(to))
	}
	was, is := membersOf(before), membersOf(after)
	for _, name := range slices.Sorted(maps.Keys(is)) {
		switch old, had := was[name]; {
		case !had:
			note("payload.%s: set to %s", name, is[name])
		case old != is[name]:
			note("payload.%s: %s → %s", name, old, is[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, kept := is[name]; !kept {
			note("payload.%s: removed, was %s", name, was[name])
		}
	}
	if !said {
		t.Note("changes nothing")
	}
}

// membersOf are the members of an event's payload, each as one line of JSON.
func membersOf(e *event.Event) map[string]string {
	var payload map[string]json.RawMessage
	if json.Unmarshal(e.Document(), &payload) != nil {
		return nil
	}
	texts := make(map[string]string, len(payload))
	for name, v := range payload {
		texts[name] = cut(string(v))
	}
	return texts
}
