package event

import (
	"errors"
	"math"
	"strings"
	"testing"
)

// withPayload returns a canonical event of the given payload.
func withPayload(t *testing.T, payload string) *Event {
	t.Helper()
	e := Decoder{}.Decode(testID, []byte(envelope(`"ts":1`, `"meta":`+testMeta, `"payload":`+payload)))
	if e.Err != nil {
		t.Fatal(e.Err)
	}
	return e
}

// checkFieldError checks that err is a *FieldError with the text, or nil when the text is empty.
func checkFieldError(t *testing.T, err error, text string) {
	t.Helper()
	if text == "" {
		if err != nil {
			t.Errorf("got error %v", err)
		}
		return
	}
	var bad *FieldError
	if !errors.As(err, &bad) {
		t.Fatalf("got error %v, want a *FieldError %q", err, text)
	}
	if bad.Error() != text || bad.Kind() != KindSchema {
		t.Errorf("got %s error %q, want %q", bad.Kind(), bad, text)
	}
}

func TestFeedback(t *testing.T) {
	sound := Feedback{"c", 850, 1000, LevelSoft, "store", 5.5}
	with := func(change func(f *Feedback)) Feedback {
		f := sound
		change(&f)
		return f
	}
	queue := func(n int64) Feedback { return with(func(f *Feedback) { f.QueueSize = n }) }
	type result struct {
		want    Feedback
		err     string
		lenient string
	}
	// fine is accepted; ignored is refused unless lenient; refused is refused in any case.
	fine := func(f Feedback) result { return result{want: f} }
	ignored := func(f Feedback, err string) result { return result{want: f, err: err} }
	refused := func(err string) result { return result{err: err, lenient: err} }
	tests := []struct {
		name, member, value string // the value of one member; an empty one removes it
		result              result
	}{
		{"sound", "x", "1", fine(sound)},
		{"no coordinator", "coordinator_id", "", refused("/coordinator_id: is required")},
		{"null coordinator", "coordinator_id", "null", refused("/coordinator_id: must be a string (got null)")},
		{"coordinator is a number", "coordinator_id", "5", refused("/coordinator_id: must be a string (got number)")},
		{"empty coordinator", "coordinator_id", `""`, fine(with(func(f *Feedback) { f.CoordinatorID = "" }))},
		{
			"escaped coordinator",
			"coordinator_id",
			`"\u00fc"`,
			fine(with(func(f *Feedback) { f.CoordinatorID = "ü" })),
		},
		{"no queue size", "queue_size", "", ignored(queue(0), "/queue_size: is required")},
		{"null queue size", "queue_size", "null", ignored(queue(0), "/queue_size: must be an integer (got null)")},
		{
			"queue size is text",
			"queue_size",
			`"1"`,
			ignored(queue(0), "/queue_size: must be an integer (got string)"),
		},
		{
			"queue size is true",
			"queue_size",
			"true",
			ignored(queue(0), "/queue_size: must be an integer (got boolean)"),
		},
		{
			"fractional queue size",
			"queue_size",
			"1.5",
			ignored(queue(0), "/queue_size: must be an integer (got number)"),
		},
		{
			"tiny queue size",
			"queue_size",
			"1e-400",
			ignored(queue(0), "/queue_size: must be an integer (got number)"),
		},
		{
			"negative queue size",
			"queue_size",
			"-1",
			ignored(queue(0), "/queue_size: must not be negative (got number)"),
		},
		{"zero queue size", "queue_size", "0", fine(queue(0))},
		{"minus zero queue size", "queue_size", "-0.0", fine(queue(0))},
		{"integral float queue size", "queue_size", "850.0", fine(queue(850))},
		{"queue size with exponent", "queue_size", "1e2", fine(queue(100))},
		{"queue size over capacity", "queue_size", "2000", fine(queue(2000))},
		{"exact queue size", "queue_size", "9007199254740993", fine(queue(9007199254740993))},
		{"huge queue size", "queue_size", "1e30", fine(queue(math.MaxInt64))},
		{"hugest queue size", "queue_size", "1e999999999999", fine(queue(math.MaxInt64))},
		{
			"no capacity", "capacity", "",
			ignored(with(func(f *Feedback) { f.Capacity = 0 }), "/capacity: is required"),
		},
		{
			"zero capacity", "capacity", "0.0",
			ignored(with(func(f *Feedback) { f.Capacity = 0 }), "/capacity: must be greater than 0 (got number)"),
		},
		{
			"negative capacity", "capacity", "-5",
			ignored(with(func(f *Feedback) { f.Capacity = 0 }), "/capacity: must be greater than 0 (got number)"),
		},
		{
			"capacity is an object", "capacity", "{}",
			ignored(with(func(f *Feedback) { f.Capacity = 0 }), "/capacity: must be an integer (got object)"),
		},
		{"least capacity", "capacity", "1", fine(with(func(f *Feedback) { f.Capacity = 1 }))},
		{"no level", "level", "", refused("/level: is required")},
		{"level ok", "level", `"ok"`, fine(with(func(f *Feedback) { f.Level = LevelOK }))},
		{"level hard", "level", `"hard"`, fine(with(func(f *Feedback) { f.Level = LevelHard }))},
		{"escaped level", "level", `"\u0068ard"`, fine(with(func(f *Feedback) { f.Level = LevelHard }))},
		{"level in capitals", "level", `"OK"`, refused("/level: must be ok, soft or hard (got string)")},
		{"empty level", "level", `""`, refused("/level: must be ok, soft or hard (got string)")},
		{"level is a number", "level", "1", refused("/level: must be ok, soft or hard (got number)")},
		{"level is a list", "level", `["ok"]`, refused("/level: must be ok, soft or hard (got array)")},
		{"source", "source", `"x"`, fine(with(func(f *Feedback) { f.Source = "x" }))},
		{"empty source", "source", `""`, fine(with(func(f *Feedback) { f.Source = "" }))},
		{"null source", "source", "null", ignored(sound, "/source: must be a string (got null)")},
		{"source is a number", "source", "1", ignored(sound, "/source: must be a string (got number)")},
		{"no ts", "ts", "", refused("/ts: is required")},
		{"null ts", "ts", "null", refused("/ts: must be a finite number (got null)")},
		{"ts is text", "ts", `"5"`, refused("/ts: must be a finite number (got string)")},
		{"ts overflows", "ts", "1e400", refused("/ts: must be a finite number (got number)")},
		{"ts is an integer", "ts", "7", fine(with(func(f *Feedback) { f.Time = 7 }))},
		{"negative ts", "ts", "-7e0", fine(with(func(f *Feedback) { f.Time = -7 }))},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			members := []string{`"coordinator_id":"c"`, `"queue_size":850`, `"capacity":1000`, `"level":"soft"`, `"ts":5.5`}
			for i, member := range members {
				if strings.HasPrefix(member, `"`+test.member+`"`) {
					members = append(members[:i], members[i+1:]...)
					break
				}
			}
			if test.value != "" {
				members = append(members, `"`+test.member+`":`+test.value)
			}
			e := withPayload(t, envelope(members...))
			f, err := e.Feedback()
			checkFieldError(t, err, test.result.err)
			if want := test.result.want; err == nil && f != want || err != nil && f != (Feedback{}) {
				t.Errorf("got %+v, want %+v", f, want)
			}
			f, err = e.LenientFeedback()
			checkFieldError(t, err, test.result.lenient)
			if f != test.result.want {
				t.Errorf("lenient: got %+v, want %+v", f, test.result.want)
			}
		})
	}
}

// A later member of the same name replaces an earlier one, and a name may be escaped.
func TestFeedbackNames(t *testing.T) {
	e := withPayload(t, `{"coordinator_id":1,"queue_size":1,"capacity":1,"level":"ok","ts":1,"source":null,`+
		`"coord\u0069nator_id":"c","queue_size":2,"source":"x","LEVEL":"hard"}`)
	want := Feedback{"c", 2, 1, LevelOK, "x", 1}
	if f, err := e.Feedback(); err != nil || f != want {
		t.Errorf("got %+v, %v, want %+v", f, err, want)
	}
}

func TestFeedbackBare(t *testing.T) {
	e := Decoder{}.Decode("1795556873476-3", []byte(bareEntry))
	want := Feedback{"bars_1", 850, 1000, LevelSoft, "store", 1795556873.476}
	if f, err := e.Feedback(); err != nil || f != want {
		t.Errorf("got %+v, %v, want %+v", f, err, want)
	}
	if f, err := e.LenientFeedback(); err != nil || f != want {
		t.Errorf("lenient: got %+v, %v, want %+v", f, err, want)
	}
	own := Decoder{}.Decode("1795556873476-3", []byte(strings.Replace(bareEntry, "{", `{"ts": 7, "source": "x", `, 1)))
	want.Source, want.Time = "x", 7
	if f, err := own.Feedback(); err != nil || f != want {
		t.Errorf("with its own ts: got %+v, %v, want %+v", f, err, want)
	}
	bad := Decoder{}.Decode("1795556873476-3", []byte(strings.Replace(bareEntry, "{", `{"ts": null, `, 1)))
	_, err := bad.Feedback()
	checkFieldError(t, err, "/ts: must be a finite number (got null)")
}

func TestRateAdjustment(t *testing.T) {
	sound := RateAdjustment{"ibkr", 0.5, LevelSoft, 5.5}
	scale := func(x float64) RateAdjustment { return RateAdjustment{"ibkr", x, LevelSoft, 5.5} }
	tests := []struct {
		name, member, value string
		want                RateAdjustment
		err                 string
	}{
		{"sound", "x", "1", sound, ""},
		{"no provider", "provider", "", sound, "/provider: is required"},
		{"provider is a number", "provider", "1", sound, "/provider: must be a string (got number)"},
		{"no scale", "scale", "", sound, "/scale: is required"},
		{"scale is text", "scale", `"0.5"`, sound, "/scale: must be a number (got string)"},
		{"paused", "scale", "0", scale(0), ""},
		{"full", "scale", "1.0", scale(1), ""},
		{"full with exponent", "scale", "100e-2", scale(1), ""},
		{"underflow", "scale", "1e-400", scale(0), ""},
		{"negative", "scale", "-0.1", sound, "/scale: must be from 0 to 1 (got number)"},
		{"negative underflow", "scale", "-1e-400", sound, "/scale: must be from 0 to 1 (got number)"},
		{"over 1", "scale", "1.1", sound, "/scale: must be from 0 to 1 (got number)"},
		{
			"over 1 by less than a float64 can tell",
			"scale",
			"1.00000000000000000001",
			sound,
			"/scale: must be from 0 to 1 (got number)",
		},
		{"huge", "scale", "1e999", sound, "/scale: must be from 0 to 1 (got number)"},
		{"no reason", "reason", "", sound, "/reason: is required"},
		{"unknown reason", "reason", `"panic"`, sound, "/reason: must be ok, soft or hard (got string)"},
		{"no ts", "ts", "", sound, "/ts: is required"},
		{"ts overflows", "ts", "-1e400", sound, "/ts: must be a finite number (got number)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			members := []string{`"provider":"ibkr"`, `"scale":0.5`, `"reason":"soft"`, `"ts":5.5`}
			for i, member := range members {
				if strings.HasPrefix(member, `"`+test.member+`"`) {
					members = append(members[:i], members[i+1:]...)
					break
				}
			}
			if test.value != "" {
				members = append(members, `"`+test.member+`":`+test.value)
			}
			r, err := withPayload(t, envelope(members...)).RateAdjustment()
			checkFieldError(t, err, test.err)
			if err == nil && r != test.want {
				t.Errorf("got %+v, want %+v", r, test.want)
			}
		})
	}
	r, err := withPayload(t, `{"provider":"ibkr","scale":-0.0,"reason":"ok","ts":1}`).RateAdjustment()
	if err != nil || math.Signbit(r.Scale) {
		t.Errorf("minus zero: got scale %v, error %v", r.Scale, err)
	}
}

func TestOrderKey(t *testing.T) {
	tests := []struct{ name, data, want string }{
		{"key", envelope(`"ts":1`, `"key":"k"`, `"meta":`+testMeta, `"payload":{"coordinator_id":"c"}`), "k"},
		{
			"coordinator",
			envelope(`"ts":1`, `"key":null`, `"meta":`+testMeta, `"payload":{"coordinator_id":"\u0063"}`),
			"c",
		},
		{"coordinator is a number", envelope(`"ts":1`, `"meta":`+testMeta, `"payload":{"coordinator_id":5}`), ""},
		{"neither", envelope(`"ts":1`, `"meta":`+testMeta, `"payload":{}`), ""},
		{"bare", bareEntry, "bars_1"},
		{"no entry", "x", ""},
	}
	for _, test := range tests {
		if got := (Decoder{}).Decode(testID, []byte(test.data)).OrderKey(); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestEventTime(t *testing.T) {
	tests := []struct {
		name, payload string
		want          float64
		ok            bool
	}{
		{"number", `{"ts":2.5}`, 2.5, true},
		{"none", `{}`, 0, false},
		{"text", `{"ts":"2.5"}`, 0, false},
		{"overflow", `{"ts":1e999}`, 0, false},
	}
	for _, test := range tests {
		seconds, ok := withPayload(t, test.payload).EventTime()
		if ok != test.ok || ok && seconds != test.want {
			t.Errorf("%s: got %v, %v, want %v, %v", test.name, seconds, ok, test.want, test.ok)
		}
	}
	if seconds, ok := (Decoder{}).Decode("1500-0", []byte(bareEntry)).EventTime(); !ok || seconds != 1.5 {
		t.Errorf("bare: got %v, %v", seconds, ok)
	}
	if _, ok := (Decoder{}).Decode("1500-0", []byte("x")).EventTime(); ok {
		t.Error("no entry: got a time")
	}
}

// The zero Event has no payload, and the views must say so.
func TestZeroEvent(t *testing.T) {
	var e Event
	_, err := e.Feedback()
	checkFieldError(t, err, "/coordinator_id: is required")
	_, err = e.RateAdjustment()
	checkFieldError(t, err, "/provider: is required")
	if err := e.CheckHash(); err != nil {
		t.Error(err)
	}
	if len(e.Headers()) != 0 || e.OrderKey() != "" {
		t.Errorf("got headers %v, order key %q", e.Headers(), e.OrderKey())
	}
}
