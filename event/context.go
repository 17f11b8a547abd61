package event

import "context"

// eventContext carries an event by itself: context.WithValue would need a second allocation.
type eventContext struct {
	context.Context
	event *Event
}

type contextKey struct{}

// Value returns the event for the package's own key, and the parent's value for any other.
func (c *eventContext) Value(key any) any {
	if key == (contextKey{}) {
		return c.event
	}
	return c.Context.Value(key)
}

// NewContext returns a child of ctx that carries e.
func NewContext(ctx context.Context, e *Event) context.Context {
	return &eventContext{Context: ctx, event: e}
}

// FromContext returns the event that ctx carries, nil when it carries none.
func FromContext(ctx context.Context) *Event {
	e, _ := ctx.Value(contextKey{}).(*Event)
	return e
}
