package stages

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/flows"
)

// CodePolicyOrder is the code of the warning that a policy gives a worse level the
// higher scale.
const CodePolicyOrder = "policy-order"

// HandleConfig is the block of a handle stage.
type HandleConfig struct {
	// With names the handler.
	With string
	// Provider is the provider whose rate the events concern.
	Provider string
	// Policy is the scale each pressure level stands for.
	Policy Policy

	handlers map[string]Handler
}

func (r *Registry) handleKind() Kind {
	return Kind{
		Name:    "handle",
		Summary: "Turns the event into a decision with a registered handler.",
		Doc: "`with: feedback` maps the level of a FeedbackEvent to a rate adjustment for `provider` by `policy`, and " +
			"reports the producer's queue depth. A level the policy does not know is a permanent error. In a file that " +
			"declares no provider the flow is disabled.",
		Example: "- handle: {with: feedback, provider: ibkr, policy: {ok: 1.0, soft: 0.5, hard: 0.0}}",
		New:     func() Config { return &HandleConfig{handlers: r.handlers} },
	}
}

// Fields implements Config.
func (c *HandleConfig) Fields() flows.Fields {
	scale := func(name string, dst *float64, def string) flows.Field {
		return flows.Float(name, dst, "scale while the level is "+name+": 0 pauses, 1 is full rate",
			flows.Default(def), flows.Min(0), flows.Max(1))
	}
	return flows.Fields{
		flows.Enum("with", &c.With, slices.Sorted(maps.Keys(c.handlers)), "the handler", flows.Required()),
		flows.String("provider", &c.Provider, "the declared provider whose rate the events adjust", flows.Default("ibkr")),
		flows.Object("policy", flows.Fields{
			scale("ok", &c.Policy.OK, "1.0"),
			scale("soft", &c.Policy.Soft, "0.5"),
			scale("hard", &c.Policy.Hard, "0.0"),
		}, "the scale each pressure level stands for"),
	}
}

// NeedsProviders implements NeedsProviders.
func (c *HandleConfig) NeedsProviders() bool { return c.With == "feedback" }

// SetsPolicy implements SetsPolicy.
func (c *HandleConfig) SetsPolicy() (string, Policy) {
	if c.With != "feedback" {
		return "", Policy{}
	}
	return c.Provider, c.Policy
}

// Validate implements Config.
func (c *HandleConfig) Validate(s Scope, d *flows.Diagnostics) {
	needs := c.NeedsProviders() || c.With == "" // whatever it is to be
	if needs && len(s.Providers) > 0 && !slices.Contains(s.Providers, c.Provider) {
		s.ReportBeyond(d, flows.LimitReference, "provider", unknown("provider", c.Provider, s.Providers))
	}
	if c.Policy.Soft > c.Policy.OK || c.Policy.Hard > c.Policy.Soft {
		s.Warn(d, "policy", CodePolicyOrder, "policy gives a worse level the higher scale, so pressure would raise the rate: "+
			"let ok be the highest and hard the lowest")
	}
}

// Build implements Config.
func (c *HandleConfig) Build(deps Deps) (Stage, error) {
	h, ok := c.handlers[c.With]
	if !ok {
		return nil, fmt.Errorf("unknown handler %q", c.With)
	}
	return &handle{config: *c, handler: h, deps: deps}, nil
}

type handle struct {
	config  HandleConfig
	handler Handler
	deps    Deps
}

var _ Stage = (*handle)(nil)

// Middleware implements Stage.
func (s *handle) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		if err := s.handler(d, d, s.config, s.deps); err != nil {
			return nil, err
		}
		out, err := next(msg)
		if err != nil {
			return nil, err
		}
		if d.Adjustment != nil {
			s.deps.Observer.FeedbackProcessed(d.Adjustment.Provider, d.Adjustment.Level.String())
		}
		return out, nil
	}
}

// handleFeedback is the handler of docs/contract.md §4.
func handleFeedback(_ context.Context, d *Delivery, c HandleConfig, deps Deps) error {
	// Lenient, because validation in warn mode lets incomplete events through: what
	// the adjustment needs is enough, and what it lacks is this stage's error.
	fb, err := d.Feedback()
	if err != nil {
		return PermanentKind(KindSchema, fmt.Errorf("feedback event: %w", err))
	}
	deps.Observer.QueueDepth(fb.QueueSize)
	d.feedbackAdjustment = Adjustment{
		Provider: c.Provider, Coordinator: fb.CoordinatorID,
		Level: fb.Level, Policy: c.Policy, Time: fb.Time,
	}
	d.Adjustment = &d.feedbackAdjustment
	if d.Trace != nil {
		d.Trace.Note("level %s → scale %g for %s; coordinator %s, queue %d of %d", fb.Level, c.Policy.Scale(fb.Level),
			c.Provider, strconv.Quote(fb.CoordinatorID), fb.QueueSize, fb.Capacity)
	}
	return nil
}

var _ Handler = handleFeedback
