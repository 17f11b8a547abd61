package stages

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
)

// indent makes a list item of a Kind's example part of a flow.
func indent(example string) string {
	return "      " + strings.ReplaceAll(strings.TrimSpace(example), "\n", "\n      ") + "\n"
}

// before lists the stages an example needs in front of it.
var before = map[string]string{"rate-apply": "      - handle: {with: feedback}\n"}

// Every kind, built in or added later, keeps these promises.
func TestEveryKind(t *testing.T) {
	reg := Builtin()
	for _, kind := range reg.Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			if kind.Summary == "" || !strings.HasSuffix(kind.Summary, ".") || kind.Doc == "" {
				t.Errorf("summary %q, doc %q: both are required, as sentences", kind.Summary, kind.Doc)
			}
			if err := kind.New().Fields().Verify(); err != nil {
				t.Errorf("fields: %v", err)
			}
			t.Run("example resolves", func(t *testing.T) {
				if _, d := resolve(t, reg, file(before[kind.Name]+indent(kind.Example))); len(d) > 0 {
					t.Errorf("example:\n%s\n%v", kind.Example, d)
				}
			})
			t.Run("testdata example resolves", func(t *testing.T) {
				src, err := os.ReadFile(filepath.Join("testdata", kind.Name+".yaml"))
				if err != nil {
					t.Fatal(err)
				}
				f, d := flows.Parse(kind.Name+".yaml", src, func(string) (string, bool) { return "", false })
				if d.HasErrors() {
					t.Fatal(d)
				}
				reg.Resolve(f.Flows[0].Stages, Scope{
					Flow: "example", Dir: "testdata", Providers: []string{f.Providers[0].Name}, Key: f.StreamKey,
				}, &d)
				if len(d) > 0 {
					t.Error(d)
				}
			})
			t.Run("unknown field refused", func(t *testing.T) {
				_, d := resolve(t, reg, file("      - "+kind.Name+": {no_such_field: 1}\n"))
				if !strings.Contains(d.String(), `unknown field "no_such_field"`) {
					t.Errorf("diagnostics %q", d)
				}
			})
			t.Run("error of next passes", func(t *testing.T) {
				failure := errors.New("later stage")
				b := start(t, reg, before[kind.Name]+indent(kind.Example), func(*message.Message) error { return failure })
				if r := b.send("1-0", feedback("a", "ok", at)); !errors.Is(r.err, failure) || IsPermanent(r.err) {
					t.Errorf("error %v, want the later stage's", r.err)
				}
			})
			t.Run("success passes", func(t *testing.T) {
				b := start(t, reg, before[kind.Name]+indent(kind.Example), nil)
				if r := b.send("1-0", feedback("a", "ok", at)); r.err != nil || r.outcome != OutcomeSuccess {
					t.Errorf("result %+v, want success", r)
				}
			})
		})
	}
}

func TestRegistryAdd(t *testing.T) {
	whole := Kind{Name: "mine", Summary: "Mine.", Example: "- mine", New: func() Config { return &DedupeConfig{} }}
	reg := Builtin()
	if err := reg.Add(whole); err != nil {
		t.Fatal(err)
	}
	if err := reg.Add(whole); err == nil {
		t.Error("a kind was added twice")
	}
	for name, drop := range map[string]func(*Kind){
		"name": func(k *Kind) { k.Name = "" }, "summary": func(k *Kind) { k.Summary = "" },
		"example": func(k *Kind) { k.Example = "" }, "constructor": func(k *Kind) { k.New = nil },
	} {
		k := whole
		drop(&k)
		if err := new(Registry).Add(k); err == nil {
			t.Errorf("a kind without %s was added", name)
		}
	}
	if err := new(Registry).Add(whole); err != nil {
		t.Errorf("an empty registry: %v", err)
	}
}

func TestResolveReportsEveryStage(t *testing.T) {
	_, d := resolve(t, Builtin(), file("      - valdate: {schema: x}\n      - dedupe: {tll: 5m}\n"+
		"      - handle: {with: nobody}\n"))
	text := d.String()
	for _, want := range []string{
		`flows.yaml:8:9: flow "feedback": stage 1: unknown stage "valdate" (did you mean "validate"?); ` +
			`known: dedupe, delay, filter, handle, map, rate-apply, route, tap, throttle, timeout, validate`,
		`flow "feedback": stage 2 (dedupe): unknown field "tll" (did you mean "ttl"?)`,
		`flow "feedback": stage 3 (handle): with:`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("diagnostics lack %q:\n%s", want, text)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	plain := errors.New("x")
	for _, tt := range []struct {
		err       error
		kind      string
		permanent bool
	}{
		{nil, "", false},
		{plain, KindError, false},
		{Permanent(plain), KindError, true},
		{PermanentKind(KindHash, plain), KindHash, true},
		{Permanent(PermanentKind(KindHash, plain)), KindHash, true},
		{errors.Join(plain, Permanent(plain)), KindError, true},
		{&PanicError{Value: "secret"}, KindPanic, false},
	} {
		if got := ErrorKind(tt.err); got != tt.kind || IsPermanent(tt.err) != tt.permanent {
			t.Errorf("%v: kind %q permanent %v, want %q %v", tt.err, got, IsPermanent(tt.err), tt.kind, tt.permanent)
		}
	}
	if Permanent(nil) != nil || PermanentKind(KindHash, nil) != nil {
		t.Error("no error became one")
	}
}

func TestPanicErrorHidesPayloads(t *testing.T) {
	if text := (&PanicError{Value: "a payload"}).Error(); strings.Contains(text, "payload") {
		t.Errorf("text %q shows the value", text)
	}
	var list []int
	beyond := len(list)
	defer func() {
		text := (&PanicError{Value: recover()}).Error()
		if !strings.Contains(text, "index out of range") {
			t.Errorf("text %q hides a runtime error", text)
		}
	}()
	_ = list[beyond]
}
