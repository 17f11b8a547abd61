// Package admin is the service's HTTP listener: what operators look at, and the
// door through which events come in by HTTP.
//
//	GET  /metrics          Prometheus metrics
//	GET  /healthz          the process is up
//	GET  /readyz           the flows are up; JSON, with the reasons when not
//	GET  /flows            flows, their state and totals
//	GET  /rates            providers, their rates and levels
//	POST /ingest/{stream}  put an event on a stream
//	GET  /dlq              the newest dead letters of each flow
//	DELETE /dlq/{flow}/{id}         remove a dead letter
//	POST   /dlq/{flow}/{id}/replay  put it back on its stream
//	DELETE /rates/{provider}/coordinators/{id}  release a level that is stuck
//	GET    /rates/{provider}                    one provider
//	POST   /rates/{provider}/acquire            take tokens, from another process
//	POST   /rates/{provider}/report             tell its breaker how a call went
//	POST   /rates/{provider}/cooldown           begin a cooldown
//	DELETE /rates/{provider}/cooldowns/{scope}  end it
//	POST   /rates/{provider}/override           set a scale for a while; DELETE ends it
//
// It shows what it is given in Sources and knows none of the packages behind it. A
// new page is a method of Server in a file of its own and a line in routes.
package admin
