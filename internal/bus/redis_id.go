package bus

import (
	"math"
	"strconv"
	"strings"
)

// streamID is an entry ID of Redis, milliseconds and sequence, comparable and ordered as Redis orders it.
type streamID struct{ ms, seq uint64 }

// parseStreamID reads "ms-seq". It is false for anything else, "0" and "$" included.
func parseStreamID(s string) (streamID, bool) {
	ms, seq, ok := strings.Cut(s, "-")
	if !ok {
		return streamID{}, false
	}
	m, err := strconv.ParseUint(ms, 10, 64)
	if err != nil {
		return streamID{}, false
	}
	q, err := strconv.ParseUint(seq, 10, 64)
	return streamID{m, q}, err == nil
}

// less reports whether id comes before other.
func (id streamID) less(other streamID) bool {
	return id.ms < other.ms || id.ms == other.ms && id.seq < other.seq
}

// before returns the ID just before id; 0-0 has none and is returned itself.
func (id streamID) before() streamID {
	switch {
	case id.seq > 0:
		return streamID{id.ms, id.seq - 1}
	case id.ms > 0:
		return streamID{id.ms - 1, math.MaxUint64}
	default:
		return id
	}
}

// after returns the ID just after id; the last one is returned itself.
func (id streamID) after() streamID {
	switch {
	case id.seq < math.MaxUint64:
		return streamID{id.ms, id.seq + 1}
	case id.ms < math.MaxUint64:
		return streamID{id.ms + 1, 0}
	default:
		return id
	}
}

// String returns "ms-seq".
func (id streamID) String() string {
	b := strconv.AppendUint(make([]byte, 0, 24), id.ms, 10)
	b = append(b, '-')
	return string(strconv.AppendUint(b, id.seq, 10))
}
