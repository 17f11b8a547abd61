package stages

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
)

// quote is an event of a market-data feed.
const quote = `{"ts": 1795556890.5, "key": "AAPL", "meta": {"schema_id": "market.Quote", "track": "v2", ` +
	`"headers": {"venue": "XNAS"}}, "payload": {"sym": "AAPL", "bid": 10, "ask": 10.5, "source": "feed", "live": true, ` +
	`"ts": 1795556880, "legs": [{"px": 1, "qty": 5}, {"px": 2.5, "qty": 0}], "tags": ["a", "b"], "none": null, ` +
	`"deep": {"a": {"b": 7}}}}`

func deliveryOf(t testing.TB, data string) *Delivery {
	e := event.Decoder{}.Decode("1795556890500-3", []byte(data))
	if e.Err != nil {
		t.Fatal(e.Err)
	}
	e.Deliveries = 2
	return &Delivery{Context: context.Background(), Event: e}
}

func around() surroundings { return surroundings{clock: newTestClock(), stream: "market.quotes"} }

func TestExpression(t *testing.T) {
	for source, want := range map[string]any{
		`id`:                                   "1795556890500-3",
		`type + "/" + track`:                   "market.Quote/v2",
		`key`:                                  "AAPL",
		`ts`:                                   1795556880.0,
		`source`:                               "feed",
		`stream`:                               "market.quotes",
		`deliveries`:                           2,
		`now - ts`:                             20.0,
		`headers.venue`:                        "XNAS",
		`payload.bid < payload.ask`:            true,
		`payload.bid / 4`:                      2.5,
		`payload.bid % 3`:                      1,
		`payload["sym"] matches "^AA"`:         true,
		`payload.missing`:                      nil,
		`payload.missing ?? "x"`:               "x",
		`payload.missing?.b.c`:                 nil,
		`payload.deep.a.b`:                     7,
		`payload.none == nil`:                  true,
		`"sym" in payload`:                     true,
		`"b" in payload.tags`:                  true,
		`any(payload.legs, .qty == 0)`:         true,
		`sum(map(payload.legs, #.px * #.qty))`: 5.0,
		`len(filter(payload.legs, .px > 1))`:   1,
		`let mid = (payload.bid + payload.ask) / 2; mid > 10`:       true,
		`payload.live ? upper(payload.sym) : ""`:                    "AAPL",
		`{sym: payload.sym, n: [1, payload.bid]}`:                   map[string]any{"sym": "AAPL", "n": []any{1, 10}},
		`join(payload.tags, "-") + string(payload.bid)`:             "a-b10",
		`all(payload.legs, let q = .qty; any(payload.tags, q < 9))`: true,
		`payload.legs[0].px`:                                        1,
		`first(split(payload.sym, "P"))`:                            "AA",
	} {
		x, at, err := compileExpression(source, anyResult)
		if err != nil {
			t.Errorf("%s: at %d: %v", source, at, err)
			continue
		}
		got, err := x.eval(deliveryOf(t, quote), around())
		if err != nil {
			t.Errorf("%s: %v", source, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", source, diff)
		}
	}
}

// Each mistake is reported at its own line and column of the file.
func TestExpressionFaults(t *testing.T) {
	for _, tt := range []struct{ when, want string }{
		{`payload.level = 3`, `8:31: flow "feedback": stage 1 (filter): when: "=" cannot stand here: write == to compare, matches for a pattern`},
		{`payload.level =~ "a"`, `8:31: flow "feedback": stage 1 (filter): when: "=" cannot stand here: write == to compare, matches for a pattern`},
		{`paylod.level == 3`, `8:17: flow "feedback": stage 1 (filter): when: unknown name "paylod" (did you mean "payload"?); known: deliveries`},
		{`amount > 3`, `8:17: flow "feedback": stage 1 (filter): when: unknown name "amount": write payload.amount for a member of the payload, and a text in quotes within the expression; known: deliveries`},
		{`payload.sym.startsWith("A")`, `8:29: flow "feedback": stage 1 (filter): when: values have no methods: write … startsWith …, with a value on either side`},
		{`payload.sym.lower() == "a"`, `8:29: flow "feedback": stage 1 (filter): when: values have no methods: write lower(…), with the value in the parentheses`},
		{`payload.sym.size() == 1`, `8:29: flow "feedback": stage 1 (filter): when: values have no methods: use operators and functions; known: abs, all`},
		{`'key == 1 && it'`, `8:30: flow "feedback": stage 1 (filter): when: unknown name "it"`},
		{`"\"a\" == key && ts.x"`, `when: `},
		{`key > 5`, `8:21: flow "feedback": stage 1 (filter): when: invalid operation: > (mismatched types string and int)`},
		{"|\n            key == \"a\" &&\n              key + 1 == 2", `10:19: flow "feedback": stage 1 (filter): when: invalid operation: +`},
		{">-\n            key == \"a\"\n            && idd == \"b\"", `10:16: flow "feedback": stage 1 (filter): when: unknown name "idd"`},
		{`key`, `8:17: flow "feedback": stage 1 (filter): when: the expression must yield true or false, this one yields string`},
		{`5`, `8:17: flow "feedback": stage 1 (filter): when: the expression must yield true or false, this one yields int`},
		{`len(1..9) > 1`, `8:22: flow "feedback": stage 1 (filter): when: operator .. is not available in expressions`},
		{`repeat(key, 99) == key`, `8:17: flow "feedback": stage 1 (filter): when: function repeat is not available in expressions; known: abs, all, any,`},
		{`lenn(key) == 1`, `8:17: flow "feedback": stage 1 (filter): when: unknown function "lenn" (did you mean "len"?)`},
		{`key matches payload.p`, `8:37: flow "feedback": stage 1 (filter): when: the pattern of matches must be written out`},
		{`key matches "("`, `8:21: flow "feedback": stage 1 (filter): when: `},
		{`$env != nil`, `8:17: flow "feedback": stage 1 (filter): when: `},
		{`now() > 1`, `8:17: flow "feedback": stage 1 (filter): when: now is a value: write it without parentheses`},
		{`any(payload.a, any(#, any(#, true)))`, `8:39: flow "feedback": stage 1 (filter): when: loops nest more than 2 deep`},
	} {
		_, d := resolve(t, Builtin(), file("      - filter:\n          when: "+tt.when+"\n"))
		// file() has the stages begin in line 8.
		for i := range d {
			d[i].Pos.Line--
		}
		text := strings.ReplaceAll(d.String(), "flows.yaml:", "")
		if len(d) != 1 || !strings.Contains(text, tt.want) {
			t.Errorf("%s:\n got %s\nwant %s", tt.when, text, tt.want)
		}
	}
}

// An event that an expression cannot be evaluated for is named by types, never by
// what it holds.
func TestExpressionFailures(t *testing.T) {
	for source, want := range map[string]string{
		`payload.sym > 5`:             `expression: invalid operation: string > int`,
		`payload.missing > 5`:         `expression: invalid operation: nil > int`,
		`payload.missing.b`:           `expression: cannot take b of nil`,
		`payload.sym.b`:               `invalid operation: int(string)`,
		`payload[payload.sym].x`:      `cannot take x of nil`,
		`payload.deep[payload.sym].x`: `expression: cannot take x of nil`,
		`int(payload.sym)`:            `it cannot be evaluated for this event`,
		`payload.tags[7]`:             `expression: `,
		`payload.legs + 1`:            `invalid operation: list + int`,
		`payload.deep[payload.legs]`:  `expression: `,
		`payload.live && payload.sym`: `must yield true or false`,
		`payload.sym ? true : false`:  `expression: `,
	} {
		x, at, err := compileExpression(source, anyResult)
		if err != nil {
			t.Errorf("%s: at %d: %v", source, at, err)
			continue
		}
		_, err = x.bool(deliveryOf(t, quote), around())
		if err == nil || !strings.Contains(err.Error(), want) || !IsPermanent(err) || ErrorKind(err) != KindExpression {
			t.Errorf("%s: error %v, want %q", source, err, want)
		}
		if err != nil && (strings.Contains(err.Error(), "AAPL") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: the error shows the event: %v", source, err)
		}
	}
}

// What could take long or much memory is refused before it runs.
func TestExpressionIsBounded(t *testing.T) {
	list := `{"ts": 1, "meta": {"schema_id": "s"}, "payload": {"a": [` + strings.Repeat("1,", 100_000) + `1], "s": "` +
		strings.Repeat("x", 100_000) + `"}}`
	for source, allowed := range map[string]bool{
		`any(payload.a, # == 2)`:                                  true,
		`len(filter(payload.a, # > 0)) > 5`:                       true,
		`payload.s contains "y"`:                                  true,
		`any(payload.a, any(payload.a, # == 2))`:                  false,
		`any(payload.a, payload.s contains "y")`:                  false,
		`any(payload.a, payload.s matches "(x+x+)+y")`:            false,
		`any(map(payload.a, payload.s + payload.s), len(#) == 1)`: false,
		`let a = payload.s + payload.s; let b = a + a; let c = b + b; let d = c + c; let e = d + d; let f = e + e;` +
			`let g = f + f; let h = g + g; let i = h + h; let j = i + i; len(j + j) == 1`: false,
	} {
		x, _, err := compileExpression(source, boolResult)
		if err == nil {
			_, err = x.bool(deliveryOf(t, list), around())
		}
		if allowed != (err == nil) {
			t.Errorf("%s: error %v, want it allowed: %v", source, err, allowed)
		}
		if x != nil {
			if _, err := x.eval(deliveryOf(t, quote), around()); err != nil && strings.Contains(err.Error(), "too large") {
				t.Errorf("%s: refused for a small event: %v", source, err)
			}
		}
	}
	if _, _, err := compileExpression(strings.Repeat("(", 1<<20)+"1", anyResult); err == nil ||
		!strings.Contains(err.Error(), "longer than 16 KiB") {
		t.Errorf("a megabyte of brackets: %v", err)
	}
	deep := strings.Repeat("(", 2000) + "1" + strings.Repeat(")", 2000)
	for _, source := range []string{strings.Repeat("1 + ", 2000) + "1", strings.Repeat("!", 5000) + "true", deep} {
		if x, _, err := compileExpression(source, anyResult); err == nil && x.work.at(0) > expressionBudget {
			t.Errorf("an expression of %d characters was taken", len(source))
		}
	}
}

// An expression sees the event by these names, which are documented.
func TestExpressionNamesAreTheEnvironment(t *testing.T) {
	want := []string{"deliveries", "headers", "id", "key", "now", "payload", "source", "stream", "track", "ts", "type"}
	if diff := cmp.Diff(want, expressionNames); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for _, name := range expressionNames {
		if _, _, err := compileExpression(name, anyResult); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(expressionDoc, "`"+name+"`") {
			t.Errorf("%s is not in the documentation", name)
		}
	}
}

// A remark shows what an expression has read, each by its name.
func TestRemarkShowsEveryName(t *testing.T) {
	e := event.Decoder{}.Decode("1-0", []byte(feedback("a", "ok", at)))
	if e.Err != nil {
		t.Fatal(e.Err)
	}
	e.Deliveries = 3
	d, around := &Delivery{Context: t.Context(), Event: e}, surroundings{clock: newTestClock(), stream: "telemetry.feedback"}
	for name, want := range map[string]string{
		"deliveries": "3", "id": `"1-0"`, "key": `"a"`, "now": "1795556900.0", "stream": `"telemetry.feedback"`, "track": `"v1"`,
		"ts": "1795556873.5", "type": `"telemetry.FeedbackEvent"`, "source": `"store"`,
		"payload.level": `"ok"`,
	} {
		x, _, err := compileExpression(name+" == nil", boolResult)
		if err != nil {
			t.Fatal(err)
		}
		if got := x.remark(d, around, false); !strings.HasSuffix(got, " ("+name+" = "+want+")") {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// FuzzExpression runs expressions over events: neither panics, and what an expression
// yields is no larger than its bound says.
func FuzzExpression(f *testing.F) {
	for _, source := range []string{
		`payload.a == 1`, `let x = payload.a + payload.b; x + x`, `map(payload.l, # + #)`, `filter(payload.l, .x > 1)`,
		`upper(payload.s) matches "a+"`, `join(payload.l, payload.s)`, `split(payload.s, "")`, `{a: [payload, headers]}`,
		`payload.l[1:2]`, `any(payload.l, any(#, # > 1))`, `payload.a?.b ?? string(payload)`, `keys(payload)`, `#`, `$env`,
		`values(payload.o)`, `sum(payload.l, # ?? 1)`, `count(payload.l, # in payload.l)`, `-payload.a ** 2`,
	} {
		f.Add(source, []byte(`{"a": 1, "b": "x", "l": [1, "a", [2], {"x": 3}], "s": "text", "o": {"k": null}}`))
	}
	f.Fuzz(func(t *testing.T, source string, payload []byte) {
		for _, kind := range []resultKind{anyResult, boolResult, objectResult} {
			x, at, err := compileExpression(source, kind)
			if err != nil {
				if strings.Contains(err.Error(), "\n") || at < 0 || at > len(source)+1 {
					t.Fatalf("error %q at %d", err, at)
				}
				continue
			}
			e := event.Decoder{}.Decode("5-0", fmt.Appendf(nil, `{"ts": 1, "meta": {"schema_id": "s"}, "payload": %s}`, payload))
			if e.Err != nil {
				return
			}
			d := &Delivery{Context: context.Background(), Event: e}
			value, err := x.eval(d, around())
			if err != nil {
				var shown *expressionError
				if !errors.As(err, &shown) || strings.Contains(err.Error(), "\n") {
					t.Fatalf("error %q", err)
				}
				continue
			}
			bound := x.yields.at(len(e.Data) + 64)
			if text, ok := value.(string); ok && float64(len(text)) > bound {
				t.Errorf("%q yields %d bytes, bound %g", source, len(text), bound)
			}
			if text, err := event.AppendValue(nil, value); err == nil && float64(len(text)) > 8*bound+1024 {
				t.Errorf("%q yields %d bytes of JSON, bound %g", source, len(text), bound)
			}
		}
	})
}
