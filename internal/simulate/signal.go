package simulate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
)

// signal is an event of the queue.
type signal struct {
	coordinator     string
	level           event.Level
	depth, capacity int
	at              time.Time
}

// entry returns the signal as the Store's publisher puts it on the stream: the
// nested dialect of docs/contract.md §2, with reason and utilization in the
// headers.
func (s signal) entry(track string) ([]byte, error) {
	name, err := json.Marshal(s.coordinator)
	if err != nil {
		return nil, fmt.Errorf("coordinator: %w", err)
	}
	ts := strconv.FormatFloat(event.Seconds(s.at), 'f', -1, 64)
	reason := ""
	if s.level == event.LevelOK {
		reason = `"reason":"queue_recovered",`
	}
	inner := fmt.Appendf(nil, `{"id":"","key":%s,"ts":%s,"meta":{"schema_id":%q,"track":%q,"headers":{%s"utilization":"%.6f"},`+
		`"hash":null},"payload":{"coordinator_id":%s,"queue_size":%d,"capacity":%d,"level":%q,"source":"store","ts":%s}}`,
		name, ts, event.SchemaFeedback, track, reason, float64(s.depth)/float64(s.capacity),
		name, s.depth, s.capacity, s.level.String(), ts)
	hash := sha256.Sum256(inner)
	return fmt.Appendf(nil, `{"ts":%s,"key":%s,"meta":{"schema_id":%q,"track":%q,"headers":{},"hash":%q},"payload":%s}`,
		ts, name, event.SchemaEnvelope, track, hex.EncodeToString(hash[:]), inner), nil
}

// entryID is the ID that a stream would give to its n-th entry.
func entryID(at time.Time, n int) string { return fmt.Sprintf("%d-%d", at.UnixMilli(), n) }
