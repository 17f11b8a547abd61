package stages

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// MapConfig is the block of a map stage.
type MapConfig struct {
	// Payload yields the whole new payload; Set yields members of it, and Remove names
	// those to leave out.
	Payload string
	Set     []flows.Named
	Remove  []string
	// Key and Schema are the envelope's; empty leaves them.
	Key    string
	Schema string

	payload, key *expression
	set          []*expression
}

func mapKind() Kind {
	return Kind{
		Name:    "map",
		Summary: "Gives the event a new payload, or changes parts of it.",
		Doc: "`payload` is an expression that yields the whole new payload; `set` and `remove` change single members and " +
			"leave the others as they were sent. All expressions see the event as it came to the stage. `key` sets the " +
			"envelope's key and `schema` its schema id, for the stages behind and for what the flow publishes.\n\n" +
			"A dead letter keeps the entry as it was received. An expression that cannot be evaluated, or a payload that is " +
			"no JSON object, makes the event a dead letter at once.\n\n" + expressionDoc,
		Example: "- map: {set: {used: payload.queue_size / payload.capacity}}",
		New:     func() Config { return &MapConfig{} },
	}
}

// Fields implements Config.
func (c *MapConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.Expression("payload", &c.Payload, "the new payload, an object; absent keeps the members there are",
			flows.Default(""), flows.Example(`{symbol: payload.sym, mid: (payload.bid + payload.ask) / 2}`),
			flows.Check(c.checkPayload, "set", "remove")),
		flows.Expressions("set", &c.Set, "members of the payload to set, by name"),
		flows.Strings("remove", &c.Remove, "members of the payload to leave out", flows.Default("[]")),
		flows.Expression("key", &c.Key, "the new key of the envelope, a text; absent keeps it", flows.Default("")),
		flows.String("schema", &c.Schema, "the new schema id; empty keeps it", flows.Default(""),
			flows.Example("market.Mid"), flows.Check(c.checkSchema)),
	}
}

func (c *MapConfig) checkPayload() error {
	if c.Payload != "" && len(c.Set)+len(c.Remove) > 0 {
		return errors.New("is the whole payload, so set and remove do not go with it: remove them, or this")
	}
	return nil
}

func (c *MapConfig) checkSchema() error {
	if c.Schema == event.SchemaEnvelope {
		return flows.Beyond(flows.LimitReference, errors.New("must be the id of an event type, which the envelope is not"))
	}
	return nil
}

// Validate implements Config.
func (c *MapConfig) Validate(s Scope, d *flows.Diagnostics) {
	if c.Payload != "" {
		c.payload = s.expression(d, "payload", s.Node.Get("payload"), c.Payload, objectResult)
	}
	if c.Key != "" {
		c.key = s.expression(d, "key", s.Node.Get("key"), c.Key, textResult)
	}
	c.set = nil
	for _, m := range c.Set {
		c.set = append(c.set, s.expression(d, "set: "+m.Name, s.Node.Get("set").Get(m.Name), m.Text, anyResult))
	}
	if c.Payload == "" && c.Key == "" && c.Schema == "" && len(c.Set)+len(c.Remove) == 0 {
		d.Beyondf(s.Pos, flows.LimitNeighbour, "%s: changes nothing: give payload, set, remove, key or schema", s.Where())
	}
}

// Build implements Config.
func (c *MapConfig) Build(deps Deps) (Stage, error) {
	if c.Payload != "" && c.payload == nil || c.Key != "" && c.key == nil || len(c.set) != len(c.Set) ||
		slices.Contains(c.set, nil) {
		return nil, errNotValidated
	}
	return &mapStage{config: *c, around: deps.surroundings(), limit: deps.MaxEventSize}, nil
}

type mapStage struct {
	config MapConfig
	around surroundings
	limit  int
}

var _ Stage = (*mapStage)(nil)

// Middleware implements Stage.
func (s *mapStage) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		changed, err := s.change(d)
		if err != nil {
			return nil, err
		}
		if d.Trace != nil {
			remarkChange(d.Trace, d.Event, changed)
		}
		d.Replace(changed)
		return next(msg)
	}
}

func (s *mapStage) change(d *Delivery) (*event.Event, error) {
	c, envelope := &s.config, d.Event.Envelope()
	var err error
	switch {
	case c.payload != nil:
		envelope.Payload, err = s.json(d, c.payload)
	case len(c.set)+len(c.Remove) > 0:
		envelope.Payload, err = s.parts(d)
	}
	if err != nil {
		return nil, err
	}
	if c.key != nil {
		if envelope.Key, err = c.key.text(d, s.around); err != nil {
			return nil, err
		}
	}
	if c.Schema != "" {
		envelope.Schema = c.Schema
	}
	changed, err := d.Event.With(envelope, s.limit)
	if err != nil {
		return nil, PermanentKind(KindExpression, fmt.Errorf("the event as changed: %w", err))
	}
	return changed, nil
}

// parts is the payload with the members changed.
func (s *mapStage) parts(d *Delivery) ([]byte, error) {
	set := make([]event.Member, len(s.config.set))
	for i, x := range s.config.set {
		text, err := s.json(d, x)
		if err != nil {
			return nil, err
		}
		set[i] = event.Member{Name: s.config.Set[i].Name, Value: text}
	}
	return d.Event.AppendDocument(nil, set, s.config.Remove), nil
}

func (s *mapStage) json(d *Delivery, x *expression) ([]byte, error) {
	value, err := x.eval(d, s.around)
	if err != nil {
		return nil, err
	}
	if _, ok := value.(map[string]any); x.result == objectResult && !ok {
		return nil, x.fail(0, "yields "+typeOf(value)+", must yield an object")
	}
	text, err := event.AppendValue(nil, value)
	if err != nil {
		return nil, x.fail(0, err.Error())
	}
	return text, nil
}
