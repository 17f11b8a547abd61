package stages

import (
	"context"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// Kind describes one kind of stage.
type Kind struct {
	// Name is how flows.yaml calls it: lower-case words joined by hyphens.
	Name string
	// Summary says in one sentence what the stage does.
	Summary string
	// Doc explains semantics, in Markdown paragraphs.
	Doc string
	// Example is one stage as it stands in a flow's list, in YAML.
	Example string
	// New returns a Config to decode into.
	New func() Config
}

// Config is one stage's block of flows.yaml.
type Config interface {
	// Fields declares the keys, bound to the Config's own variables.
	Fields() flows.Fields
	// Validate reports to d what single fields cannot say: references to other
	// parts of the file, files that do not load. It runs after Fields were decoded and
	// opens no connection. A key that is wrong or missing has been reported by then, and
	// has its default or nothing: what Validate reports about it is dropped, as is what
	// it reports under LimitNeighbour when any key is wrong.
	Validate(s Scope, d *flows.Diagnostics)
	// Build makes the stage. It opens no connection.
	Build(deps Deps) (Stage, error)
}

// NeedsProviders is implemented by a Config whose stage is meaningless without a
// declared provider: in a file that declares none, its flow is disabled.
type NeedsProviders interface{ NeedsProviders() bool }

// SetsPolicy is implemented by a Config whose stage gives a provider a policy. A
// provider has one policy, so all its stages should give the same.
type SetsPolicy interface {
	// SetsPolicy returns the provider and its policy; "" when the stage gives none.
	SetsPolicy() (provider string, policy Policy)
}

// Stage is one step of a flow. Middleware returns the handler that does the
// step's work and calls next, returning next's error unchanged or wrapped.
type Stage interface {
	Middleware(next message.HandlerFunc) message.HandlerFunc
}

// Scope is what a stage's Config may refer to while it is validated.
type Scope struct {
	// Flow is the flow's name, SourceKey the full key of the stream it reads.
	Flow      string
	SourceKey string
	// Index is the stage's place in the flow, from 1; Stage its kind; Before the
	// kinds of the stages in front of it.
	Index  int
	Stage  string
	Before []string
	// Dir is the directory of the file: relative paths start there.
	Dir string
	// Node is the stage's block; nil when it was given as a bare name.
	Node *flows.Node
	// Pos is where the stage stands, for what has no node of its own.
	Pos flows.Position
	// Providers are the declared providers, in file order.
	Providers []string
	// Key expands a topic, or an explicit full key, to a stream key.
	Key func(topic, key string) string
}

// Deps is what a stage may use from outside itself.
type Deps struct {
	// Flow is the name of the flow the stage is built for, Stream the topic it reads.
	Flow   string
	Stream string
	// Clock is never nil.
	Clock Clock
	// Rates is the rate coordinator; nil in a file without providers.
	Rates RateApplier
	// Publisher writes to streams of the flow's bus, by full stream key.
	Publisher message.Publisher
	// Announcements are those of the flow's bus, for all flows on it. Nil makes the stage
	// know its own only.
	Announcements *Announcements
	// Limiters makes what throttle stages take their tokens from; nil where there is none.
	Limiters Limiters
	// Stopping ends when the flow begins to stop: what waits gives up then, and its event
	// is delivered again. Nil never ends.
	Stopping context.Context
	// MaxEventSize is the most bytes an event may have; 0 is event.DefaultMaxSize.
	MaxEventSize int
	// Observer counts; never nil.
	Observer Observer
	// Logger is never nil.
	Logger *slog.Logger
}

// Adjustment is what a feedback event asks of a provider.
type Adjustment struct {
	// Provider names the rate to adjust, Coordinator who asks.
	Provider    string
	Coordinator string
	// Level is the coordinator's pressure, Policy the scale each level means.
	Level  event.Level
	Policy Policy
	// Time is the event's own time in epoch seconds; it orders adjustments.
	Time float64
}

// Policy maps a pressure level to a scale in [0, 1]: 0 pauses, 1 is full rate.
type Policy struct{ OK, Soft, Hard float64 }

// Scale returns the scale for level.
func (p Policy) Scale(level event.Level) float64 {
	switch level {
	case event.LevelOK:
		return p.OK
	case event.LevelSoft:
		return p.Soft
	default:
		return p.Hard
	}
}

// RateState is a provider's aggregate after an adjustment.
type RateState struct {
	// Scale is in [0, 1], Level the level it stands for.
	Scale float64
	Level event.Level
	// Stale is set when the adjustment was older than what is known already, and
	// so changed nothing.
	Stale bool
}

// RateApplier is the rate coordinator as rate-apply sees it.
type RateApplier interface {
	// Apply records the adjustment. Applying one again changes nothing. An error
	// is permanent for this adjustment (unknown provider, invalid value), unless it is
	// that of ctx.
	Apply(ctx context.Context, a Adjustment) (RateState, error)
	// RateState is the provider's present aggregate.
	RateState(provider string) (RateState, error)
}

// Limiters makes a Limiter that grants each key rate tokens a second, and up to burst
// of them at once, and remembers at most keys of them.
type Limiters func(rate, burst float64, keys int, clock Clock) (Limiter, error)

// Limiter is a set of token buckets by key, as throttle sees it. It is safe for
// concurrent use.
type Limiter interface {
	// Take takes a token of the key's bucket and returns 0, or takes none and returns
	// how long it will be until there is one.
	Take(key string) time.Duration
}

// Publication is a stream that a stage or a flow publishes to.
type Publication struct {
	// Topic is the stream without namespace, Key its full key.
	Topic, Key string
	// Label says when, for people; empty is always.
	Label string
	// Always is true when every event that comes so far is published.
	Always bool
}

// Publishes is implemented by a Config whose stage publishes. It is asked after
// Validate.
type Publishes interface{ Publications() []Publication }

// Stops is implemented by a Config whose stage can end an event's way through the
// flow with success.
type Stops interface{ Stops() bool }

// RateFollowing is implemented by a RateApplier whose state others change too.
type RateFollowing interface {
	// Follow makes f be called after others have changed a provider's state, or a new
	// file has, until end is called. It may be called again some time after it returned
	// an error.
	Follow(f func(provider string) error) (end func())
}

// Observer counts what stages do. Implementations are safe for concurrent use.
type Observer interface {
	// ValidationFailed counts an event that broke schema, by mode strict or warn.
	ValidationFailed(schema, mode string)
	// HashMismatched counts an event whose hash does not cover its payload.
	HashMismatched(schema string)
	// QueueDepth reports the producer's queue size, in events.
	QueueDepth(depth int64)
	// FeedbackProcessed counts a feedback event handled to its end.
	FeedbackProcessed(provider, level string)
	// Published counts an event a stage published to topic.
	Published(topic, track, outcome string)
	// RateStale counts an adjustment older than what its coordinator last said.
	RateStale(provider string)
}
