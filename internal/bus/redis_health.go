package bus

import (
	"errors"
	"log/slog"
	"sync"
)

// part is one of those that work for a subscription, in the order in which their faults matter.
type part uint8

const (
	partReader part = iota
	partAcks
	partKeeper
	parts
)

// health is whether a subscription works: whether all of its parts do. It logs one line when that stops, and one when
// all work again, however many attempts are made between.
type health struct {
	log *slog.Logger

	mu     sync.Mutex
	faults [parts]error // nil = works
}

func newHealth(log *slog.Logger) *health {
	h := &health{log: log}
	h.faults[partReader] = errNotAttached
	return h
}

// set notes that a part works, when err is nil, or why it does not.
func (h *health) set(p part, err error) {
	h.mu.Lock()
	before := h.first()
	h.faults[p] = err
	after := h.first()
	h.mu.Unlock()
	switch {
	case before != nil && after == nil:
		h.log.Info("redis stream attached")
	case after != nil && !errors.Is(after, errNotAttached) && (before == nil || errors.Is(before, errNotAttached)):
		h.log.Warn("redis stream not available, will be tried until it is", "err", after)
	}
}

// fault returns why the subscription does not work, nil when it does.
func (h *health) fault() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.first()
}

func (h *health) first() error {
	for _, err := range h.faults {
		if err != nil {
			return err
		}
	}
	return nil
}
