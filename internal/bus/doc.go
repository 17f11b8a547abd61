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
// flow, stage or router. lanes.go, order by key, is common to both transports;
// the files inmem*.go and redis*.go are one transport each.
//
// Where the next change goes: a promise that both make is a case in bustest
// first; another transport is files of its own that dispatch to lanes.
package bus
