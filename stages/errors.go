package stages

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/mjdevaccount/pulseflow/event"
)

// Error kinds a dead letter carries in its error_kind field. An error that names
// no kind of its own is KindError.
const (
	KindError  = "error"
	KindPanic  = "panic"
	KindSchema = "schema"
	KindHash   = "hash"
	KindSkew   = "skew"

	KindExpression = "expression"
	KindTimeout    = "timeout"
)

// ErrorKinds lists the kinds that there are without stages of one's own, as docs/delivery.md
// does: those of this package and of package event.
func ErrorKinds() []string {
	return []string{
		event.KindDecode, event.KindSize, event.KindNoData, KindSchema, KindHash, KindSkew, event.KindDeliveries,
		KindExpression, KindTimeout, KindPanic, KindError,
	}
}

// kinder is an error that says which of the bounded error kinds it is.
type kinder interface{ Kind() string }

type permanentError struct {
	kind string
	err  error
}

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }
func (e *permanentError) Kind() string  { return e.kind }

// Permanent marks err as one that no retry can mend: the router sends the event
// to the dead letters at once. The kind is that of err, KindError when it names
// none. A nil err stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{kind: ErrorKind(err), err: err}
}

// PermanentKind is Permanent with a kind of the caller's, which should be a
// constant: it becomes a metric label.
func PermanentKind(kind string, err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{kind: kind, err: err}
}

// IsPermanent reports whether err, or an error it wraps, was marked Permanent.
func IsPermanent(err error) bool {
	var p *permanentError
	return errors.As(err, &p)
}

// ErrorKind returns the kind of err: the outermost Kind() in its chain,
// KindError when there is none, and "" for a nil error.
func ErrorKind(err error) string {
	if err == nil {
		return ""
	}
	var k kinder
	if errors.As(err, &k) {
		return k.Kind()
	}
	return KindError
}

// PanicError is what a panic in a stage becomes. Its text carries the value of a
// runtime error only: any other value may hold a payload, so its type stands for
// it.
type PanicError struct {
	Value any
	Stack []byte
}

// Error implements error.
func (e *PanicError) Error() string {
	var re runtime.Error
	if err, ok := e.Value.(error); ok && errors.As(err, &re) {
		return "panic: " + re.Error()
	}
	return fmt.Sprintf("panic with a value of type %T", e.Value)
}

// Kind implements the bounded error kinds.
func (e *PanicError) Kind() string { return KindPanic }
