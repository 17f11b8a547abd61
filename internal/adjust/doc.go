// Package adjust joins the stages to the rate coordinator: it is the
// stages.RateApplier of the service, and shows the coordinator's state to the
// metrics and to the admin listener.
//
// The coordinator itself knows neither stages nor metrics (internal/rate). What it
// can do that a stage should reach goes here.
package adjust
