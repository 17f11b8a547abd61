package event

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// ShiftTime returns the entry in data moved in time: every ts that is a number, of the envelope, of an inner one and
// of the event's payload, has by seconds added and is spelled as Python's json.dumps does. A hash that matched before
// matches again afterwards; all other bytes stay as they are. Data that is no entry yields a *DecodeError, and a
// shift, or a time it leads to, that is not finite an error.
func ShiftTime(data []byte, by float64) ([]byte, error) {
	var s scanner
	dialect, bad := s.entry(data)
	if bad != nil {
		return nil, bad
	}
	if math.IsNaN(by) || math.IsInf(by, 0) {
		return nil, errors.New("shift time: shift must be finite")
	}
	envelopes := envelopesOf(dialect)
	shifted, err := shiftTimes(data, s.frames[:envelopes+1], by)
	if err != nil {
		return nil, fmt.Errorf("shift time: %w", err)
	}
	for level := envelopes - 1; level >= 0; level-- { // the outer hash covers the inner one
		if f := &s.frames[level]; matches(data, f[nameHash], f[namePayload]) {
			shifted = rehash(shifted, level)
		}
	}
	return shifted, nil
}

// envelopesOf returns how many envelopes an entry of the dialect has.
func envelopesOf(d Dialect) int {
	switch d {
	case DialectBare:
		return 0
	case DialectNested:
		return 2
	default:
		return 1
	}
}

// shiftTimes adds by to every ts of the frames.
func shiftTimes(data []byte, frames []frame, by float64) ([]byte, error) {
	var times []value
	for i := range frames {
		if v := frames[i][nameTS]; v.kind == kindNumber {
			times = append(times, v)
		}
	}
	slices.SortFunc(times, func(a, b value) int { return cmp.Compare(a.start, b.start) })
	shifted := make([]byte, 0, len(data)+16*len(times))
	done := 0
	for _, v := range times {
		seconds, ok := finite(v.raw(data))
		if !ok {
			continue // of a payload; no one can read it before or after
		}
		if seconds += by; math.IsInf(seconds, 0) {
			return nil, errors.New("result must be finite")
		}
		shifted = append(shifted, data[done:v.start]...)
		shifted = appendFloat(shifted, seconds)
		done = int(v.end)
	}
	return append(shifted, data[done:]...), nil
}

// rehash makes the hash of the given level's envelope, if it has one, that of its payload.
func rehash(data []byte, level int) []byte {
	var s scanner
	s.document(data)
	f := &s.frames[level]
	hash := f[nameHash]
	if hash.kind != kindString || s.empty(hash) {
		return data
	}
	out := make([]byte, 0, len(data))
	out = append(out, data[:hash.start]...)
	out = append(out, '"')
	out = appendHash(out, f[namePayload].raw(data))
	out = append(out, '"')
	return append(out, data[hash.end:]...)
}
