package bus

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxSlots bounds the search for a free consumer name.
const maxSlots = 10_000

// renewLease extends a lease that is still held. KEYS: lease. ARGV: token, lifetime in ms.
const renewLease = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1`

// endLease gives up a lease that is still held. KEYS: lease. ARGV: token.
const endLease = `
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])`

// dropConsumer deletes a consumer that is dead, idle and has nothing pending. Deleting a consumer drops its pending
// entries, hence the check in the same step. KEYS: stream, lease, registry. ARGV: group, consumer, idle in ms.
const dropConsumer = `
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local info = {}
  for i = 1, #c, 2 do info[c[i]] = c[i + 1] end
  if info.name == ARGV[2] and info.pending == 0 and info.idle >= tonumber(ARGV[3]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
    redis.call('SREM', KEYS[3], ARGV[2])
    return 1
  end
end
return 0`

// redisKeys are the keys a consumer group of ours has besides the stream. They are in the stream's hash slot.
type redisKeys struct{ prefix, group string } // the group with its colons escaped

func newRedisKeys(stream, group string) redisKeys {
	prefix := stream
	if open := strings.IndexByte(stream, '{'); open < 0 || strings.IndexByte(stream[open:], '}') < 2 {
		prefix = "{" + stream + "}"
	}
	// A colon in a group's name would let the keys of two groups be the same.
	return redisKeys{prefix + ":pulseflow", strings.NewReplacer("%", "%25", ":", "%3A").Replace(group)}
}

// lease is the key that exists as long as the consumer is alive. Its value is the token of its holder.
func (k redisKeys) lease(consumer string) string {
	return k.prefix + ":lease:" + k.group + ":" + consumer
}

// consumers is the key of the set of all consumers that keep a lease, dead ones included. A consumer that is not in it
// belongs to another program.
func (k redisKeys) consumers() string { return k.prefix + ":consumers:" + k.group }

// seen is the key of what is known of a group that began with the newest entry, for when it is made again.
func (k redisKeys) seen() string { return k.prefix + ":group:" + k.group }

// consumer is a subscription's identity in its group: a name that no other live process has, as the lease on it
// proves. The name is stable over restarts, so that a process finds what its last life left pending.
type consumer struct {
	client redis.UniversalClient
	keys   redisKeys
	log    *slog.Logger
	given  string // the configured name; empty = the host's
	ttl    time.Duration
	token  string

	renew, end *redis.Script

	calls sync.Mutex // held over the calls to Redis that change what follows, and so for as long as a server may hang

	mu    sync.Mutex
	name  string    // empty before the first claim
	until time.Time // the lease lasts at least so long
}

func newConsumer(r *Redis, keys redisKeys, log *slog.Logger) *consumer {
	return &consumer{
		client: r.client, keys: keys, log: log, given: r.cfg.Consumer, ttl: r.cfg.Lease, token: rand.Text(),
		renew: redis.NewScript(renewLease), end: redis.NewScript(endLease),
	}
}

// hold renews the lease until ctx ends. It does nothing but that, in a goroutine of its own, so that neither what else
// there is to look after nor a drain can keep it from being in time. A lease that is lost is claimed by others.
func (c *consumer) hold(ctx context.Context) {
	ticker := time.NewTicker(min(c.ttl/3, keepMost))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if c.is() == "" {
			continue
		}
		if err := c.renewal(ctx); err != nil && ctx.Err() == nil {
			c.log.Debug("renewing the consumer's lease failed", "err", err)
		}
	}
}

// renewal renews the lease once. One that is gone although it has not expired, deleted by somebody or for want of
// memory, is taken again at once, before others count its holder as dead. One that may have expired is renewed only where
// Redis still has it, because it came late to set it: then nobody else has had the name.
func (c *consumer) renewal(ctx context.Context) error {
	c.calls.Lock()
	defer c.calls.Unlock()
	if !c.alive() {
		_, err := c.extend(ctx)
		return err
	}
	has, kept, err := c.regain(ctx)
	if has && !kept {
		c.log.Warn("consumer lease was gone and has been taken again", "consumer", c.is())
	}
	return err
}

// regain renews the lease on the name the consumer has, or takes it again where nobody has it. kept tells that it had
// not been lost.
func (c *consumer) regain(ctx context.Context) (has, kept bool, err error) {
	if kept, err = c.extend(ctx); kept || err != nil {
		return kept, kept, err
	}
	has, err = c.take(ctx, c.is())
	return has, false, err
}

// slot returns the name of the nth slot, from 1.
func (c *consumer) slot(n int) string {
	switch {
	case c.given != "" && n == 1:
		return c.given
	case c.given != "":
		return c.given + "-" + strconv.Itoa(n)
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return host + "-" + strconv.Itoa(n)
}

// claim makes sure that the consumer has a name of its own: the one it has, if the lease on that is still its, or else
// the first that is free. kept is false when a name was lost, even if it is the same that was claimed again.
func (c *consumer) claim(ctx context.Context) (kept bool, err error) {
	c.calls.Lock()
	defer c.calls.Unlock()
	if c.is() == "" {
		return true, c.settleOn(ctx, true)
	}
	has, kept, err := c.regain(ctx)
	if has || err != nil {
		return kept, err
	}
	return false, c.settleOn(ctx, false)
}

// settleOn claims the first name that is free. A process that was killed and started again finds the lease of its last
// life on its own name. If it went on under the next one, it would read what is new before what that life left pending.
// So, when it is patient, it lets a name pass as taken only once it has seen the lease being renewed, and otherwise
// waits for that to expire: for no longer than a lease lasts.
func (c *consumer) settleOn(ctx context.Context, patient bool) error {
	last := map[string]time.Duration{} // what was left of each lease at the last look
	alive := map[string]bool{}
	told := false
	for deadline := time.Now().Add(2 * c.ttl); ; {
		name, err := c.firstFree(ctx, last, alive, !patient || time.Now().After(deadline))
		if err != nil {
			return err
		}
		if name != "" {
			ok, err := c.take(ctx, name)
			if err != nil {
				return err
			}
			if ok {
				if name != c.slot(1) && c.given != "" {
					c.log.Warn("consumer name is taken by a live process, using another",
						"wanted", c.given, "consumer", name)
				}
				return nil
			}
			continue // somebody was faster
		}
		if !told {
			// Nothing is read meanwhile, and whoever watches is to know why.
			told = true
			c.log.Info("waiting for a consumer name that may be a dead process's", "at_most", c.ttl)
		}
		if !sleep(ctx, c.ttl/20) {
			return ctx.Err()
		}
	}
}

// slotPage is how many names are looked at in one round trip.
const slotPage = 16

// firstFree returns the first name that nobody has, "" when it is too early to say because a name before it may be that
// of a dead process.
func (c *consumer) firstFree(ctx context.Context, last map[string]time.Duration, alive map[string]bool, anyway bool) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	unsure := false
	for from := 1; from <= maxSlots; from += slotPage {
		left := make([]*redis.DurationCmd, slotPage)
		_, err := c.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := range left {
				left[i] = p.PTTL(ctx, c.keys.lease(c.slot(from+i)))
			}
			return nil
		})
		if err != nil {
			return "", describe("PTTL", c.keys.lease(c.slot(from)), err)
		}
		for i, cmd := range left {
			name, ttl := c.slot(from+i), cmd.Val()
			switch before, seen := last[name]; {
			case ttl == noKey && unsure:
				return "", nil
			case ttl == noKey:
				return name, nil
			case ttl == noExpiry, seen && ttl > before:
				alive[name] = true
			}
			last[name] = ttl
			unsure = unsure || !alive[name] && !anyway
		}
	}
	return "", fmt.Errorf("redis: no free consumer name: %d are taken", maxSlots)
}

// What PTTL answers instead of a time, as go-redis has it.
const (
	noKey    = time.Duration(-2)
	noExpiry = time.Duration(-1)
)

// take claims a name; false when somebody has it.
func (c *consumer) take(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	from, key := time.Now(), c.keys.lease(name)
	// Known as one of ours before it can read anything: see redisKeys.consumers.
	if err := c.client.SAdd(ctx, c.keys.consumers(), name).Err(); err != nil {
		return false, describe("SADD", c.keys.consumers(), err)
	}
	ok, err := c.client.SetNX(ctx, key, c.token, c.ttl).Result()
	if err != nil {
		return false, describe("SET", key, err)
	}
	if !ok {
		return false, nil
	}
	// Once more: before it had the lease, the name may have been dropped as that of a dead consumer.
	if err := c.client.SAdd(ctx, c.keys.consumers(), name).Err(); err != nil {
		return false, describe("SADD", c.keys.consumers(), err)
	}
	if c.is() != name {
		c.log.Info("consumer name claimed", "consumer", name)
	}
	c.set(name, from.Add(c.ttl))
	return true, nil
}

// extend renews the lease; false when it is no longer held.
func (c *consumer) extend(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	from, name := time.Now(), c.is()
	key := c.keys.lease(name)
	ok, err := c.renew.Run(ctx, c.client, []string{key}, c.token, c.ttl.Milliseconds()).Bool()
	if err != nil {
		return false, describe("EVALSHA", key, err)
	}
	if ok {
		c.set(name, from.Add(c.ttl))
	} else {
		c.set(name, time.Time{})
	}
	return ok, nil
}

func (c *consumer) set(name string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.name, c.until = name, until
}

// is returns the consumer's name.
func (c *consumer) is() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.name
}

// alive reports whether the lease is certainly held now.
func (c *consumer) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Before(c.until)
}

// release gives up the name.
func (c *consumer) release(ctx context.Context) error {
	c.calls.Lock()
	defer c.calls.Unlock()
	name := c.is()
	if name == "" {
		return nil
	}
	key := c.keys.lease(name)
	c.set(name, time.Time{})
	return describe("EVALSHA", key, c.end.Run(ctx, c.client, []string{key}, c.token).Err())
}
