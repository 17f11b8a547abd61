package event

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// generator makes entries at random that are, other than what a fuzzer makes of captures, JSON and full of members of
// interest, most of them sound, in any order, repeated, and with escapes.
type generator struct{ *rand.Rand }

// pick returns one of the choices.
func (g generator) pick(choices ...string) string { return choices[g.IntN(len(choices))] }

// odds reports true once in n times.
func (g generator) odds(n int) bool { return g.IntN(n) == 0 }

// space returns white space, most often none.
func (g generator) space() string { return g.pick("", "", "", "", " ", "\n\t", "\r ") }

// quoted returns text as a JSON string, now and then with a character escaped.
func (g generator) quoted(text string) string {
	if text == "" || !g.odds(8) {
		return `"` + text + `"`
	}
	i := g.IntN(len(text))
	return fmt.Sprintf(`"%s\u%04x%s"`, text[:i], text[i], text[i+1:])
}

// object returns an object of the members, in any order and with some repeated or missing.
func (g generator) object(members map[string]func() string) string {
	var list []string
	for _, name := range g.names(members) {
		switch {
		case g.odds(40):
			continue
		case g.odds(10):
			list = append(list, g.quoted(name)+":"+g.anything(3))
		}
		list = append(list, g.space()+g.quoted(name)+g.space()+":"+g.space()+members[name]()+g.space())
		if g.odds(30) {
			list = append(list, g.quoted(name)+":"+g.anything(3))
		}
	}
	g.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return "{" + strings.Join(list, ",") + g.space() + "}"
}

// names returns the names of the members in an order that does not depend on that of the map.
func (g generator) names(members map[string]func() string) []string {
	var names []string
	for _, name := range []string{
		"id", "ts", "key", "meta", "payload", "schema_id", "track", "headers", "hash", "coordinator_id", "queue_size",
		"capacity", "level", "source", "reason", "utilization", "provider", "scale", "a", "b",
	} {
		if members[name] != nil {
			names = append(names, name)
		}
	}
	return names
}

// anything returns any value.
func (g generator) anything(depth int) string {
	if depth == 0 {
		return g.pick("null", "1", `"x"`)
	}
	switch g.IntN(9) {
	case 0:
		return g.pick("true", "false")
	case 1:
		return "null"
	case 2, 3:
		return g.number()
	case 4, 5:
		return g.text()
	case 6:
		return "[" + g.space() + g.anything(depth-1) + "," + g.anything(depth-1) + "]"
	case 7:
		return "{}"
	default:
		return "{" + g.quoted("a") + ":" + g.anything(depth-1) + "," + g.quoted("ts") + ":" + g.anything(depth-1) + "}"
	}
}

// number returns a number.
func (g generator) number() string {
	return g.pick("0", "-0", "1", "-1", "1.0", "0.5", "850.0", "1e2", "1.5", "1e-400", "1e400", "-1e400", "1e16", "1E+5",
		"1795556873.490328", "9223372036854775808", "1.00000000000000000000001", "123456789012345678901234567890")
}

// text returns a string.
func (g generator) text() string {
	return g.pick(
		`""`, `"x"`, `"ok"`, `"soft"`, `"v1"`, `"\u00fc"`, `"ü\n\"\/"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\u2028\u007f"`,
	)
}

// sound returns the value most of the time, and anything else now and then.
func (g generator) sound(value func() string) func() string {
	return func() string {
		if g.odds(25) {
			return g.anything(3)
		}
		return value()
	}
}

// envelope returns an envelope around the payload.
func (g generator) envelope(schema string, payload func() string) string {
	return g.object(map[string]func() string{
		"id":      g.sound(func() string { return g.pick(`""`, `""`, "null", `"i-1"`) }),
		"ts":      g.sound(func() string { return g.pick("1795556873.490328", "1", "2.5e0") }),
		"key":     g.sound(func() string { return g.pick("null", g.text()) }),
		"meta":    g.sound(func() string { return g.meta(schema) }),
		"payload": g.sound(payload),
		"a":       func() string { return g.anything(3) },
	})
}

// meta returns a meta.
func (g generator) meta(schema string) string {
	return g.object(map[string]func() string{
		"schema_id": g.sound(func() string { return g.quoted(schema) }),
		"track":     g.sound(func() string { return g.quoted(g.pick("v1", "v2")) }),
		"headers": g.sound(func() string {
			return g.object(map[string]func() string{"a": g.sound(g.text), "b": g.sound(g.text), "reason": g.sound(g.text)})
		}),
		"hash": g.sound(func() string { return g.pick("null", `""`, `"00"`) }),
	})
}

// event returns an event of either type, or something of both.
func (g generator) event() string {
	level := g.sound(func() string { return g.quoted(g.pick("ok", "soft", "hard")) })
	members := map[string]func() string{
		"coordinator_id": g.sound(g.text),
		"queue_size":     g.sound(func() string { return g.pick("0", "850", "850.0", "1e2") }),
		"capacity":       g.sound(func() string { return g.pick("1", "1000", "123456789012", "1000.0") }),
		"level":          level,
		"source":         g.sound(g.text),
		"ts":             g.sound(func() string { return g.pick("1795556873.4749289", "7") }),
		"reason":         level,
		"utilization":    g.sound(g.number),
		"provider":       g.sound(g.text),
		"scale":          g.sound(func() string { return g.pick("0", "1", "0.5", "1.0") }),
		"a":              func() string { return g.anything(3) },
	}
	if g.odds(20) {
		members["payload"] = func() string { return g.anything(2) }
	}
	return g.object(members)
}

// entry returns an entry of any dialect.
func (g generator) entry() string {
	schema := g.pick(SchemaFeedback, SchemaFeedback, aliasFeedback, SchemaRateAdjustment, aliasRateAdjustment, "x.Y")
	single := func() string { return g.envelope(schema, g.event) }
	switch g.IntN(6) {
	case 0, 1, 2:
		return g.envelope(SchemaEnvelope, single)
	case 3:
		return g.event()
	default:
		return single()
	}
}

func TestRandomEntries(t *testing.T) {
	g := generator{rand.New(rand.NewPCG(1, 2))}
	const count = 2_000
	usable := make(map[Dialect]int)
	for range count {
		entry := []byte(g.entry())
		checkDecode(t, entry)
		checkCanonicalBare(t, entry)
		checkShiftTime(t, entry, 1234.5)
		checkShiftTime(t, withHashes(entry), 1234.5)
		if t.Failed() {
			t.Fatalf("entry: %s", entry)
		}
		usable[Decoder{}.Decode(fuzzEntryID, entry).Dialect]++
	}
	for d := range DialectBare + 1 {
		if usable[d] < count/100 {
			t.Errorf("got only %d entries of dialect %s", usable[d], d)
		}
	}
}

// withHashes returns an entry with each hash that is a string made the right one.
func withHashes(data []byte) []byte {
	var s scanner
	dialect, _ := s.entry(data)
	for level := envelopesOf(dialect) - 1; level >= 0; level-- {
		data = rehash(data, level)
	}
	return data
}
