package stages

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/conf"
	exprfile "github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/parser"
	"github.com/expr-lang/expr/vm"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// expressionEnv is all that an expression can see.
type expressionEnv struct {
	ID         string            `expr:"id"`
	Type       string            `expr:"type"`
	Key        string            `expr:"key"`
	TS         float64           `expr:"ts"`
	Source     string            `expr:"source"`
	Track      string            `expr:"track"`
	Stream     string            `expr:"stream"`
	Deliveries int               `expr:"deliveries"`
	Headers    map[string]string `expr:"headers"`
	Payload    map[string]any    `expr:"payload"`
	Now        float64           `expr:"now"`
}

// expressionFields are the fields of expressionEnv by the names under which an expression
// sees them.
var expressionFields = func() map[string]int {
	fields := make(map[string]int)
	for i, f := range reflect.VisibleFields(reflect.TypeFor[expressionEnv]()) {
		fields[f.Tag.Get("expr")] = i
	}
	return fields
}()

// expressionNames are the names an expression may use.
var expressionNames = slices.Sorted(maps.Keys(expressionFields))

// value returns what an expression sees under a name.
func (env *expressionEnv) value(name string) any {
	return reflect.ValueOf(env).Elem().Field(expressionFields[name]).Interface()
}

// expressionDoc explains expressions, for the stages that take them.
const expressionDoc = "An expression ([expr](https://expr-lang.org/docs/language-definition)) sees the event and nothing " +
	"else: `id`, `type` (the schema id), `key`, `ts` (when it happened, epoch seconds), `source`, `track`, `stream`, " +
	"`deliveries`, `headers`, `payload`, and `now` (epoch seconds). A member that the payload lacks is `nil`: " +
	"`payload.note ?? \"none\"`, and `payload.a?.b` where `a` may be missing."

// resultKind is what an expression has to yield.
type resultKind uint8

const (
	anyResult resultKind = iota
	boolResult
	textResult
	objectResult
)

// expression is a compiled expression. It is safe for concurrent use.
type expression struct {
	source  string
	pos     func(character int) flows.Position
	program *vm.Program
	result  resultKind
	work    size // what one evaluation takes at most
	yields  size // how large its result is at most
	reads   map[string]bool
	members []string // of the payload; nil is all of them
	runs    sync.Pool
}

// run is what one evaluation needs.
type run struct {
	vm  vm.VM
	env expressionEnv
}

// Expression compiles the expression that stands at node, under the named key, and
// reports what is wrong with it, at its place in the file, to d. It returns nil then.
func (s Scope) expression(d *flows.Diagnostics, key string, node *flows.Node, source string, result resultKind) *expression {
	x, at, err := compileExpression(source, result)
	if err == nil {
		pos := s.Pos
		x.pos = func(character int) flows.Position {
			if node == nil {
				return pos
			}
			return node.At(character)
		}
		return x
	}
	pos, text := s.At(key), err.Error()
	if node != nil {
		pos = node.At(at)
		if origin := node.Origin(); origin != "" {
			text = origin + ": " + text
		}
	}
	d.Beyondf(pos, flows.LimitExpression, "%s: %s: %s", s.Where(), key, text)
	return nil
}

// compileExpression returns the expression, or what is wrong with it at which of its
// characters.
func compileExpression(source string, result resultKind) (x *expression, at int, err error) {
	if strings.TrimSpace(source) == "" {
		return nil, 0, errors.New("the expression is empty")
	}
	if len(source) > maxExpressionText {
		return nil, 0, fmt.Errorf("the expression is longer than %d KiB", maxExpressionText>>10)
	}
	config := conf.CreateNew()
	config.MaxNodes = maxExpressionNodes
	tree, err := parser.ParseWithConfig(source, config)
	if err != nil {
		at, err = placed(err)
		return nil, at, err
	}
	a, bounds, err := analyze(tree.Node)
	if err != nil {
		return nil, a.at.From, err
	}
	options := []expr.Option{expr.Env(expressionEnv{}), expr.MaxNodes(maxExpressionNodes)}
	switch result {
	case boolResult:
		options = append(options, expr.AsBool())
	case objectResult:
		options = append(options, expr.AsKind(reflect.Map))
	}
	options = append(options, expr.DisableAllBuiltins())
	for _, name := range expressionFunctions() {
		options = append(options, expr.EnableBuiltin(name))
	}
	program, err := expr.Compile(source, options...)
	if err != nil {
		at, err = placed(err)
		return nil, at, err
	}
	x = &expression{source: source, program: program, result: result, work: bounds.work, yields: bounds.result, reads: a.reads}
	if !a.whole {
		x.members = slices.Sorted(maps.Keys(a.members))
		if x.members == nil {
			x.members = []string{}
		}
	}
	x.pos = func(int) flows.Position { return flows.Position{} }
	x.runs.New = func() any { return new(run) }
	return x, 0, nil
}

var expected = regexp.MustCompile(`^expected (\w+), but got (.*)$`)

// placed takes the library's error apart: the character it is about, and the text
// without the excerpt it brings along.
func placed(err error) (at int, text error) {
	var e *exprfile.Error
	if errors.As(err, &e) {
		return e.From, errors.New(readable(e.Message))
	}
	if m := expected.FindStringSubmatch(err.Error()); m != nil {
		want := map[string]string{"bool": "true or false", "map": "an object"}[m[1]]
		return 0, fmt.Errorf("the expression must yield %s, this one yields %s", want, readable(m[2]))
	}
	return 0, errors.New(readable(err.Error()))
}

// readable replaces Go's names of types by those of JSON.
func readable(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	if text == "unexpected token EOF" {
		return "the expression ends too early: write what is to follow"
	}
	if m := unexpected.FindStringSubmatch(text); m != nil {
		if m[1] == "=" {
			return `"=" cannot stand here: write == to compare, matches for a pattern`
		}
		return fmt.Sprintf("%q cannot stand here: check what is in front of it", m[1])
	}
	return typeNames.Replace(text)
}

var unexpected = regexp.MustCompile(`^unexpected token [A-Za-z]+\("(.*)"\)$`)

var typeNames = strings.NewReplacer(
	"map[string]interface {}", "object", "map[string]string", "object", "[]interface {}", "list", "interface {}", "value",
	"map[string]any", "object", "[]any", "list", "<nil>", "nil", "float64", "number", "*stages.expressionEnv", "event",
	"stages.expressionEnv", "event",
)

// expressionError says why an event made an expression fail. It names types and
// never values: those are the event's.
type expressionError struct {
	pos    flows.Position
	reason string
}

func (e *expressionError) Error() string {
	if e.pos.Line == 0 {
		return "expression: " + e.reason
	}
	return "expression at " + e.pos.String() + ": " + e.reason
}

func (x *expression) fail(character int, reason string) error {
	return PermanentKind(KindExpression, &expressionError{pos: x.pos(character), reason: reason})
}

// surroundings are what an expression knows beside the event.
type surroundings struct {
	clock  Clock
	stream string
}

// eval evaluates the expression for the event of d. Its error is permanent.
func (x *expression) eval(d *Delivery, s surroundings) (any, error) {
	e := d.Event
	if x.work.at(len(e.Data)+64) > expressionBudget {
		return nil, x.fail(0, fmt.Sprintf("an event of %d bytes is too large for it", len(e.Data)))
	}
	r := x.runs.Get().(*run)
	defer func() {
		r.env = expressionEnv{}
		x.runs.Put(r)
	}()
	if err := r.env.fill(x, d, s); err != nil {
		return nil, x.fail(0, err.Error())
	}
	value, err := r.vm.Run(x.program, &r.env)
	if err != nil {
		return nil, x.failed(err)
	}
	return value, nil
}

// fill sets what x reads of the event.
func (env *expressionEnv) fill(x *expression, d *Delivery, s surroundings) error {
	e := d.Event
	env.ID, env.Type, env.Key, env.Track, env.Stream = e.ID, e.Schema, e.OrderKey(), e.Track, s.stream
	env.Deliveries = int(e.Deliveries)
	if x.reads["ts"] {
		var ok bool
		if env.TS, ok = e.EventTime(); !ok {
			env.TS = e.Time
		}
	}
	if x.reads["source"] {
		env.Source = e.Source()
	}
	if x.reads["headers"] {
		env.Headers = e.Headers()
	}
	if x.reads["now"] {
		env.Now = event.Seconds(s.clock.Now())
	}
	if x.reads["payload"] {
		var err error
		if env.Payload, err = e.Object(x.members); err != nil {
			return err
		}
	}
	return nil
}

// The library's run-time errors that name no value. A fetched name is shown only
// where the expression itself has it.
var (
	operandTypes = regexp.MustCompile(`^invalid operation: (- |! )?[a-z0-9.\[\]{}<> ]+( (==|<|>|<=|>=|\+|-|\*|/|%|\*\*) [a-z0-9.\[\]{}<> ]+)?$`)
	fetchFrom    = regexp.MustCompile(`^cannot (?:fetch|get) (\w+) from ([a-z0-9.\[\]{}<> ]+)$`)
	conversion   = regexp.MustCompile(`^invalid operation: \w+\((string|int|float64|bool|<nil>|\[\]interface \{\}|map\[string\]interface \{\})\)$`)
	functionType = regexp.MustCompile(`^invalid argument for \w+ \(type [a-z0-9.\[\]{}<> ]+\)$`)
)

// failed words the library's run-time error.
func (x *expression) failed(err error) error {
	at, reason := 0, "it cannot be evaluated for this event"
	var e *exprfile.Error
	if errors.As(err, &e) {
		at = e.From
		var internal runtime.Error
		m := fetchFrom.FindStringSubmatch(e.Message)
		switch {
		case m != nil && strings.Contains(x.source, m[1]):
			reason = fmt.Sprintf("cannot take %s of %s", m[1], readable(m[2]))
		case operandTypes.MatchString(e.Message), functionType.MatchString(e.Message),
			conversion.MatchString(e.Message):
			reason = readable(e.Message)
		case e.Message == "memory budget exceeded":
			reason = "it would take too much memory"
		case errors.As(err, &internal):
			reason = readable(internal.Error())
		}
	}
	return x.fail(at, reason)
}

// bool evaluates a condition.
func (x *expression) bool(d *Delivery, s surroundings) (bool, error) {
	value, err := x.eval(d, s)
	if err != nil {
		return false, err
	}
	yes, ok := value.(bool)
	if !ok {
		return false, x.fail(0, "yields "+typeOf(value)+", must yield true or false")
	}
	return yes, nil
}

// text evaluates an expression whose result is a name.
func (x *expression) text(d *Delivery, s surroundings) (string, error) {
	value, err := x.eval(d, s)
	if err != nil {
		return "", err
	}
	switch v := value.(type) {
	case string:
		return v, nil
	case int:
		return strconv.Itoa(v), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case bool:
		return strconv.FormatBool(v), nil
	default:
		return "", x.fail(0, "yields "+typeOf(value)+", must yield a text")
	}
}

// typeOf names the type of a value as JSON does.
func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "nil"
	case bool:
		return "a boolean"
	case int, float64:
		return "a number"
	case string:
		return "a text"
	case []any:
		return "a list"
	case map[string]any, map[string]string:
		return "an object"
	default:
		return readable(fmt.Sprintf("%T", v))
	}
}
