package stages

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// CodeDedupeAfterEffect is the code of the warning that a dedupe stage stands behind
// a stage whose effect a duplicate has had by then.
const CodeDedupeAfterEffect = "dedupe-after-effect"

// DedupeConfig is the block of a dedupe stage.
type DedupeConfig struct {
	// Key is what makes two events the same: id, hash, payload, or a template.
	Key string
	// Capacity is how many keys are remembered, TTL for how long each.
	Capacity int
	TTL      time.Duration
	// Store is where they are kept; memory is the only one.
	Store string

	key keyFunc
}

func dedupeKind() Kind {
	return Kind{
		Name:    "dedupe",
		Summary: "Stops an event that was handled before.",
		Doc: "A key is reserved while its event runs, committed when the stages behind succeeded and released when " +
			"they failed, so a failed event is never mistaken for a duplicate. A redelivery of an event in progress " +
			"waits for it. A duplicate is acknowledged and counted with outcome `duplicate`.\n\n" +
			"Keys are kept in memory, least recently used first out: after a restart an entry that was handled but " +
			"not yet acknowledged runs again. A reload of the file keeps them, unless `key` is another then. `key` is `id` (the entry ID, or the id a replayed entry carries), `hash` " +
			"(the envelope's hash; the payload's where it has none), `payload` (a digest of the payload), or a " +
			"template of `{id} {key} {schema} {track} {ts} {hash} {header.NAME}`. An event that lacks a field its template " +
			"names passes as new: it cannot be told from another. Events are the same by a member of the payload where the stage " +
			"`map: {key: payload.NAME}` stands in front and `key` is `\"{key}\"`.",
		Example: "- dedupe: {key: id, capacity: 10000, ttl: 10m}",
		New:     func() Config { return &DedupeConfig{} },
	}
}

// Fields implements Config.
func (c *DedupeConfig) Fields() flows.Fields {
	return flows.Fields{
		flows.String("key", &c.Key, "what makes two events the same: `id`, `hash`, `payload` or a template such as "+
			"`{key}/{ts}`", flows.Default("id")),
		flows.Int("capacity", &c.Capacity, "keys remembered; the least recently used is forgotten first",
			flows.Default("10000"), flows.Min(1), flows.Max(100_000_000)),
		flows.Duration("ttl", &c.TTL, "how long a key is remembered after its event succeeded; `0s` is until evicted",
			flows.Default("10m")),
		flows.Enum("store", &c.Store, []string{"memory"}, "where keys are kept", flows.Default("memory")),
	}
}

// Validate implements Config.
func (c *DedupeConfig) Validate(s Scope, d *flows.Diagnostics) {
	key, err := parseKey(c.Key)
	if err != nil {
		s.ReportBeyond(d, flows.LimitExpression, "key", err.Error())
	}
	c.key = key
	if slices.Contains(s.Before, "rate-apply") {
		d.Warnf(s.Pos, CodeDedupeAfterEffect, "%s: stands behind rate-apply, which a duplicate has passed by then: move "+
			"it in front", s.Where())
	}
}

// Stops implements Stops.
func (c *DedupeConfig) Stops() bool { return true }

// Build implements Config.
func (c *DedupeConfig) Build(deps Deps) (Stage, error) {
	store, err := NewMemoryStore(c.Capacity, c.TTL, deps.Clock)
	if err != nil {
		return nil, err
	}
	key := c.key
	if key == nil {
		if key, err = parseKey(c.Key); err != nil {
			return nil, err
		}
	}
	return &dedupe{key: key, seen: store, template: c.Key, ttl: c.TTL}, nil
}

type dedupe struct {
	key      keyFunc
	seen     SeenStore
	template string // the key setting
	ttl      time.Duration
}

// show makes a key readable: a digest is bytes.
func (s *dedupe) show(key string) string {
	if !utf8.ValidString(key) {
		return fmt.Sprintf("%x", key)
	}
	return strconv.Quote(key)
}

// remembered says for how long a committed key is kept.
func (s *dedupe) remembered() string {
	if s.ttl == 0 {
		return "key remembered until evicted"
	}
	return "key remembered for " + s.ttl.String()
}

var _ Stage = (*dedupe)(nil)

// Middleware implements Stage.
func (s *dedupe) Middleware(next message.HandlerFunc) message.HandlerFunc {
	return func(msg *message.Message) (out []*message.Message, err error) {
		d := From(msg.Context())
		key := bounded(s.key(d.Event))
		if key == "" {
			// An event without the fields the template names is like no other: to take it
			// for a duplicate would lose it.
			if d.Trace != nil {
				d.Trace.Note("passes as new: it lacks a field of the key %s", s.template)
			}
			return next(msg)
		}
		fresh, err := s.seen.Reserve(d, key)
		if err != nil {
			return nil, fmt.Errorf("reserve key: %w", err)
		}
		if !fresh {
			d.Outcome = OutcomeDuplicate
			if d.Trace != nil {
				d.Trace.Note("handled before: key %s, %s", s.template, s.show(key))
			}
			return nil, nil
		}
		if d.Trace != nil {
			d.Trace.Note("first seen: key %s, %s", s.template, s.show(key))
		}
		committed := false
		// Also on a panic: a key that stayed reserved would block its redelivery.
		defer func() {
			if !committed {
				s.seen.Release(key)
				if d.Trace != nil {
					d.Trace.Note("key released: the event is new when it comes again")
				}
			}
		}()
		if out, err = next(msg); err != nil {
			return nil, err
		}
		if err = s.seen.Commit(d, key); err != nil {
			return nil, fmt.Errorf("commit key: %w", err)
		}
		committed = true
		if d.Trace != nil {
			d.Trace.Note("%s", s.remembered())
		}
		return out, nil
	}
}

// maxKey is how long a key may be, in bytes, to be remembered as it is: of a longer one, which is as long as its producer
// likes, a digest is.
const maxKey = 256

// bounded returns what is remembered of a key.
func bounded(key string) string {
	if len(key) <= maxKey {
		return key
	}
	return digest([]byte(key))
}

// keyFunc finds an event's key, "" when the event has none.
type keyFunc func(*event.Event) string

// parseKey turns the key setting into the function that finds an event's key.
func parseKey(key string) (keyFunc, error) {
	switch key {
	case "id":
		return func(e *event.Event) string { return e.ID }, nil
	case "hash":
		return func(e *event.Event) string {
			if e.Hash != "" {
				return e.Hash
			}
			return payloadDigest(e)
		}, nil
	case "payload":
		return payloadDigest, nil
	}
	if !strings.Contains(key, "{") {
		return nil, errors.New("must be id, hash, payload or a template with fields in braces, such as {key}/{ts}" + keyOfMember)
	}
	return parseKeyTemplate(key)
}

func payloadDigest(e *event.Event) string { return digest(e.Payload) }

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return string(sum[:])
}

// keyOfMember is advice for whoever looks for a key within the payload.
const keyOfMember = "; for a member of the payload, put a stage map: {key: payload.NAME} in front and write {key}"

// keyFields are the envelope fields a key template may name.
var keyFields = []string{"hash", "header.NAME", "id", "key", "schema", "track", "ts"}

func parseKeyTemplate(template string) (keyFunc, error) {
	type part struct {
		literal string
		field   keyFunc // nil for a literal
	}
	var parts []part
	for rest := template; rest != ""; {
		literal, tail, found := strings.Cut(rest, "{")
		if literal != "" {
			parts = append(parts, part{literal: literal})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(tail, "}")
		if !closed {
			return nil, fmt.Errorf("template %q: a brace is not closed: add the }", template)
		}
		field, ok := keyField(name)
		if !ok {
			return nil, fmt.Errorf("template %q: unknown field {%s}; fields: %s%s", template, name,
				strings.Join(keyFields, ", "), keyOfMember)
		}
		parts, rest = append(parts, part{field: field}), after
	}
	return func(e *event.Event) string {
		var b strings.Builder
		for _, p := range parts {
			if p.field == nil {
				b.WriteString(p.literal)
				continue
			}
			value := p.field(e)
			if value == "" {
				return ""
			}
			b.WriteString(value)
		}
		return b.String()
	}, nil
}

func keyField(name string) (keyFunc, bool) {
	if header, ok := strings.CutPrefix(name, "header."); ok && header != "" {
		return func(e *event.Event) string { return e.Headers()[header] }, true
	}
	switch name {
	case "id":
		return func(e *event.Event) string { return e.ID }, true
	case "key":
		return func(e *event.Event) string { return e.Key }, true
	case "schema":
		return func(e *event.Event) string { return e.Schema }, true
	case "track":
		return func(e *event.Event) string { return e.Track }, true
	case "ts":
		return func(e *event.Event) string { return strconv.FormatFloat(e.Time, 'f', -1, 64) }, true
	case "hash":
		return func(e *event.Event) string { return e.Hash }, true
	}
	return nil, false
}
