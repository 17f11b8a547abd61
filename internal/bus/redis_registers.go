package bus

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Fields of a hash of registers beside the registers, whose names begin with registerPrefix.
const (
	registerPrefix = ":"
	fieldEpoch     = "epoch"   // made at random with the hash: another one tells that the hash is another
	fieldVersion   = "version" // counts the calls that changed a register
)

// raiseRegisters sets registers of a hash to values, each only when the value is greater than what the register holds.
// Values are digits, all of one length; what is stored in another form counts as nothing. Greater is as texts compare,
// which for digits is the same in every locale. KEYS: the hash. ARGV: an epoch for a new hash, the length of values,
// how many pairs raise, those pairs of name and value, and pairs of registers to delete when they hold just that.
//
// It returns the epoch, the version before and after, and pairs of the registers that hold more.
const raiseRegisters = `
local key = KEYS[1]
local epoch = redis.call('HGET', key, 'epoch')
if not epoch then
  epoch = ARGV[1]
  redis.call('HSET', key, 'epoch', epoch)
end
local before = redis.call('HGET', key, 'version') or '0'
local changed, more = false, {}
local size, raises = tonumber(ARGV[2]), 3 + 2 * tonumber(ARGV[3])
for i = 4, #ARGV, 2 do
  local name, value = ARGV[i], ARGV[i + 1]
  local stored = redis.call('HGET', key, name)
  if i > raises then
    if stored == value then
      redis.call('HDEL', key, name)
    end
  else
    if stored and (#stored ~= size or string.find(stored, '%D')) then
      stored = false
    end
    if not stored or stored < value then
      redis.call('HSET', key, name, value)
      changed = true
    elseif stored > value then
      more[#more + 1] = name
      more[#more + 1] = stored
    end
  end
end
local after = before
if changed then
  after = redis.call('HINCRBY', key, 'version', 1)
end
return {epoch, tostring(before), tostring(after), more}`

// RedisRegisters are named values in Redis that only grow, in hashes that processes share. One call reads or changes
// one hash as a whole, and touches no other key. It needs Redis 6.2.
type RedisRegisters struct {
	client redis.UniversalClient
	raise  *redis.Script
}

// Registers returns the transport's registers. They work until Close.
func (r *Redis) Registers() *RedisRegisters {
	return &RedisRegisters{client: r.client, raise: redis.NewScript(raiseRegisters)}
}

// Versions returns the epoch and the version of each hash: another epoch tells that the hash is another than before,
// another version that it has changed. Of a hash that does not exist both are zero, and of a key that Redis refuses to
// read as one the version is -1: that is a fault of this key alone, and Read says which.
func (r *RedisRegisters) Versions(ctx context.Context, keys []string) (epochs []string, versions []int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	cmds := make([]*redis.SliceCmd, len(keys))
	_, _ = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, key := range keys {
			cmds[i] = p.HMGet(ctx, key, fieldEpoch, fieldVersion)
		}
		return nil
	})
	epochs, versions = make([]string, len(keys)), make([]int64, len(keys))
	for i, cmd := range cmds {
		values, err := cmd.Result()
		switch {
		case redis.HasErrorPrefix(err, "WRONGTYPE"), redis.HasErrorPrefix(err, "NOPERM"):
			versions[i] = -1
			continue
		case err != nil:
			return nil, nil, describeRegisters("HMGET", keys[i], err)
		}
		epochs[i], _ = values[0].(string)
		versions[i] = number(values[1])
	}
	return epochs, versions, nil
}

// Read returns all registers of a hash, with its epoch and version.
func (r *RedisRegisters) Read(ctx context.Context, key string) (registers map[string]string, epoch string, version int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	fields, err := r.client.HGetAll(ctx, key).Result()
	if err != nil {
		return nil, "", 0, describeRegisters("HGETALL", key, err)
	}
	registers = make(map[string]string, len(fields))
	for field, value := range fields {
		if name, ok := strings.CutPrefix(field, registerPrefix); ok {
			registers[name] = value
		}
	}
	return registers, fields[fieldEpoch], number(fields[fieldVersion]), nil
}

// Raise sets each register of values to its value unless it holds a greater one, and deletes those of drop that hold
// the value given. All values are digits, size of them. It makes the hash when there is none.
//
// It returns the registers that hold more than was given, and the hash's epoch and versions before and after, which are
// the same when nothing changed.
func (r *RedisRegisters) Raise(ctx context.Context, key string, size int, values, drop map[string]string) (
	more map[string]string, epoch string, before, after int64, err error,
) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	args := make([]any, 0, 3+2*len(values)+2*len(drop))
	args = append(args, rand.Text(), size, len(values))
	for _, m := range []map[string]string{values, drop} {
		for name, value := range m {
			args = append(args, registerPrefix+name, value)
		}
	}
	reply, err := r.raise.Run(ctx, r.client, []string{key}, args...).Slice()
	if err != nil {
		return nil, "", 0, 0, describeRegisters("EVALSHA", key, err)
	}
	if len(reply) != 4 {
		return nil, "", 0, 0, fmt.Errorf("redis: raise registers of %q: %d values in the reply", key, len(reply))
	}
	epoch, _ = reply[0].(string)
	before, after = number(reply[1]), number(reply[2])
	pairs, _ := reply[3].([]any)
	more = make(map[string]string, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		name, _ := pairs[i].(string)
		value, _ := pairs[i+1].(string)
		more[strings.TrimPrefix(name, registerPrefix)] = value
	}
	return more, epoch, before, after, nil
}

// number reads a number of a reply, 0 where it is none.
func number(v any) int64 {
	text, _ := v.(string)
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// Check asks for every permission that the registers of the hashes need and returns an error that names those that
// lack, nil when none does. It changes nothing.
func (r *RedisRegisters) Check(ctx context.Context, keys []string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	type probe struct {
		command, key string
		cmd          *redis.Cmd
	}
	var probes []probe
	_, _ = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		add := func(command, key string, args ...any) {
			probes = append(probes, probe{command, key, p.Do(ctx, append([]any{command}, args...)...)})
		}
		for _, key := range keys {
			add("HGETALL", key, key)
			add("HMGET", key, key, fieldEpoch)
			add("HGET", key, key, fieldEpoch)
			add("HDEL", key, key, "-")
			// Without a change: the increment is refused, and HSET lacks its value.
			add("HINCRBY", key, key, fieldVersion, "-")
			add("HSET", key, key, fieldEpoch, "-", "-")
			add("EVAL", key, "return 1", 1, key)
			add("EVALSHA", key, "0", 1, key)
		}
		return nil
	})
	var lacks []error
	for _, probe := range probes {
		if err := probe.cmd.Err(); redis.HasErrorPrefix(err, "NOPERM") {
			lacks = append(lacks, describeRegisters(probe.command, probe.key, err))
		} else if err != nil && !isAnswer(err) {
			return describeRegisters(probe.command, probe.key, err)
		}
	}
	return joinFaults(lacks)
}

func describeRegisters(command, key string, err error) error {
	if strings.Contains(err.Error(), "WRONGTYPE") {
		return &operation{text: fmt.Sprintf("key %q holds something that is not a hash (%s)", key, command), err: err}
	}
	return describe(command, key, err)
}
