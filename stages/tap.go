package stages

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
)

// maxTapText bounds a value in a line of tap, in bytes.
const maxTapText = 256

// TapConfig is the block of a tap stage.
type TapConfig struct {
	// Every is how many events there are to a line.
	Every int
	// PerSecond is the most lines a second; 0 is no limit.
	PerSecond float64
	// Level is debug, info or warn, Message the line's text.
	Level   string
	Message string
	// When is the condition for a line; "" is always.
	When string
	// Log names what a line shows, as expressions.
	Log []flows.Named

	when  *expression
	shown []*expression
}

func tapKind() Kind {
	return Kind{
		Name:    "tap",
		Summary: "Writes a sample of the events to the log.",
		Doc: "One event in `every` is logged, and no more than `per_second` lines a second; a line tells how many events " +
			"there were since the last. It shows the event's id, schema id, key and track. Of the payload it shows nothing, " +
			"except what `log` names: mind that logs are read by many. Texts are cut off at 256 bytes. The event goes on " +
			"whatever happens: an expression of `log` that fails is shown as an error, one of `when` makes no line.\n\n" +
			expressionDoc,
		Example: "- tap: {every: 100, log: {level: payload.level}}",
		New:     func() Config { return &TapConfig{} },
	}
}

// Fields implements Config.
func (c *TapConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.Int("every", &c.Every, "one event in so many is logged", flows.Default("1"), flows.Min(1),
			flows.Max(1_000_000_000)),
		flows.Float("per_second", &c.PerSecond, "the most lines a second; 0 is no limit", flows.Default("10"), flows.Min(0)),
		flows.Enum("level", &c.Level, []string{"debug", "info", "warn"}, "the level of the lines", flows.Default("info")),
		flows.String("message", &c.Message, "the text of the lines", flows.Default("event")),
		flows.Expression("when", &c.When, "only events for which this holds count; empty is all", flows.Default("")),
		flows.Expressions("log", &c.Log, "what a line shows beside the envelope: names, each with an expression"),
	}
}

// Validate implements Config.
func (c *TapConfig) Validate(s Scope, d *flows.Diagnostics) {
	if c.When != "" {
		c.when = s.expression(d, "when", s.Node.Get("when"), c.When, boolResult)
	}
	c.shown = nil
	for _, l := range c.Log {
		c.shown = append(c.shown, s.expression(d, "log: "+l.Name, s.Node.Get("log").Get(l.Name), l.Text, anyResult))
	}
}

// Build implements Config.
func (c *TapConfig) Build(deps Deps) (Stage, error) {
	if c.When != "" && c.when == nil || len(c.shown) != len(c.Log) {
		return nil, errNotValidated
	}
	level := map[string]slog.Level{"debug": slog.LevelDebug, "warn": slog.LevelWarn}[c.Level]
	return &tap{config: *c, level: level, deps: deps, around: deps.surroundings()}, nil
}

type tap struct {
	config TapConfig
	level  slog.Level
	deps   Deps
	around surroundings

	seen atomic.Int64 // events since the stage was built
	told atomic.Int64 // of them, those that the lines so far have told of

	mu   sync.Mutex
	next time.Time // no line before
}

var _ Stage = (*tap)(nil)

// Middleware implements Stage.
func (s *tap) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		s.look(From(msg.Context()))
		return next(msg)
	}
}

func (s *tap) look(d *Delivery) {
	if !s.deps.Logger.Enabled(context.Background(), s.level) && d.Trace == nil {
		return
	}
	if s.config.when != nil {
		on, err := s.config.when.bool(d, s.around)
		if err != nil || !on {
			if d.Trace != nil {
				s.explain(d, err)
			}
			return
		}
	}
	seen := s.seen.Add(1)
	if (seen-1)%int64(s.config.Every) != 0 {
		if d.Trace != nil {
			d.Trace.Note("no line: not one in %d", s.config.Every)
		}
		return
	}
	if !s.due() {
		if d.Trace != nil {
			d.Trace.Note("no line: there are %g a second", s.config.PerSecond)
		}
		return
	}
	e := d.Event
	attrs := []slog.Attr{
		slog.String("event_id", e.ID), slog.String("type", cut(e.Schema)), slog.String("key", cut(e.OrderKey())),
		slog.String("track", e.Track), slog.Int64("events", seen-s.told.Swap(seen)),
	}
	for i, x := range s.config.shown {
		attrs = append(attrs, slog.String(s.config.Log[i].Name, s.show(d, x)))
	}
	if d.Trace != nil {
		d.Trace.Note("line at %s: %q %v", s.config.Level, s.config.Message, attrs)
	}
	s.deps.Logger.LogAttrs(context.Background(), s.level, s.config.Message, attrs...)
}

// explain says in the trace why when makes no line.
func (s *tap) explain(d *Delivery, err error) {
	if err != nil {
		d.Trace.Note("no line: %v", err)
		return
	}
	d.Trace.Note("no line: %s", s.config.when.remark(d, s.around, false))
}

// due reports whether a line may be written, and takes its place.
func (s *tap) due() bool {
	if s.config.PerSecond == 0 {
		return true
	}
	now := s.deps.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(time.Duration(float64(time.Second) / s.config.PerSecond))
	return true
}

func (s *tap) show(d *Delivery, x *expression) string {
	value, err := x.eval(d, s.around)
	if err != nil {
		return "error: " + err.Error()
	}
	return cut(fmt.Sprint(value))
}

// cut shortens a text for a line.
func cut(text string) string {
	if len(text) <= maxTapText {
		return text
	}
	return strings.ToValidUTF8(text[:maxTapText], "") + "..."
}
