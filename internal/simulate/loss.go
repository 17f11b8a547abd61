package simulate

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
)

// Loss says which event never arrives. Those like it that follow within
// Config.LoseFor do not either.
type Loss struct {
	// Level is that of the event, and Any stands for all three.
	Level event.Level
	Any   bool
	// Nth counts the events it can be, from 1.
	Nth int
	// From leaves out the events before it.
	From time.Duration
}

// ParseLoss reads LEVEL, for the first event of a level, N, for the N-th of all,
// LEVEL:N, or one of these with @TIME, from which on it counts.
func ParseLoss(text string) (Loss, error) {
	l := Loss{Nth: 1}
	what, from, timed := strings.Cut(text, "@")
	if timed {
		d, err := time.ParseDuration(from)
		if err != nil || d < 0 {
			return Loss{}, fmt.Errorf("%q: after @ comes a time with a unit, such as 90s", text)
		}
		l.From = d
	}
	name, nth, counted := strings.Cut(what, ":")
	if level, ok := levelOf(name); ok {
		l.Level = level
		if !counted {
			return l, nil
		}
	} else if counted {
		return Loss{}, fmt.Errorf("%q: %q is not ok, soft or hard", text, name)
	} else {
		l.Any, nth = true, what
	}
	n, err := strconv.Atoi(nth)
	if err != nil || n < 1 {
		return Loss{}, fmt.Errorf("%q: must be ok, soft or hard, the number of an event, or LEVEL:NUMBER, "+
			"each with @TIME or without", text)
	}
	l.Nth = n
	return l, nil
}

func levelOf(name string) (event.Level, bool) {
	for _, l := range levels() {
		if l.String() == name {
			return l, true
		}
	}
	return 0, false
}

func levels() [3]event.Level {
	return [...]event.Level{event.LevelOK, event.LevelSoft, event.LevelHard}
}

// loss counts the events that a Loss can be.
type loss struct {
	Loss
	seen  int
	since time.Duration // of the one that was lost, once seen has come to it
}

// takes reports whether an event is lost.
func (l *loss) takes(level event.Level, at, lasts time.Duration) bool {
	if at < l.From || !l.Any && level != l.Level {
		return false
	}
	l.seen++
	if l.seen == l.Nth {
		l.since = at
	}
	return l.seen == l.Nth || l.seen > l.Nth && at-l.since < lasts
}
