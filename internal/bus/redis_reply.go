package bus

import (
	"bytes"
	"fmt"
	"strconv"
)

// A reply to XREADGROUP is read as bytes: going through go-redis's map an entry costs a third of all that is allocated
// for an event, and an entry of ours has one field. The format is that of protocol 2.

// replyError is an error that Redis replied with.
type replyError string

func (e replyError) Error() string { return string(e) }

// RedisError makes it a redis.Error.
func (e replyError) RedisError() {}

// replyBuffer takes a reply as it comes. It refuses one that is an error, so that go-redis sees that too, and closes
// the connection to a server that has become a read-only replica.
type replyBuffer struct{ bytes.Buffer }

// keepReply is the largest buffer that is kept for the next reply.
const keepReply = 8 << 20

// reset empties the buffer.
func (b *replyBuffer) reset() {
	b.Reset()
	if b.Cap() > keepReply {
		b.Buffer = bytes.Buffer{}
	}
}

func (b *replyBuffer) Write(p []byte) (int, error) {
	if b.Len() == 0 && len(p) > 0 && p[0] == '-' {
		return 0, replyError(p[1:])
	}
	return b.Buffer.Write(p)
}

// replyEntry is an entry as it was sent. Its slices are parts of the reply.
type replyEntry struct {
	id    []byte
	pairs [][]byte // names and values in turn
}

// reply is what is left to read of a reply.
type reply struct{ rest []byte }

// readEntries reads the reply to an XREADGROUP of one stream and calls each for its entries, in order. The entry is
// valid until each returns. A reply without entries is no error.
func readEntries(raw []byte, each func(*replyEntry)) error {
	r := reply{raw}
	if streams, err := r.array(); err != nil || streams <= 0 {
		return err
	}
	if n, err := r.array(); err != nil || n != 2 {
		return malformed("stream", err)
	}
	if _, err := r.bulk(); err != nil {
		return err
	}
	entries, err := r.array()
	if err != nil {
		return err
	}
	var e replyEntry
	for range entries {
		if err := r.entry(&e); err != nil {
			return err
		}
		each(&e)
	}
	return nil
}

func (r *reply) entry(e *replyEntry) error {
	if n, err := r.array(); err != nil || n != 2 {
		return malformed("entry", err)
	}
	var err error
	if e.id, err = r.bulk(); err != nil {
		return err
	}
	fields, err := r.array()
	if err != nil || fields%2 != 0 && fields > 0 {
		return malformed("fields", err)
	}
	e.pairs = e.pairs[:0]
	for range max(fields, 0) {
		text, err := r.bulk()
		if err != nil {
			return err
		}
		e.pairs = append(e.pairs, text)
	}
	return nil
}

// array reads the head of an array and returns its length, -1 when it is null.
func (r *reply) array() (int, error) { return r.length('*') }

// bulk reads a string.
func (r *reply) bulk() ([]byte, error) {
	n, err := r.length('$')
	if err != nil {
		return nil, err
	}
	if n < 0 || len(r.rest) < n+2 {
		return nil, malformed("string", nil)
	}
	text := r.rest[:n]
	r.rest = r.rest[n+2:]
	return text, nil
}

// length reads a line that says how long what follows is.
func (r *reply) length(kind byte) (int, error) {
	end := bytes.IndexByte(r.rest, '\n')
	if end < 2 {
		return 0, malformed("line", nil)
	}
	line := r.rest[:end-1]
	r.rest = r.rest[end+1:]
	if line[0] != kind {
		return 0, malformed(fmt.Sprintf("type %q", line[0]), nil)
	}
	n, err := strconv.Atoi(string(line[1:]))
	if err != nil || n < -1 || n > len(r.rest) {
		return 0, malformed("length", nil)
	}
	return n, nil
}

// malformed is an error about a reply that is none, unless err says more.
func malformed(what string, err error) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("redis: malformed reply: %s", what)
}
