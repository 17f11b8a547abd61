package event

// defaultSource is the source of a feedback event that names none (docs/contract.md §3).
const defaultSource = "store"

// Feedback is a telemetry.FeedbackEvent: the pressure that a coordinator of the store reports (docs/contract.md §3).
type Feedback struct {
	CoordinatorID string  // who reports
	QueueSize     int64   // items queued, at least 0; may exceed Capacity
	Capacity      int64   // items the queue is made for, at least 1
	Level         Level   // the pressure
	Source        string  // what sent the event; "store" when it did not say
	Time          float64 // when it was measured, epoch seconds
}

// Feedback returns the payload as a feedback event. It accepts what the event's JSON Schema accepts (see Schema), and
// in addition demands of ts that a float64 can hold it; any other payload yields a *FieldError for the first member
// that breaks a rule. Integers are judged by their text, so that 850.0 is one, and one beyond the range of int64
// becomes the greatest. Of a bare event without ts, Time is the event's. Of an event with Err set, it returns that.
//
// Feedback does not look at Schema: that is the caller's to compare.
func (e *Event) Feedback() (Feedback, error) {
	if e.Err != nil {
		return Feedback{}, e.Err
	}
	v := view{event: e}
	f := Feedback{
		CoordinatorID: v.text(nameCoordinatorID),
		QueueSize:     v.integer(nameQueueSize, 0),
		Capacity:      v.integer(nameCapacity, 1),
		Level:         v.level(nameLevel),
		Source:        v.source(),
		Time:          v.time(),
	}
	if v.err != nil {
		return Feedback{}, v.err
	}
	return f, nil
}

// LenientFeedback is Feedback for a flow that only warns of a broken shape: it demands no more than handling the
// event takes, which is coordinator_id, level and ts. A queue_size or capacity that Feedback would refuse is 0, and
// such a source is "store".
func (e *Event) LenientFeedback() (Feedback, error) {
	if e.Err != nil {
		return Feedback{}, e.Err
	}
	v, ignored := view{event: e}, view{event: e}
	f := Feedback{
		CoordinatorID: v.text(nameCoordinatorID),
		QueueSize:     ignored.integer(nameQueueSize, 0),
		Capacity:      ignored.integer(nameCapacity, 1),
		Level:         v.level(nameLevel),
		Source:        ignored.source(),
		Time:          v.time(),
	}
	if v.err != nil {
		return Feedback{}, v.err
	}
	if e.fields[nameSource].kind != kindString {
		f.Source = defaultSource
	}
	return f, nil
}
