package stages

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
	exprfile "github.com/expr-lang/expr/file"

	"github.com/mjdevaccount/pulseflow/flows"
)

const (
	// maxExpressionNodes bounds the parts of an expression.
	maxExpressionNodes = 1000
	// maxExpressionText bounds its text, in bytes: brackets make no nodes, and nest.
	maxExpressionText = 16 << 10
	// expressionBudget bounds the work of one evaluation, in units of about a byte
	// looked at or copied: a tenth of a second at the worst.
	expressionBudget = 50_000_000
	// maxLoops is how deep loops over lists may nest.
	maxLoops = 2
)

// term is coef × B^b × E1^e1 × E2^e2: B is the size of the entry in bytes, E1 and
// E2 that of the element which the loop of that depth is at.
type term struct {
	coef float64
	pow  [1 + maxLoops]uint8
}

// size is a bound as a sum of terms. Expressions are bounded before they run, for
// the library can bound neither the time nor the text that one takes.
type size []term

func constant(c float64) size { return size{{coef: c}} }

// variable is B for depth 0, else the element of the loop at that depth.
func variable(depth int) size {
	t := term{coef: 1}
	t.pow[depth] = 1
	return size{t}
}

func (s size) plus(list ...size) size {
	sum := slices.Clone(s)
	for _, other := range list {
		for _, t := range other {
			if i := slices.IndexFunc(sum, func(x term) bool { return x.pow == t.pow }); i >= 0 {
				sum[i].coef += t.coef
				continue
			}
			sum = append(sum, t)
		}
	}
	return sum
}

func (s size) scaled(by float64) size {
	out := slices.Clone(s)
	for i := range out {
		out[i].coef *= by
	}
	return out
}

func (s size) times(other size) size {
	var product size
	for _, a := range s {
		for _, b := range other {
			t := term{coef: a.coef * b.coef}
			for i := range t.pow {
				t.pow[i] = a.pow[i] + b.pow[i]
			}
			product = product.plus(size{t})
		}
	}
	return product
}

// over is the sum of s over the elements of a list. The sizes of the elements add
// up to no more than the list's, nor do their powers to more than its power.
func (s size) over(list size, depth int) size {
	var sum size
	for _, t := range s {
		count := t.pow[depth]
		t.pow[depth] = 0
		part := size{t}
		for range max(count, 1) { // without the element, once for each
			part = part.times(list)
		}
		sum = sum.plus(part)
	}
	return sum
}

// at is the bound for an entry of so many bytes.
func (s size) at(bytes int) float64 {
	sum := 0.0
	for _, t := range s {
		v := t.coef
		for range t.pow[0] {
			v *= float64(bytes)
		}
		sum += v
	}
	return sum
}

// estimate bounds an expression's work and its result.
type estimate struct{ work, result size }

// number is the size of a number or a boolean.
var number = constant(16)

// analysis bounds an expression, finds which members of the payload it reads, and
// refuses what it may not contain.
type analysis struct {
	reads   map[string]bool // names of the event
	members map[string]bool // of the payload
	whole   bool            // the payload as such is read

	loops  int
	locals map[string]size
	err    error
	at     exprfile.Location
}

func (a *analysis) refuse(n ast.Node, format string, args ...any) estimate {
	if a.err == nil {
		a.err, a.at = fmt.Errorf(format, args...), n.Location()
	}
	return estimate{constant(1), number}
}

// all adds up the work of nodes, and their results.
func (a *analysis) all(nodes ...ast.Node) estimate {
	sum := estimate{constant(1), nil}
	for _, n := range nodes {
		if n == nil {
			continue
		}
		e := a.node(n)
		sum.work, sum.result = sum.work.plus(e.work), sum.result.plus(e.result)
	}
	return sum
}

// scan is work that looks at all of its operands.
func (e estimate) scan() size { return e.work.plus(e.result) }

func (a *analysis) node(n ast.Node) estimate {
	switch n := n.(type) {
	case *ast.NilNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return estimate{constant(1), number}
	case *ast.StringNode:
		return estimate{constant(1), constant(float64(len(n.Value) + 16))}
	case *ast.IdentifierNode:
		return a.identifier(n)
	case *ast.PointerNode:
		if n.Name != "" { // #index
			return estimate{constant(1), number}
		}
		return estimate{constant(1), variable(max(a.loops, 1)).plus(number)}
	case *ast.UnaryNode:
		return estimate{a.node(n.Node).scan(), number}
	case *ast.BinaryNode:
		return a.binary(n)
	case *ast.ChainNode:
		return a.node(n.Node)
	case *ast.MemberNode:
		return a.member(n)
	case *ast.SliceNode:
		e := a.all(n.Node, n.From, n.To)
		return estimate{e.scan(), e.result}
	case *ast.ConditionalNode:
		e := a.all(n.Cond, n.Exp1, n.Exp2)
		return estimate{e.work, e.result}
	case *ast.VariableDeclaratorNode:
		return a.local(n)
	case *ast.SequenceNode:
		return a.all(n.Nodes...)
	case *ast.ArrayNode:
		e := a.all(n.Nodes...)
		return estimate{e.scan(), e.result.plus(constant(float64(16 * (len(n.Nodes) + 1))))}
	case *ast.MapNode:
		e := a.all(n.Pairs...)
		return estimate{e.scan(), e.result.plus(constant(float64(64 * (len(n.Pairs) + 1))))}
	case *ast.PairNode:
		return a.all(n.Key, n.Value)
	case *ast.BuiltinNode:
		return a.builtin(n)
	case *ast.CallNode:
		return a.call(n)
	default:
		return a.refuse(n, "this is not available in expressions")
	}
}

func (a *analysis) identifier(n *ast.IdentifierNode) estimate {
	if s, ok := a.locals[n.Value]; ok {
		return estimate{constant(1), s}
	}
	if n.Value == "payload" {
		a.whole = true
	}
	if !slices.Contains(expressionNames, n.Value) {
		return a.refuse(n, "%s", unknownName(n.Value, append(slices.Clone(expressionNames), slices.Sorted(maps.Keys(a.locals))...)))
	}
	a.reads[n.Value] = true
	return estimate{constant(1), variable(0).plus(constant(64))}
}

// unknownName reports a name that is none of those known. One that is near to none of them was meant as a member of the
// payload, as in languages that begin there, or as a text: YAML has taken its quotes.
func unknownName(name string, known []string) string {
	hint := flows.DidYouMean(name, known)
	if hint == "" {
		hint = fmt.Sprintf(": write payload.%s for a member of the payload, and a text in quotes within the expression", name)
	}
	return fmt.Sprintf("unknown name %q%s; known: %s", name, hint, strings.Join(known, ", "))
}

func (a *analysis) member(n *ast.MemberNode) estimate {
	if of, ok := n.Node.(*ast.IdentifierNode); ok && of.Value == "payload" {
		if name, ok := n.Property.(*ast.StringNode); ok {
			a.reads[of.Value], a.members[name.Value] = true, true
			return estimate{constant(2), variable(0).plus(constant(64))}
		}
	}
	of, property := a.node(n.Node), a.node(n.Property)
	return estimate{of.work.plus(property.scan(), constant(1)), of.result}
}

func (a *analysis) local(n *ast.VariableDeclaratorNode) estimate {
	value := a.node(n.Value)
	before, shadows := a.locals[n.Name]
	a.locals[n.Name] = value.result
	body := a.node(n.Expr)
	delete(a.locals, n.Name)
	if shadows {
		a.locals[n.Name] = before
	}
	return estimate{value.work.plus(body.work), body.result}
}

func (a *analysis) binary(n *ast.BinaryNode) estimate {
	e := a.all(n.Left, n.Right)
	switch n.Operator {
	case "+":
		return estimate{e.scan(), e.result}
	case "-", "*", "/", "%", "**", "^":
		return estimate{e.work, number}
	case "==", "!=", "<", ">", "<=", ">=", "in", "contains", "startsWith", "endsWith":
		return estimate{e.scan(), number}
	case "matches":
		pattern, ok := n.Right.(*ast.StringNode)
		if !ok {
			return a.refuse(n.Right, "the pattern of matches must be written out: one that comes from an event could take long")
		}
		return estimate{e.work.plus(a.node(n.Left).result.scaled(float64(16 + len(pattern.Value)))), number}
	case "and", "&&", "or", "||", "??":
		return e
	default:
		return a.refuse(n, "operator %s is not available in expressions", n.Operator)
	}
}

// The functions of the library that an expression may call: those whose work can be
// bounded and that know nothing of the world.
var (
	numberFunctions = []string{"abs", "ceil", "float", "floor", "int", "len", "max", "min", "round", "type"}
	textFunctions   = []string{
		"hasPrefix", "hasSuffix", "indexOf", "join", "lastIndexOf", "lower", "split", "string", "trim", "trimPrefix", "trimSuffix",
		"upper",
	}
	listFunctions = []string{"first", "keys", "last", "values"}
	loopFunctions = []string{"all", "any", "count", "filter", "find", "findIndex", "map", "none", "one", "sum"}
)

func expressionFunctions() []string {
	return slices.Sorted(slices.Values(slices.Concat(numberFunctions, textFunctions, listFunctions, loopFunctions)))
}

func (a *analysis) call(n *ast.CallNode) estimate {
	if callee, ok := n.Callee.(*ast.IdentifierNode); ok {
		return a.refuse(n, "%s", unknown("function", callee.Value, expressionFunctions()))
	}
	instead := "use operators and functions; known: " + strings.Join(expressionFunctions(), ", ")
	if method, ok := n.Callee.(*ast.MemberNode); ok {
		if name, ok := method.Property.(*ast.StringNode); ok {
			switch {
			case slices.Contains([]string{"contains", "endsWith", "matches", "startsWith"}, name.Value):
				instead = fmt.Sprintf("write … %s …, with a value on either side", name.Value)
			case slices.Contains(expressionFunctions(), name.Value):
				instead = fmt.Sprintf("write %s(…), with the value in the parentheses", name.Value)
			}
		}
	}
	return a.refuse(n, "values have no methods: %s", instead)
}

func (a *analysis) builtin(n *ast.BuiltinNode) estimate {
	switch {
	case slices.Contains(numberFunctions, n.Name):
		return estimate{a.all(n.Arguments...).scan(), number}
	case n.Name == "join":
		e := a.all(n.Arguments...)
		grown := e.result.plus(e.result.times(e.result))
		if len(n.Arguments) < 2 {
			grown = e.result
		}
		return estimate{e.work.plus(grown), grown}
	case slices.Contains(textFunctions, n.Name):
		// The most that one of them makes of a text is a header for each byte of it.
		e := a.all(n.Arguments...)
		return estimate{e.work.plus(e.result.scaled(20)), e.result.scaled(20)}
	case slices.Contains(listFunctions, n.Name):
		e := a.all(n.Arguments...)
		return estimate{e.work.plus(e.result.scaled(4)), e.result.scaled(4)}
	case slices.Contains(loopFunctions, n.Name):
		return a.loop(n)
	case slices.Contains(expressionNames, n.Name):
		return a.refuse(n, "%s is a value: write it without parentheses", n.Name)
	default:
		return a.refuse(n, "function %s is not available in expressions; known: %s", n.Name, strings.Join(expressionFunctions(), ", "))
	}
}

func (a *analysis) loop(n *ast.BuiltinNode) estimate {
	list := a.node(n.Arguments[0])
	body := estimate{constant(1), variable(min(a.loops+1, maxLoops))}
	if len(n.Arguments) > 1 {
		predicate, ok := n.Arguments[1].(*ast.PredicateNode)
		if !ok {
			return a.refuse(n, "function %s needs a condition", n.Name)
		}
		if a.loops == maxLoops {
			return a.refuse(n, "loops nest more than %d deep", maxLoops)
		}
		a.loops++
		body = a.node(predicate.Node)
		a.loops--
	}
	depth := min(a.loops+1, maxLoops)
	work := list.work.plus(body.work.plus(constant(4)).over(list.result, depth))
	switch n.Name {
	case "filter", "find":
		return estimate{work, list.result}
	case "map":
		return estimate{work, body.result.plus(constant(16)).over(list.result, depth)}
	default:
		return estimate{work, number}
	}
}

// analyze bounds the expression at root. The location is that of the error.
func analyze(root ast.Node) (a *analysis, e estimate, err error) {
	a = &analysis{reads: map[string]bool{}, members: map[string]bool{}, locals: map[string]size{}}
	e = a.node(root)
	if a.err == nil && e.work.at(0) > expressionBudget {
		a.err = errors.New("the expression takes more work than an event may")
	}
	return a, e, a.err
}
