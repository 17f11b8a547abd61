// Package rate paces the use of providers. A Coordinator holds one token
// bucket for each provider and scales its refill rate by the pressure levels
// that coordinators report through Apply.
//
//	effective rate = max(MinRate, Rate × Policy.Scale(level))
//
// # Promises
//
// Over any span of time the tokens granted are at most the burst plus the
// integral of the effective rate over it. The bucket counts in 128-bit fixed
// point, without rounding, so this does not wear off.
//
// A lower rate governs the very next token. An effective rate of zero also
// clears what the bucket stores, so a pause stops at once; with a MinRate the
// stored burst may still be spent. A higher rate wakes those who wait, who are
// served in the order of their calls. One that gives up leaves its place to
// the next. With RampUp a rate is raised in steps that stay below the straight
// line; it is constant in between, so that the bound holds exactly.
//
// An open circuit breaker or a global cooldown refuses every call at once,
// those that already wait among them: nobody waits for a provider that is not
// to be called.
//
// The state after a set of adjustments does not depend on their order or
// repetition: of one coordinator the newest event counts, by the time it
// carries, and of several of the same time the worst. A level is held until
// its coordinator's next event, for producers signal transitions only
// (docs/contract.md §3); OnSilence and Forget are the ways out when that event
// never comes.
//
// An override puts an operator's scale in place of all this for a bounded time.
// Levels are taken in meanwhile and count again at its end.
//
// # Bounds
//
// A provider holds the levels of at most MaxCoordinators coordinators. Beyond
// that it evicts an ok before a soft before a hard, and of equal levels the
// one with the oldest event: dropping an ok never lowers the pressure, while
// dropping a hard would release it. An eviction therefore never changes the
// provider's level (under AggregateLast only the newest event counts, and the
// oldest is evicted). The last event of as many evicted or forgotten
// coordinators is remembered, the longest gone going first, so that an event
// no newer than it does not bring its coordinator back. Order is without
// effect as long as no coordinator is evicted.
//
// # Why not golang.org/x/time/rate
//
// Its Wait sleeps for a time fixed when it reserves: SetLimit neither stops
// nor wakes a waiter, and "the new Limit, and Burst, may be violated or
// underutilized" by those that have reserved. At limit 0 it still hands out
// what is stored, and it has no queue to keep in order. It is measured beside
// this bucket in the benchmarks.
//
// # What it touches
//
// Memory and a Clock, no I/O, no logging and no metrics: State, States and
// Watch are for those. It imports the standard library only.
//
// # Where the next change goes
//
// level.go has what levels mean: policy, aggregate, silence. ramp.go has how a
// rate is raised, breaker.go and cooldown.go what refuses calls, override.go an
// operator's scale. holdings.go has which coordinator holds which level, journal.go
// what of that is kept outside and comes in from there, and shared.go the methods for
// it. provider.go has one provider: who waits, and what else may refuse or pace a
// token; configure.go changes the providers while they are in use, keyed.go has
// buckets by key without levels. bucket.go and quantity.go are the arithmetic. watch.go has those who follow changes, clock.go the
// source of time, and coordinator.go the configuration and exported methods.
package rate
