package flows

import (
	"bytes"
	"cmp"
	"net/url"
	"strings"
	"time"
)

// File is a flow file, or the built-in default, after variables and defaults.
type File struct {
	// Path is the name the file was read under, and Dir the folder that relative paths in it start from; Dir is empty
	// when the file did not come from a folder.
	Path, Dir string
	// Version is the version of the language.
	Version int
	// Enabled is false when nothing is to be consumed.
	Enabled bool
	// ShutdownTimeout is the time that events in flight get to finish.
	ShutdownTimeout time.Duration
	// Bus is the default bus, and Buses are the others, in the order of the file.
	Bus      Bus
	Buses    []Bus
	Admin    Admin
	Registry Registry
	Rates    Rates
	// Providers and Flows are in the order of the file.
	Providers []Provider
	Flows     []Flow
	// Tests are the flow tests that stand in the file, for their owner to decode; nil when there are none. No variables
	// are replaced in them.
	Tests *Node

	root *Node  // nil when nothing could be read
	text []byte // what was read; nil when nothing could be
}

// Text returns the text that the file was read from, as it was. It is not to be changed.
func (f *File) Text() []byte { return f.text }

// Digest tells the text that was read from any other, as the function [Digest] does; it is empty when nothing could be
// read.
func (f *File) Digest() string {
	if f.text == nil {
		return ""
	}
	digest, _ := Digest(bytes.NewReader(f.text)) // which cannot fail
	return digest
}

// DefaultBus is the name of the bus that flows are on which name none: that of the key bus.
const DefaultBus = "default"

// Bus says how events travel.
type Bus struct {
	// Name is what flows call it: DefaultBus for that of the key bus.
	Name string
	// Backend is "inmem" or "redis".
	Backend string
	// Namespace is what {ns} stands for in a stream's key.
	Namespace string
	// Lanes is the number of events that a flow handles at once, each lane in order; 0 derives it from GOMAXPROCS.
	Lanes int
	// Capacity is the number of events that the in-memory bus holds before it pushes back.
	Capacity int
	// MaxEventSize is the size in bytes above which an event is a dead letter.
	MaxEventSize int64
	// DeadLetterBuffer is the number of dead letters that the in-memory bus keeps.
	DeadLetterBuffer int
	Redis            Redis
	Pos              Position
}

// Redis says how to reach Redis and how to read its streams.
type Redis struct {
	// URL is redis://, rediss:// or unix://. It may hold a password.
	URL string
	// StreamKey is the template of a stream's key, with {ns} and {topic}.
	StreamKey string
	// Consumer is this process's name in the consumer group; empty derives one from the host and a free slot.
	Consumer string
	// Batch is the number of entries asked for at once.
	Batch int
	// MaxInFlight is the number of entries read and not yet acknowledged at which reading pauses.
	MaxInFlight int
	// AckEvery and AckBatch bound how long and how many acknowledgements are gathered before they are sent.
	AckEvery time.Duration
	AckBatch int
	// Block is how long one read waits for entries.
	Block time.Duration
	// Lease is how long a consumer name stays taken after its process was last heard of.
	Lease time.Duration
	// MaxIdle is how long an entry stays with a consumer that does not acknowledge it before another takes it over.
	MaxIdle time.Duration
	// MaxDeliveries is the number of deliveries after which an entry is a dead letter.
	MaxDeliveries int
	// MaxLen and DeadLetterMaxLen bound the streams that are written, approximately; 0 means unbounded.
	MaxLen, DeadLetterMaxLen int64
	// Trim is "none", or "acked" to remove the entries that every group has acknowledged.
	Trim string
	TLS  TLS
	Pos  Position
}

// TLS names the files for a rediss:// connection. All are optional.
type TLS struct {
	// CA is the file of certificates to trust; empty means the system's.
	CA string
	// Cert and Key are the files of the client's own certificate; both or neither.
	Cert, Key string
	// ServerName is the name to verify; empty means the URL's host.
	ServerName string
}

// Admin says where the HTTP listener is and who may use it.
type Admin struct {
	// Listen is host:port; empty means no listener.
	Listen string
	// PublisherToken is required from those who post events, OperatorToken from those who change things; empty means
	// none is required.
	PublisherToken, OperatorToken string
	// AllowPublicIngest allows posting without a token on an address other than loopback.
	AllowPublicIngest bool
	// ReadTimeout bounds the reading of a request.
	ReadTimeout time.Duration
	Pos         Position
}

// Registry holds the settings of a schema registry. This version only reads them.
type Registry struct {
	Enabled bool
	// URL is the base address, and Token the bearer token.
	URL, Token string
	// CacheTTL is how long a schema is kept, and Timeout bounds one request.
	CacheTTL, Timeout time.Duration
	// PreferTrack is the track asked for first, FallbackTrack the one used when that has no usable schema.
	PreferTrack, FallbackTrack string
	// Enforcement is "warn" or "strict".
	Enforcement string
}

// Rates says what becomes of the levels that providers are at when the process ends, and who else knows them.
type Rates struct {
	// Share keeps the levels in Redis, on the redis backend, where all processes of the namespace follow them.
	Share bool
	// RestoreTimeout is how long providers grant nothing at the start for want of the shared levels.
	RestoreTimeout time.Duration
	// File is where levels are kept that are not shared; empty keeps them in memory only.
	File string
	Pos  Position
}

// Provider is something whose rate is limited.
type Provider struct {
	Name string
	// Rate is in tokens a second, Burst in tokens, and MinRate, the floor of a reduced rate, in tokens a second; a
	// MinRate of 0 allows a full pause.
	Rate, Burst, MinRate float64
	// RampUp is how long a raised rate takes to grow; 0 raises it at once.
	RampUp time.Duration
	// Breaker is the circuit breaker.
	Breaker Breaker
	// Cooldown is the length of a cooldown that gives none; 0 leaves it to the rate coordinator.
	Cooldown time.Duration
	// AggregateLast takes the level of the newest event of all coordinators instead of the worst of their levels.
	AggregateLast bool
	// OnSilence says when a level that is not repeated is released.
	OnSilence Silence
	// MaxCoordinators bounds the coordinators whose levels are held, and MaxFutureSkew how far ahead an event's time
	// may lie; 0 leaves them to the rate coordinator.
	MaxCoordinators int
	MaxFutureSkew   time.Duration
	Pos             Position
}

// Breaker is a provider's circuit breaker.
type Breaker struct {
	// Threshold is the number of failures in a row that open it; 0 is no breaker.
	Threshold int
	// OpenFor is how long it stays open, and HalfOpen how many calls then try whether it can close; 0 leaves them to
	// the rate coordinator.
	OpenFor  time.Duration
	HalfOpen int
}

// Silence releases levels that are not repeated.
type Silence struct {
	// After is the silence that releases a level; 0 holds it.
	After time.Duration
	// Step releases one level for each After, rather than all at once.
	Step bool
}

// Flow is a stream, the stages its events pass, and what happens when they fail.
type Flow struct {
	Name       string
	Enabled    bool
	From       Source
	Stages     []StageSpec
	To         Target
	Retry      Retry
	DeadLetter DeadLetter
	// Lanes is that of the bus it reads from unless the flow says otherwise; 0 derives it from GOMAXPROCS.
	Lanes int
	Pos   Position

	vagueSource, vagueGroup bool // a fault leaves open which stream is read, and in which group
}

// Vague reports whether a fault of the file leaves open which stream the flow reads.
func (w *Flow) Vague() bool { return w.vagueSource }

// Source is the stream that a flow reads.
type Source struct {
	// Bus is the name of the bus that the stream, and that of the dead letters, is on. It is always filled in.
	Bus string
	// Stream is the topic, without namespace, and Key the full key of the stream. Key is always filled in.
	Stream, Key string
	// Group is the consumer group.
	Group string
	// Start is where a new group starts: "oldest" or "newest".
	Start string
	Pos   Position
}

// Target is the stream that a flow publishes its events to.
type Target struct {
	// Bus is the name of the bus that the stream is on, that of the source unless the flow says otherwise; empty in a flow
	// that publishes nothing.
	Bus string
	// Stream is the topic, without namespace, and Key the full key of the stream. Both are empty in a flow that publishes
	// nothing; else both are filled in.
	Stream, Key string
	// Format is FormatCanonical or FormatSame.
	Format string
	Pos    Position
}

// The formats in which events are published.
const (
	FormatCanonical = "canonical" // an envelope of our own
	FormatSame      = "same"      // the bytes that were received, where no stage has changed the event
)

// Retry says how often and at what intervals a failed event is tried again.
type Retry struct {
	// Max is the number of further attempts; 0 means none.
	Max int
	// Initial is the first interval. Each one is Multiplier times the one before, up to MaxInterval.
	Initial, MaxInterval time.Duration
	Multiplier           float64
	// Jitter is the share of an interval, from 0 to 1, by which it varies at random.
	Jitter float64
}

// DeadLetter is where events go that cannot be handled.
type DeadLetter struct {
	// Stream is the topic, without namespace, and Key the full key of the stream. Both are always filled in.
	Stream, Key string
}

// StageSpec is one stage of a flow as the file has it. What its configuration may hold is known to the owner of the
// kind.
type StageSpec struct {
	// Kind is the stage's name.
	Kind string
	// Config is the stage's configuration: an empty mapping when the file gives only the name. It has the variables that
	// such a name came from.
	Config *Node
	Pos    Position
	// Index is the stage's place in the flow, from 1.
	Index int
}

// StreamKey returns the full key of a stream of the default bus; see [Bus.StreamKey].
func (f *File) StreamKey(topic, key string) string { return f.Bus.StreamKey(topic, key) }

// StreamKey returns the full key of a stream: the given key, or else Redis.StreamKey with the namespace and the topic
// filled in. The in-memory bus names its streams the same way.
func (b *Bus) StreamKey(topic, key string) string {
	if key != "" {
		return key
	}
	return strings.NewReplacer("{ns}", b.Namespace, "{topic}", topic).Replace(b.Redis.StreamKey)
}

// BusNamed returns the bus with the given name, the default one for an empty name, and nil when there is none.
func (f *File) BusNamed(name string) *Bus {
	if name == "" || name == DefaultBus {
		return &f.Bus
	}
	for i := range f.Buses {
		if f.Buses[i].Name == name {
			return &f.Buses[i]
		}
	}
	return nil
}

// UsedBuses returns the buses that flows read from or publish to, in the order of the file, the default one first.
func (f *File) UsedBuses() []*Bus {
	used := make(map[string]bool)
	for i := range f.Flows {
		used[f.Flows[i].From.Bus] = true
		if f.Flows[i].To.Stream != "" {
			used[f.Flows[i].To.Bus] = true
		}
	}
	var list []*Bus
	for i := -1; i < len(f.Buses); i++ {
		b := &f.Bus
		if i >= 0 {
			b = &f.Buses[i]
		}
		if used[b.Name] {
			list = append(list, b)
		}
	}
	return list
}

// Place is where the streams of the bus are: two buses of one place have their streams in common. It holds no secret.
func (b *Bus) Place() string {
	if b.Backend != "redis" {
		return "inmem " + b.Name
	}
	u, err := url.Parse(b.Redis.URL)
	if err != nil {
		return "redis " + b.Name
	}
	if u.Scheme == "unix" {
		return "redis " + u.Path + "/" + cmp.Or(u.Query().Get("db"), "0")
	}
	return "redis " + u.Hostname() + ":" + cmp.Or(u.Port(), "6379") + "/" + cmp.Or(strings.Trim(u.Path, "/"), u.Query().Get("db"), "0")
}
