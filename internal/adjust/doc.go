// Package adjust joins the stages to the rate coordinator: it is the
// stages.RateApplier of the service, and shows the coordinator's state to the
// metrics and to the admin listener.
//
// It also keeps the levels alive beyond the process: share.go exchanges them with
// other processes, keep.go has them in a file, register.go spells them for both.
//
// applier.go is what stages call, option.go how it is set up, and configure.go how it
// gets other providers while it runs; pacing.go and status.go are for the admin
// listener and the metrics, limiter.go is for throttle, and linebudget.go keeps the log
// readable.
//
// The coordinator itself knows neither stages nor metrics (internal/rate). What it
// can do that a stage should reach goes here.
package adjust
