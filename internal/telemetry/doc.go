// Package telemetry holds the metrics and the log of the service.
//
// Metrics are registered on the Registerer they are given, never on a global one.
// Names and labels of the pulse_, pipeline_, feedback_ and schema_ families are a
// contract with existing dashboards (docs/contract.md §7); the service's own are
// prefixed pulseflow_. No label takes its value from an event, except from the
// bounded sets the contract declares.
//
// A new metric goes into metrics.go, with its line in docs/metrics.md.
package telemetry
