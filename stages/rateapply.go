package stages

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// When an adjustment is published.
const (
	whenChange = "change"
	whenAlways = "always"
)

// RateApplyConfig is the block of a rate-apply stage.
type RateApplyConfig struct {
	// Publish is the topic the provider's state is announced on; "" announces
	// nothing. PublishKey is the stream's full key where the template is not it.
	Publish    string
	PublishKey string
	// When is change or always.
	When string
	// Track is the schema track of what is published.
	Track string

	key string
}

func rateApplyKind() Kind {
	return Kind{
		Name:    "rate-apply",
		Summary: "Applies the adjustment to the rate coordinator and announces the provider's state.",
		Doc: "Adjustments are ordered by the event's own time per coordinator: an older one changes nothing, and " +
			"applying the same one again is harmless. What is published is the provider's resulting state over all its " +
			"coordinators, never the single event's, as a `telemetry.RateAdjustment` envelope with the provider as key. " +
			"`when: change` compares with what was last published on the stream, by whichever flow of the process, so a publish " +
			"that failed is made good by its retry or by the next event.\n\n" +
			"An event whose time is more than 30 s ahead of the clock is dead-lettered: it would hold its level against " +
			"every honest event until that time comes.",
		Example: "- rate-apply: {publish: telemetry.rate_adjustment, when: change}",
		New:     func() Config { return &RateApplyConfig{} },
	}
}

// Fields implements Config.
func (c *RateApplyConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.String("publish", &c.Publish, "topic to announce the provider's state on; empty announces nothing",
			flows.Default(""), flows.Example("telemetry.rate_adjustment")),
		flows.String("publish_key", &c.PublishKey, "full stream key to publish to, where the `stream_key` template "+
			"does not give it", flows.Default(""), flows.Example("mdp:prod.telemetry.rate_adjustment")),
		flows.Enum("when", &c.When, []string{whenChange, whenAlways}, "publish only when the state differs from the "+
			"last published one, or after every event", flows.Default(whenChange)),
		flows.Enum("track", &c.Track, []string{event.TrackV1, event.TrackV2}, "schema track of what is published",
			flows.Default(event.TrackV1)),
	}
}

// NeedsProviders implements NeedsProviders.
func (c *RateApplyConfig) NeedsProviders() bool { return true }

// Validate implements Config.
func (c *RateApplyConfig) Validate(s Scope, d *flows.Diagnostics) {
	if c.Publish == "" && c.PublishKey != "" {
		s.ReportBeyond(d, flows.LimitNeighbour, "publish_key", "needs publish: the topic names the stream in metrics")
	}
	if c.Publish != "" {
		if c.key = s.Key(c.Publish, c.PublishKey); c.key == s.SourceKey {
			s.ReportBeyond(d, flows.LimitReference, "publish", "the flow would read what it publishes, for ever: name another stream")
		}
	}
	if !slices.Contains(s.Before, "handle") {
		d.Beyondf(s.Pos, flows.LimitReference, "%s: a handle stage must stand before it, to decide what to apply", s.Where())
	}
}

// Publications implements Publishes.
func (c *RateApplyConfig) Publications() []Publication {
	if c.Publish == "" {
		return nil
	}
	return []Publication{{Topic: c.Publish, Key: c.key, Label: "when: " + c.When, Always: c.When == whenAlways}}
}

// Build implements Config.
func (c *RateApplyConfig) Build(deps Deps) (Stage, error) {
	if deps.Rates == nil {
		return nil, errors.New("no rate coordinator: the file declares no provider")
	}
	if c.Publish != "" && deps.Publisher == nil {
		return nil, errors.New("no publisher")
	}
	s := &rateApply{config: *c, deps: deps, enqueue: enqueueTo(deps.Publisher)}
	if s.announcements = deps.Announcements; s.announcements == nil {
		s.announcements = new(Announcements)
	}
	if f, ok := deps.Rates.(RateFollowing); ok && c.Publish != "" {
		end := f.Follow(s.follow)
		if deps.Stopping != nil {
			context.AfterFunc(deps.Stopping, end)
		}
	}
	return s, nil
}

type rateApply struct {
	config        RateApplyConfig
	deps          Deps
	enqueue       func(topic string, msg *message.Message) (wait func() error)
	announcements *Announcements
}

var _ Stage = (*rateApply)(nil)

// Middleware implements Stage.
func (s *rateApply) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		a := d.Adjustment
		if a == nil {
			return nil, Permanent(errors.New("no adjustment: a handle stage must stand before rate-apply"))
		}
		state, err := s.deps.Rates.Apply(d, *a)
		if err != nil {
			return nil, fmt.Errorf("apply adjustment: %w", err)
		}
		if state.Stale {
			s.deps.Observer.RateStale(a.Provider)
		}
		if d.Trace != nil {
			d.Trace.Note("%s", applied(a, state))
		}
		if s.config.Publish != "" {
			announcer, published := s.announcements.of(s.config.key, a.Provider), false
			if s.config.When == whenAlways || !announcer.told(state, s.config.Track) {
				published, err = s.announce(d, announcer, a.Provider, a.Time)
			}
			if err != nil {
				return nil, fmt.Errorf("publish %s: %w", s.config.Publish, err)
			}
			if d.Trace != nil && !published {
				d.Trace.Note("nothing to publish on %s: %s is what was published last", s.config.Publish, a.Provider)
			}
		}
		return next(msg)
	}
}

// announcementSize has room for an announcement with a provider's name of usual
// length, in bytes.
const announcementSize = 384

// applied words what an adjustment did.
func applied(a *Adjustment, state RateState) string {
	if state.Stale {
		return fmt.Sprintf("older than what coordinator %s last said: %s stays at level %s, scale %g",
			strconv.Quote(a.Coordinator), a.Provider, state.Level, state.Scale)
	}
	return fmt.Sprintf("%s is at level %s, scale %g", a.Provider, state.Level, state.Scale)
}

// follow corrects what was announced once another process has changed the provider's
// state: whichever process published last, the last word is the state that stands.
func (s *rateApply) follow(provider string) error {
	a := s.announcements.of(s.config.key, provider)
	if !a.outdated(s.reading(provider), s.config.Track) {
		return nil
	}
	_, err := s.announce(context.Background(), a, provider, event.Seconds(s.deps.Clock.Now()))
	return err
}

// announce publishes the provider's state, where that is due, and reports whether it
// was. Time is that of the event it comes from.
func (s *rateApply) announce(ctx context.Context, a *announcer, provider string, time float64) (published bool, err error) {
	return a.announce(announcement{
		read: s.reading(provider), always: s.config.When == whenAlways, track: s.config.Track,
		enqueue: func(state RateState) (func() error, error) {
			adj := event.RateAdjustment{Provider: provider, Scale: state.Scale, Reason: state.Level, Time: time}
			env, err := adj.Envelope(s.deps.Clock.Now(), s.config.Track)
			if err != nil {
				return nil, Permanent(err)
			}
			data, err := env.Append(make([]byte, 0, announcementSize))
			if err != nil {
				return nil, Permanent(err)
			}
			out := message.NewMessage("", data)
			out.SetContext(ctx)
			return s.enqueue(s.config.key, out), nil
		},
		ended: func(err error) {
			outcome := OutcomeSuccess
			if err != nil {
				outcome = OutcomeError
			}
			s.deps.Observer.Published(s.config.Publish, s.config.Track, outcome.String())
		},
	})
}

// reading returns how the provider's state is read.
func (s *rateApply) reading(provider string) func() (RateState, error) {
	return func() (RateState, error) { return s.deps.Rates.RateState(provider) }
}
