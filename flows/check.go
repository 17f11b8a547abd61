package flows

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// finish fills in what depends on the rest of the file, and checks what depends on it. What a fault has made uncertain is
// left alone. A bus that the file does not declare is a fault unless the buses themselves could not be read.
func (w *Flow) finish(f *File, n *Node, c decoding, fs Fields, busesKnown bool) {
	w.Pos, w.From.Pos = c.at, n.Get("from").Pos()
	w.To.Pos = n.Get("to").Pos()
	w.From.Bus = cmp.Or(w.From.Bus, DefaultBus)
	if w.To.Stream != "" {
		w.To.Bus = cmp.Or(w.To.Bus, w.From.Bus)
	}
	source := f.flowBus(w.From.Bus, "from", n, c, busesKnown)
	target := source
	if w.To.Bus != "" && w.To.Bus != w.From.Bus {
		target = f.flowBus(w.To.Bus, "to", n, c, busesKnown)
	}
	faulty := func(in string, keys ...string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return fs.faulty(in, key) })
	}
	w.vagueSource = source == nil || faulty("from", "bus", "stream", "key")
	w.vagueGroup = faulty("from", "group")
	vagueTarget := target == nil || faulty("to", "bus", "stream", "key")
	if source == nil {
		source = &f.Bus // to go on with
	}
	if w.To.Stream != "" && target != nil {
		w.To.Key = target.StreamKey(w.To.Stream, w.To.Key)
	}
	if to := n.Get("to"); to != nil && to.shape == mappingNode && len(to.pairs) == 0 {
		c.errorf(w.To.Pos, "to: missing required field %q: give it, or remove to", "stream")
	}
	if n.Get("lanes") == nil {
		w.Lanes = source.Lanes
	}
	if w.From.Stream == "" {
		return
	}
	w.From.Key = source.StreamKey(w.From.Stream, w.From.Key)
	if w.DeadLetter.Key == "" && w.DeadLetter.Stream == "" {
		w.DeadLetter.Key = w.From.Key + ".dlq"
	}
	if w.DeadLetter.Stream == "" {
		w.DeadLetter.Stream = w.From.Stream + ".dlq"
	}
	w.DeadLetter.Key = source.StreamKey(w.DeadLetter.Stream, w.DeadLetter.Key)
	if w.To.Key == w.From.Key && !w.vagueSource && !vagueTarget && source.Place() == target.Place() {
		c.beyondf(w.To.Pos, LimitReference,
			"to: stream %q is the one the flow reads: each event would come back for ever: name another stream", w.From.Key)
	}
	if w.DeadLetter.Key == w.From.Key && !faulty("from", "stream", "key") && !faulty("dead_letter", "stream", "key") {
		c.beyondf(n.Get("dead_letter").Pos(), LimitReference,
			"dead_letter: stream %q is the one the flow reads: each dead letter would come back for ever: name another stream",
			w.From.Key)
	}
}

// flowBus returns the bus that a flow names in one of its keys, and nil when there is none, which it reports if all buses
// are known.
func (f *File) flowBus(name, key string, n *Node, c decoding, known bool) *Bus {
	if b := f.BusNamed(name); b != nil || !known {
		return b
	}
	names := []string{DefaultBus}
	for i := range f.Buses {
		names = append(names, f.Buses[i].Name)
	}
	c.beyondf(n.Get(key).Get("bus").Pos(), LimitReference, "%s: bus: unknown bus %s%s; known: %s", key, quote(name),
		DidYouMean(name, names), strings.Join(names, ", "))
	return nil
}

// check looks at what concerns the file as a whole.
func (f *File) check(root *Node, d *Diagnostics) {
	if f.Registry.Enabled {
		d.Warnf(root.Get("registry").Get("enabled").Pos(), CodeRegistryUnused,
			"registry: this version uses no schema registry, and validates events by the schemas it has: set enabled to false")
	}
	keys := map[string]*Flow{} // by topic
	for i := range f.Flows {
		w := &f.Flows[i]
		if w.From.Stream == "" || w.vagueSource {
			continue
		}
		first, ok := keys[w.From.Stream]
		if !ok {
			keys[w.From.Stream] = w
			continue
		}
		if first.From.Bus != w.From.Bus {
			d.Add(Diagnostic{
				Pos: w.From.Pos, Beyond: LimitReference,
				Message: scoped(fmt.Sprintf("flow %q", w.Name), fmt.Sprintf(
					"stream %q is on bus %q here and on bus %q in flow %q at %d:%d: one name must mean one stream, in metrics and "+
						"for those who post events, so give this one another name, and its full key in key",
					w.From.Stream, w.From.Bus, first.From.Bus, first.Name, first.From.Pos.Line, first.From.Pos.Column)),
				Related: []Related{{Pos: first.From.Pos, Message: "the other bus is here"}},
			})
			continue
		}
		if first.From.Key != w.From.Key {
			d.Add(Diagnostic{
				Pos: w.From.Pos,
				Message: scoped(fmt.Sprintf("flow %q", w.Name), fmt.Sprintf(
					"stream %q has key %q here and key %q in flow %q at %d:%d: one name must mean one stream, so give "+
						"this one another name", w.From.Stream, w.From.Key, first.From.Key, first.Name,
					first.From.Pos.Line, first.From.Pos.Column)),
				Related: []Related{{Pos: first.From.Pos, Message: "the other key is here"}},
				Beyond:  LimitReference,
			})
		}
	}
	type reader struct{ place, key, group string }
	readers := map[reader]*Flow{}
	for i := range f.Flows {
		w := &f.Flows[i]
		if !w.Enabled || w.From.Stream == "" || w.vagueSource || w.vagueGroup {
			continue
		}
		r := reader{f.BusNamed(w.From.Bus).Place(), w.From.Key, w.From.Group}
		first, ok := readers[r]
		if !ok {
			readers[r] = w
			continue
		}
		if first.Name == w.Name {
			continue // a copy, whose name has been reported
		}
		d.Add(Diagnostic{
			Pos: w.From.Pos,
			Message: scoped(fmt.Sprintf("flow %q", w.Name), fmt.Sprintf(
				"reads stream %q in group %q as flow %q at %d:%d does: each would get only part of the events: give one "+
					"another group",
				r.key, r.group, first.Name, first.From.Pos.Line, first.From.Pos.Column)),
			Related: []Related{{Pos: first.From.Pos, Message: "the other flow reads it here"}},
			Beyond:  LimitReference,
		})
	}
}
