package bus

import "maps"

// fieldData is the field of a stream entry that holds an event's envelope
// (docs/contract.md §1).
const fieldData = "data"

// Entry is one entry of a stream, as a Redis stream holds it: an ID of the form
// milliseconds-sequence, and fields. The field data holds the event's bytes.
type Entry struct {
	ID     string
	Fields map[string]string
}

// letters keeps the newest entries of a stream that nothing else holds.
type letters struct {
	ring     []Entry // grows to size, then next goes round
	size     int
	next     int
	overflow int64 // entries that made room for newer ones
}

// add keeps an entry. data nil is an entry without the field data.
func (l *letters) add(id string, meta map[string]string, data []byte) {
	fields := make(map[string]string, len(meta)+1)
	maps.Copy(fields, meta)
	if data != nil {
		fields[fieldData] = string(data)
	}
	e := Entry{ID: id, Fields: fields}
	if len(l.ring) < l.size {
		l.ring = append(l.ring, e)
		return
	}
	l.ring[l.next] = e
	l.next = (l.next + 1) % l.size
	l.overflow++
}

// newest returns up to n entries, the newest first; all of them when n is not positive. The
// fields are copies.
func (l *letters) newest(n int) []Entry {
	if n <= 0 || n > len(l.ring) {
		n = len(l.ring)
	}
	entries := make([]Entry, n)
	for i := range entries {
		at := (l.next - 1 - i + 2*len(l.ring)) % len(l.ring)
		entries[i] = Entry{ID: l.ring[at].ID, Fields: maps.Clone(l.ring[at].Fields)}
	}
	return entries
}
