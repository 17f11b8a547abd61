package rate

import (
	"container/list"
	"fmt"
	"sync"
	"time"
)

// Keyed is a set of token buckets, one for each key, that share a rate. It is for
// pacing what has no provider. It is safe for concurrent use.
type Keyed struct {
	rate, burst float64
	most        int
	now         func() time.Time
	start       time.Time

	mu      sync.Mutex
	buckets map[string]*list.Element
	recent  *list.List // of *keyedBucket, the key seen last in front
}

type keyedBucket struct {
	key string
	bucket
}

// NewKeyed returns buckets of rate tokens a second and burst tokens, for as many
// keys as given: of more, the one not seen for longest is forgotten, and would
// start with a full burst. Now nil is the system's time. An error says which
// setting is out of range.
func NewKeyed(rate, burst float64, keys int, now func() time.Time) (*Keyed, error) {
	switch {
	case !(rate > 0 && rate <= maxTokens):
		return nil, fmt.Errorf("rate: %g is not above 0 and at most %g", rate, float64(maxTokens))
	case !(burst >= 1 && burst <= maxTokens):
		return nil, fmt.Errorf("burst: %g is not from 1 to %g", burst, float64(maxTokens))
	case keys < 1:
		return nil, fmt.Errorf("keys: %d is less than 1", keys)
	}
	if now == nil {
		now = time.Now
	}
	return &Keyed{
		rate: rate, burst: burst, most: keys, now: now, start: now(),
		buckets: make(map[string]*list.Element), recent: list.New(),
	}, nil
}

// Take takes one token of the key's bucket and returns 0; when there is none, it
// returns how long it will be until there is.
func (k *Keyed) Take(key string) time.Duration {
	now := k.now().Sub(k.start)
	k.mu.Lock()
	defer k.mu.Unlock()
	b := k.bucket(key, now)
	b.refill(now)
	if b.take(1) {
		return 0
	}
	return b.wait(1)
}

// bucket returns the key's bucket, a full one for a key that is not known. The
// caller holds mu.
func (k *Keyed) bucket(key string, now time.Duration) *keyedBucket {
	if e, ok := k.buckets[key]; ok {
		k.recent.MoveToFront(e)
		return e.Value.(*keyedBucket)
	}
	if k.recent.Len() >= k.most {
		oldest := k.recent.Back()
		delete(k.buckets, k.recent.Remove(oldest).(*keyedBucket).key)
	}
	b := &keyedBucket{key: key, bucket: newBucket(k.burst)}
	b.at = now
	b.setRate(k.rate)
	k.buckets[key] = k.recent.PushFront(b)
	return b
}

// Len is the number of keys that are remembered.
func (k *Keyed) Len() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.recent.Len()
}
