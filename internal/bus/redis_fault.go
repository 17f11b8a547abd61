package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/mjdevaccount/pulseflow/event"
)

// ErrNoGroup is returned where a stream has no consumer group of the name asked for.
var ErrNoGroup = errors.New("no such consumer group")

// errNotAttached is a subscription's state until it has first reached Redis.
var errNotAttached = errors.New("redis: not attached yet")

// errLeaseLost sends a reader back to claim a consumer name.
var errLeaseLost = errors.New("redis: consumer lease lost")

// DeliveriesError is the Err of an event that was delivered too often: its consumer died with it each time. It is not
// to be run again, but dead-lettered.
type DeliveriesError struct {
	Deliveries int64 // deliveries so far, this one included
	Max        int   // the limit that it exceeds
}

// Error says how often the entry was delivered.
func (e *DeliveriesError) Error() string {
	return fmt.Sprintf("entry was delivered %d times without being acknowledged, more than the limit of %d",
		e.Deliveries-1, e.Max)
}

// Kind returns event.KindDeliveries.
func (e *DeliveriesError) Kind() string { return event.KindDeliveries }

// operation is an error with what was being done, for people to read. The cause stays reachable.
type operation struct {
	text string
	err  error
}

func (o *operation) Error() string { return "redis: " + o.text }
func (o *operation) Unwrap() error { return o.err }

// Unavailable reports whether the server could not do its work, whatever the event was: it is down, hangs, starts, or
// takes no writes, or it has to be set right first: a user that lacks a permission, a key of another type. Such a fault
// is over once the server is well again. What it refuses because of the entry, one that is too large, is none.
func (o *operation) Unavailable() bool {
	return hasAnyPrefix(o.err, passingFaults) || hasAnyPrefix(o.err, operatorFaults) || !isAnswer(o.err)
}

// isAnswer reports whether an error is the server's answer. Any other leaves open whether it did what it was asked.
func isAnswer(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer)
}

// describe says in one line what is wrong with a command on a key, in the words of whoever has to mend it. It returns
// nil for nil.
func describe(command, key string, err error) error {
	if err == nil {
		return nil
	}
	var op *operation
	if errors.As(err, &op) {
		return err
	}
	return &operation{text: faultText(command, key, err), err: err}
}

func faultText(command, key string, err error) string {
	switch {
	case redis.HasErrorPrefix(err, "NOPERM"):
		return permissionText(command, key, err)
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		return fmt.Sprintf("key %q holds something that is not a stream (%s)", key, command)
	case redis.IsAuthError(err), redis.HasErrorPrefix(err, "WRONGPASS"), redis.HasErrorPrefix(err, "NOAUTH"):
		return "the server refuses the user or password of the URL"
	case redis.HasErrorPrefix(err, "LOADING"):
		return "the server is loading its data (LOADING)"
	case redis.HasErrorPrefix(err, "READONLY"):
		return "the server is a read-only replica (READONLY)"
	case redis.HasErrorPrefix(err, "MISCONF"):
		return "the server refuses writes because it cannot save (MISCONF)"
	case redis.HasErrorPrefix(err, "OOM"):
		return "the server is out of memory (OOM)"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused" + at(err)
	case errors.Is(err, redis.ErrClosed), errors.Is(err, ErrClosed):
		return ErrClosed.Error()
	case isTimeout(err):
		return "no answer in time (" + command + ")"
	default:
		return command + ": " + err.Error()
	}
}

// permissionText names the permission an ACL user lacks. Redis names a forbidden command but not a forbidden key.
func permissionText(command, key string, err error) string {
	if strings.Contains(err.Error(), "key") && !strings.Contains(err.Error(), "command") {
		return fmt.Sprintf("the user may not access the key %q, needed for %s (NOPERM)", key, command)
	}
	name, sub, _ := strings.Cut(strings.ToLower(command), " ")
	if sub != "" {
		name += "|" + sub
	}
	return fmt.Sprintf("the user may not run %s: grant +%s (NOPERM)", command, name)
}

// at returns the address of a connection that failed, when the error has it.
func at(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil {
		return " (" + op.Addr.String() + ")"
	}
	return ""
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.As(err, &n) && n.Timeout()
}

// isNoGroup reports whether the group, or the stream with it, is gone.
func isNoGroup(err error) bool {
	return redis.HasErrorPrefix(err, "NOGROUP") || redis.HasErrorPrefix(err, "UNBLOCKED") || isNoKey(err)
}

// isNoKey reports whether XINFO did not find the stream.
func isNoKey(err error) bool { return redis.HasErrorPrefix(err, "no such key") }

// What a server refuses whatever it is asked, by how the error begins: passingFaults for a while, operatorFaults until
// somebody changes the server's or the user's settings.
var (
	passingFaults = []string{
		"LOADING", "READONLY", "MISCONF", "OOM", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY",
		"max number of clients",
	}
	operatorFaults = []string{"NOPERM", "WRONGTYPE", "WRONGPASS", "NOAUTH"}
)

func hasAnyPrefix(err error, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return redis.HasErrorPrefix(err, prefix) })
}

// longestWait is how far attempts are spaced after err: far when only an operator can help.
func longestWait(err error) time.Duration {
	if hasAnyPrefix(err, operatorFaults) {
		return retrySlow
	}
	return retryCap
}
