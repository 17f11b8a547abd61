package stages

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// The modes of validation and of the hash check.
const (
	modeStrict = "strict"
	modeWarn   = "warn"
	modeOff    = "off"
)

// ValidateConfig is the block of a validate stage.
type ValidateConfig struct {
	// Schema is the id of the event type the flow accepts.
	Schema string
	// Track is the preferred schema track.
	Track string
	// Mode is strict or warn; Hash is off, warn or strict.
	Mode string
	Hash string
	// V1 and V2 are JSON Schema files that replace a track's built-in schema.
	V1 string
	V2 string

	checks map[string]check
	files  []File
}

func validateKind() Kind {
	return Kind{
		Name:    "validate",
		Summary: "Lets only events of one schema through.",
		Doc: "An event must carry the schema id (an alias counts as its canonical id) and have the shape that its own " +
			"track's schema says: v1 events are checked by v1, v2 events by v2, whichever `track` the flow prefers. " +
			"`mode: strict` dead-letters what does not fit; `warn` counts it and lets it go on.\n\n" +
			"The built-in schemas are `telemetry.FeedbackEvent` and `telemetry.RateAdjustment`. `files` replaces a " +
			"track's schema by a JSON Schema document, or adds the schema of another event type; paths are relative to " +
			"the file they stand in. `hash` checks the envelope's SHA-256: `warn` counts a mismatch, `strict` " +
			"dead-letters it.",
		Example: "- validate: {schema: telemetry.FeedbackEvent, track: v1}",
		New:     func() Config { return &ValidateConfig{} },
	}
}

// Fields implements Config.
func (c *ValidateConfig) Fields() flows.Fields {
	tracks := []string{event.TrackV1, event.TrackV2}
	return flows.Fields{
		flows.String("schema", &c.Schema, "schema id the events must have", flows.Required(),
			flows.Example(event.SchemaFeedback)),
		flows.Enum("track", &c.Track, tracks, "preferred schema track; labels what cannot be decoded",
			flows.Default(event.TrackV1)),
		flows.Enum("mode", &c.Mode, []string{modeStrict, modeWarn}, "dead-letter what does not fit, or count it and go on",
			flows.Default(modeStrict)),
		flows.Enum("hash", &c.Hash, []string{modeOff, modeWarn, modeStrict}, "check the envelope's hash",
			flows.Default(modeOff)),
		flows.Object("files", flows.Fields{
			flows.String("v1", &c.V1, "JSON Schema file for track v1", flows.Default("")),
			flows.String("v2", &c.V2, "JSON Schema file for track v2", flows.Default("")),
		}, "JSON Schema files that replace the built-in schemas"),
	}
}

// Validate implements Config.
func (c *ValidateConfig) Validate(s Scope, d *flows.Diagnostics) {
	c.Schema = event.CanonicalSchema(c.Schema)
	c.checks, c.files = make(map[string]check), nil
	for _, t := range []struct{ track, file string }{{event.TrackV1, c.V1}, {event.TrackV2, c.V2}} {
		if t.file == "" {
			if fast, ok := builtinChecks[c.Schema]; ok {
				c.checks[t.track] = fast
			}
			continue
		}
		path := t.file
		if !filepath.IsAbs(path) {
			path = filepath.Join(s.Dir, path)
		}
		compiled, digest, err := schemaFile(path)
		c.files = append(c.files, File{Path: path, Digest: digest})
		if err != nil {
			s.ReportBeyond(d, flows.LimitOutside, "files", fmt.Sprintf("%s: %v", t.track, err))
			continue
		}
		c.checks[t.track] = compiled
	}
	if _, ok := c.checks[c.Track]; !ok && c.V1 == "" && c.V2 == "" {
		s.ReportBeyond(d, flows.LimitReference, "schema", unknown("schema", c.Schema, slices.Sorted(maps.Keys(builtinChecks)))+
			"; give the file of another, as in files: {v1: event.json}")
	} else if !ok && !d.HasErrors() {
		s.ReportBeyond(d, flows.LimitNeighbour, "track", fmt.Sprintf("no schema of track %s: give its file under files", c.Track))
	}
}

// Files implements ReadsFiles.
func (c *ValidateConfig) Files() []File { return c.files }

// PreferredTrack is the track that labels events whose own cannot be read.
func (c *ValidateConfig) PreferredTrack() string { return c.Track }

// Build implements Config.
func (c *ValidateConfig) Build(deps Deps) (Stage, error) {
	if len(c.checks) == 0 {
		return nil, fmt.Errorf("no schema for %q", c.Schema)
	}
	return &validate{config: *c, observer: deps.Observer}, nil
}

// check says whether an event's payload has the shape of a schema.
type check func(*Delivery) error

// builtinChecks are the typed fast paths; a differential test holds each against
// its JSON Schema.
var builtinChecks = map[string]check{
	event.SchemaFeedback: func(d *Delivery) error {
		fb, err := d.Event.Feedback()
		d.feedback, d.isFeedback = fb, err == nil // handle need not read it again
		return err
	},
	event.SchemaRateAdjustment: func(d *Delivery) error { _, err := d.Event.RateAdjustment(); return err },
}

type validate struct {
	config   ValidateConfig
	observer Observer
}

var _ Stage = (*validate)(nil)

// Middleware implements Stage.
func (s *validate) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) ([]*message.Message, error) {
		d := From(msg.Context())
		e := d.Event
		if err := s.shape(d); err != nil {
			s.observer.ValidationFailed(s.config.Schema, s.config.Mode)
			if s.config.Mode == modeStrict {
				return nil, PermanentKind(KindSchema, err)
			}
			if d.Trace != nil {
				d.Trace.Note("breaks schema %s, and mode warn lets it go on: %v", s.config.Schema, err)
			}
		} else if d.Trace != nil {
			d.Trace.Note("schema %s, track %s", s.config.Schema, e.Track)
		}
		if s.config.Hash != modeOff {
			if err := e.CheckHash(); err != nil {
				s.observer.HashMismatched(s.config.Schema)
				if s.config.Hash == modeStrict {
					return nil, PermanentKind(KindHash, err)
				}
				if d.Trace != nil {
					d.Trace.Note("hash: %v, and hash: warn lets it go on", err)
				}
			} else if d.Trace != nil {
				d.Trace.Note("%s", hashVerdict(e))
			}
		}
		return next(msg)
	}
}

// hashVerdict words the result of a check that found nothing wrong.
func hashVerdict(e *event.Event) string {
	if e.Hash == "" {
		return "hash: there is none to check"
	}
	return "hash: covers the payload"
}

// errSchema does not name the schema the event has: it is the producer's text.
var errSchema = errors.New("schema is not the one this flow accepts")

func (s *validate) shape(d *Delivery) error {
	e := d.Event
	if e.Schema == event.SchemaFeedback && s.config.Schema != event.SchemaFeedback {
		// Who sends payloads alone is to learn from the dead letter why they are taken for something else.
		return fmt.Errorf("/meta/schema_id: %w (%s), but %s, as is all that comes without an envelope: "+
			`send {"ts": …, "meta": {"schema_id": %q}, "payload": …}`, errSchema, s.config.Schema, event.SchemaFeedback, s.config.Schema)
	}
	if e.Schema != s.config.Schema {
		return fmt.Errorf("/meta/schema_id: %w (%s)", errSchema, s.config.Schema)
	}
	check, ok := s.config.checks[e.Track]
	if !ok {
		return fmt.Errorf("/meta/track: no schema of track %s for %s", e.Track, s.config.Schema)
	}
	return check(d)
}
