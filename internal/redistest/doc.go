// Package redistest starts real Redis servers for tests.
//
// It runs the redis-server it finds, on a free port, in a directory of its own, and stops it when the test ends. It may
// be imported by tests only. Where the next change goes: another way to set a server up is an [Option].
package redistest
