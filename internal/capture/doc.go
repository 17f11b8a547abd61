// Package capture reads recorded events: files with one JSON object a line, as
// `run --feed`, flow tests and `explain --after` take them.
package capture
