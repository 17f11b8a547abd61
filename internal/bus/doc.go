// Package bus carries events between streams and handlers: [InMemory] within
// the process, over Watermill's gochannel, and [Redis] over Redis Streams. Both
// are what the router asks for as its transport and promise the same
// (docs/contract.md §1, §2 and §5), which package bustest checks:
//
//   - A message's context carries the *event.Event that its payload was decoded
//     to, once. What cannot be decoded is delivered too, with the error in it.
//   - Events of one key are handled in order and one at a time, events of
//     different keys side by side, in as many lanes as the subscriber was given.
//   - A refused message (nack) comes again after a jittered, capped backoff and
//     holds its lane meanwhile. An event is let go when it was acknowledged.
//   - A subscription that ends hands out no more than it must, waits for what is
//     in flight up to the drain timeout, and then closes its channel. Only when
//     that time is up are the messages' contexts cancelled.
//
// Events in memory are lost with the process; those of Redis come again, to
// this process or to another one.
//
// The package may import event, Watermill and the Redis client, and knows no
// flow, stage or router. lanes.go, order by key, with lane_keys.go, which lane a key
// has, is common to both transports, and single.go finds and deletes one entry on each;
// the files inmem*.go and redis*.go are one transport each.
//
// Of Redis, redis.go has the settings and redis_subscriber.go the life of a
// subscription, which is made of: redis_reader.go, which takes new entries and
// redis_reply.go reads; redis_flight.go, what was taken and is not acknowledged;
// redis_acks.go, which acknowledges; redis_consumer.go, the name and the lease on it,
// and redis_heir.go, which hands both on; redis_group.go, the group and how it is made
// again; redis_keeper.go, which looks after the group, and redis_claim.go, which runs
// what the dead have left; redis_health.go, whether it all works. redis_publisher.go
// writes, in the batches of redis_batches.go, and redis_retention.go trims;
// redis_registers.go has values that processes share, redis_inspect.go is for those who
// look, and redis_fault.go words every error.
//
// Where the next change goes: a promise that both make is a case in bustest
// first; another transport is files of its own that queue in lanes; a command that
// Redis has not been asked before belongs in redis_group.go's check of permissions too.
package bus
