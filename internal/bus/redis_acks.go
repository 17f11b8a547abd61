package bus

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// acks collects what was handled and acknowledges it to Redis in batches: after AckEvery, or sooner when AckBatch are
// waiting. What Redis does not take is kept and tried again until it does; meanwhile its entries stay in flight, so
// that they are not run again and the number of them stays bounded.
type acks struct {
	client        redis.UniversalClient
	stream, group string
	every         time.Duration
	batch         int
	flight        *flight
	observer      RedisObserver
	health        *health
	before        func(ctx context.Context, stream, group string) error // may be nil

	mu      sync.Mutex
	waiting []settledEntry
	spare   []settledEntry // an empty slice to collect the next ones in
	some    chan struct{}  // one token when something is waiting
	full    chan struct{}  // one token when batch or more are
}

type settledEntry struct {
	id string
	at time.Time
}

func newAcks(r *Redis, stream, group string, f *flight, h *health) *acks {
	return &acks{
		client: r.client, stream: stream, group: group, every: r.cfg.AckEvery, batch: r.cfg.AckBatch,
		flight: f, observer: r.cfg.Observer, health: h, before: r.cfg.BeforeAck,
		some: make(chan struct{}, 1), full: make(chan struct{}, 1),
	}
}

// add takes an entry that was handled. It never blocks.
func (a *acks) add(id string) {
	now := time.Now()
	a.mu.Lock()
	a.waiting = append(a.waiting, settledEntry{id, now})
	n := len(a.waiting)
	a.mu.Unlock()
	if n == 1 {
		notify(a.some)
	}
	if n == a.batch {
		notify(a.full)
	}
}

// notify leaves a token in c unless there is one.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run sends batches until ctx ends.
func (a *acks) run(ctx context.Context) {
	timer := time.NewTimer(0)
	<-timer.C
	for {
		select {
		case <-a.some:
		case <-ctx.Done():
			return
		}
		timer.Reset(a.every)
		select {
		case <-a.full:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		timer.Stop()
		if !a.insist(ctx) {
			return
		}
	}
}

// insist flushes until that works; false when ctx ended first. A second failure in a row is a fault of the
// subscription, and so is one that took all the time it had: a reader that waits for free places would not notice.
func (a *acks) insist(ctx context.Context) bool {
	var retry backoff
	for failures := 1; ; failures++ {
		err := a.flush(context.WithoutCancel(ctx))
		if err == nil {
			a.health.set(partAcks, nil)
			return true
		}
		if failures > 1 || isTimeout(err) {
			a.health.set(partAcks, err)
		}
		if !retry.wait(ctx, retryCap) {
			return false
		}
	}
}

// flush acknowledges everything that is waiting. What fails stays waiting.
func (a *acks) flush(ctx context.Context) error {
	a.mu.Lock()
	batch := a.waiting
	a.waiting, a.spare = a.spare, nil
	a.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	var sent int
	err := a.prepare(ctx)
	if err == nil {
		sent, err = a.send(ctx, batch)
	}
	a.settle(batch[:sent])
	a.mu.Lock()
	if sent < len(batch) {
		a.waiting = append(batch[sent:len(batch):len(batch)], a.waiting...)
	}
	clear(batch[:sent])
	a.spare = batch[:0:sent]
	a.mu.Unlock()
	if sent == len(batch) {
		return nil
	}
	a.observer.AckFailed(a.stream, a.group, len(batch)-sent)
	notify(a.some)
	return err
}

// prepareTimeout bounds what is done before an acknowledgement, so that what hangs there shows as a fault.
const prepareTimeout = 10 * time.Second

// prepare has done what must be before an acknowledgement.
func (a *acks) prepare(ctx context.Context) error {
	if a.before == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	return a.before(ctx, a.stream, a.group)
}

// send sends XACKs of up to batch IDs in one pipeline and returns how many entries, from the first, Redis has taken.
func (a *acks) send(ctx context.Context, batch []settledEntry) (sent int, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pipe := a.client.Pipeline()
	var sizes []int
	for from := 0; from < len(batch); from += a.batch {
		part := batch[from:min(from+a.batch, len(batch))]
		args := make([]any, 0, 3+len(part))
		args = append(args, "XACK", a.stream, a.group)
		for _, e := range part {
			args = append(args, e.id)
		}
		pipe.Do(ctx, args...)
		sizes = append(sizes, len(part))
	}
	// The commands' own errors say how far it got.
	cmds, _ := pipe.Exec(ctx)
	for i, cmd := range cmds {
		if err := cmd.Err(); err != nil {
			return sent, describe("XACK", a.stream, err)
		}
		sent += sizes[i]
	}
	return sent, nil
}

// settle lets acknowledged entries go.
func (a *acks) settle(batch []settledEntry) {
	ids := make([]streamID, len(batch))
	for i, e := range batch {
		ids[i], _ = parseStreamID(e.id)
	}
	dispatched, left := a.flight.remove(ids)
	for i, since := range dispatched {
		if !since.IsZero() {
			a.observer.Settled(a.stream, a.group, batch[i].at.Sub(since))
		}
	}
	a.observer.InFlight(a.stream, a.group, left)
}
