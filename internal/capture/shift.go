package capture

import (
	"fmt"
	"math"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
)

// Shift moves the times of all entries by one amount, so that the newest event happens
// at the time that at gives for its place in the list. Entries without a time, and those
// that are no event, stay as they are.
func Shift(list []Entry, at func(i int) time.Time) error {
	newest, by := math.Inf(-1), 0.0
	for i, e := range list {
		if t, ok := (event.Decoder{}).Decode(e.ID, e.Data).EventTime(); ok && t > newest {
			newest, by = t, event.Seconds(at(i))-t
		}
	}
	if math.IsInf(newest, -1) {
		return nil
	}
	for i, e := range list {
		if (event.Decoder{}).Decode(e.ID, e.Data).Err != nil {
			continue
		}
		data, err := event.ShiftTime(e.Data, by)
		if err != nil {
			return fmt.Errorf("line %d: shift time: %w", e.Line, err)
		}
		list[i].Data = data
	}
	return nil
}
