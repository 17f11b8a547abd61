package bus

import "time"

// RedisObserver is told what the Redis transport does, for metrics. Its methods are called from several goroutines and
// must not block. stream and group are the ones given to [Redis.Subscriber].
type RedisObserver interface {
	// Read reports one reply of new entries and how many it brought; replies without entries are not reported.
	Read(stream, group string, entries int)
	// InFlight reports how many entries have been taken and are not yet acknowledged to Redis.
	InFlight(stream, group string, entries int)
	// Settled reports one event that was handled: the time from its dispatch to a lane until the router acknowledged it.
	Settled(stream, group string, took time.Duration)
	// AckFailed reports that acknowledging so many entries to Redis failed. They are kept and tried again.
	AckFailed(stream, group string, entries int)
	// Reclaimed reports entries that a dead consumer, or an earlier life of this one, had left pending and that run again.
	Reclaimed(stream, group string, entries int)
	// Trimmed reports entries that were deleted from the stream while they were pending, and have been cleared.
	Trimmed(stream, group string, entries int)
}

// noObserver is told everything and tells no one.
type noObserver struct{}

var _ RedisObserver = noObserver{}

func (noObserver) Read(_, _ string, _ int)              {}
func (noObserver) InFlight(_, _ string, _ int)          {}
func (noObserver) Settled(_, _ string, _ time.Duration) {}
func (noObserver) AckFailed(_, _ string, _ int)         {}
func (noObserver) Reclaimed(_, _ string, _ int)         {}
func (noObserver) Trimmed(_, _ string, _ int)           {}
