package router

import (
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
)

// watermillLogger gives Watermill's log to slog at debug level. What an operator
// must see is logged where it happens, with the project's own keys; Watermill
// would say it a second time.
type watermillLogger struct{ log *slog.Logger }

var _ watermill.LoggerAdapter = watermillLogger{}

// Error implements watermill.LoggerAdapter.
func (l watermillLogger) Error(msg string, err error, _ watermill.LogFields) {
	l.log.Debug("watermill error", "detail", msg, "err", err)
}

// Info implements watermill.LoggerAdapter; routine steps are not logged.
func (watermillLogger) Info(string, watermill.LogFields) {}

// Debug implements watermill.LoggerAdapter; routine steps are not logged.
func (watermillLogger) Debug(string, watermill.LogFields) {}

// Trace implements watermill.LoggerAdapter; it is called several times a message.
func (watermillLogger) Trace(string, watermill.LogFields) {}

// With implements watermill.LoggerAdapter.
func (l watermillLogger) With(watermill.LogFields) watermill.LoggerAdapter { return l }
