package stages

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
)

// How many of the streams that fit an event gets.
const (
	matchAll   = "all"
	matchFirst = "first"
)

// RouteConfig is the block of a route stage.
type RouteConfig struct {
	// To maps topics to the conditions under which they get an event; Keys gives the
	// full keys of topics for which the template is not it.
	To   []flows.Named
	Keys []flows.Named
	// Match is all or first.
	Match string
	// Otherwise is the topic for events that meet no condition; "" publishes them
	// nowhere.
	Otherwise string
	// Format is canonical or same.
	Format string

	routes    []routeTarget
	otherwise *routeTarget
}

type routeTarget struct {
	Publication
	when *expression // nil for otherwise
}

func routeKind() Kind {
	return Kind{
		Name:    "route",
		Summary: "Publishes the event to one or many streams, by conditions.",
		Doc: "`to` names topics, each with the condition under which it gets the event; `true` is always. `match: all` " +
			"publishes to every topic whose condition holds, `first` to the first of them in the order of the file. An event " +
			"that meets none goes to `otherwise`, or nowhere. Routed or not, the event then goes on to the stages behind.\n\n" +
			"The event is acknowledged only after all were published. When one fails, the stages run again, and what has " +
			"the event does not get it again; but a redelivery of the event, after a crash, publishes it once more. What is " +
			"published carries the event's id as `original_id`, by which a `dedupe` downstream knows it. An expression that cannot be evaluated makes the event a dead letter before anything is " +
			"published.\n\n" + expressionDoc,
		Example: "- route: {to: {ops.alerts: payload.level == \"hard\"}}",
		New:     func() Config { return &RouteConfig{} },
	}
}

// Fields implements Config.
func (c *RouteConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.Expressions("to", &c.To, "the topics, each with its condition", flows.Required()),
		flows.Texts("keys", &c.Keys, "full stream keys of topics for which the `stream_key` template does not give it"),
		flows.Enum("match", &c.Match, []string{matchAll, matchFirst}, "whether every topic whose condition holds gets the "+
			"event, or the first", flows.Default(matchAll)),
		flows.String("otherwise", &c.Otherwise, "topic for events that meet no condition; empty publishes them nowhere",
			flows.Default("")),
		flows.Enum("format", &c.Format, []string{flows.FormatCanonical, flows.FormatSame}, formatDoc,
			flows.Default(flows.FormatCanonical)),
	}
}

const formatDoc = "canonical publishes an envelope of its own; same publishes the bytes that were received, where no " +
	"stage has changed the event"

// Validate implements Config.
func (c *RouteConfig) Validate(s Scope, d *flows.Diagnostics) {
	keys := make(map[string]string, len(c.Keys))
	for _, k := range c.Keys {
		keys[k.Name] = k.Text
		if err := flows.CheckKey(k.Text); err != nil {
			d.Beyondf(s.Node.Get("keys").Get(k.Name).Pos(), flows.LimitReference, "%s: keys: %s: %v", s.Where(), k.Name, err)
		}
	}
	c.routes, c.otherwise = nil, nil
	to := s.Node.Get("to")
	for _, t := range c.To {
		target := routeTarget{Publication: c.target(s, d, t.Name, keys, to.Key(t.Name))}
		target.Label, target.Always = t.Text, t.Text == "true"
		target.when = s.expression(d, "to: "+t.Name, to.Get(t.Name), t.Text, boolResult)
		c.routes = append(c.routes, target)
	}
	if c.Otherwise != "" {
		target := routeTarget{Publication: c.target(s, d, c.Otherwise, keys, s.Node.Get("otherwise"))}
		target.Label = "otherwise"
		c.otherwise = &target
	}
	for name := range keys {
		s.ReportBeyond(d, flows.LimitNeighbour, "keys", fmt.Sprintf("%q must be among the topics of to and otherwise", name))
	}
}

// target resolves a topic and takes its key out of keys.
func (c *RouteConfig) target(s Scope, d *flows.Diagnostics, topic string, keys map[string]string, node *flows.Node) Publication {
	if err := flows.CheckStream(topic); err != nil {
		d.Beyondf(node.Pos(), flows.LimitReference, "%s: topic %q: %v", s.Where(), topic, err)
	}
	p := Publication{Topic: topic, Key: s.Key(topic, keys[topic])}
	delete(keys, topic)
	if p.Key == s.SourceKey {
		d.Beyondf(node.Pos(), flows.LimitReference, "%s: topic %q: the flow would read what it publishes, for ever: name another stream", s.Where(), topic)
	}
	return p
}

// Publications implements Publishes.
func (c *RouteConfig) Publications() []Publication {
	list := make([]Publication, 0, len(c.routes)+1)
	for _, r := range c.routes {
		list = append(list, r.Publication)
	}
	if c.otherwise != nil {
		list = append(list, c.otherwise.Publication)
	}
	return list
}

// Build implements Config.
func (c *RouteConfig) Build(deps Deps) (Stage, error) {
	for _, r := range c.routes {
		if r.when == nil {
			return nil, errNotValidated
		}
	}
	if deps.Publisher == nil {
		return nil, errors.New("no publisher")
	}
	return &route{config: *c, around: deps.surroundings(), publish: newForwarder(deps, c.Format)}, nil
}

type route struct {
	config  RouteConfig
	around  surroundings
	publish *forwarder
}

var _ Stage = (*route)(nil)

// Middleware implements Stage.
func (s *route) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		targets, err := s.targets(d)
		if err != nil {
			return nil, err
		}
		if err := s.publish.forward(d, targets); err != nil {
			return nil, err
		}
		return next(msg)
	}
}

// targets are the streams that get the event.
func (s *route) targets(d *Delivery) ([]Publication, error) {
	var list []Publication
	for _, r := range s.config.routes {
		fits, err := r.when.bool(d, s.around)
		if err != nil {
			return nil, err
		}
		if d.Trace != nil {
			d.Trace.Note("%s: %s", r.Topic, r.when.remark(d, s.around, fits))
		}
		if fits {
			list = append(list, r.Publication)
			if s.config.Match == matchFirst {
				break
			}
		}
	}
	if len(list) == 0 && s.config.otherwise != nil {
		list = append(list, s.config.otherwise.Publication)
		if d.Trace != nil {
			d.Trace.Note("%s: otherwise", s.config.Otherwise)
		}
	}
	if len(list) == 0 && d.Trace != nil {
		d.Trace.Note("published nowhere")
	}
	return list, nil
}
