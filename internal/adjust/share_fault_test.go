package adjust

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
)

// hashes are Registers in memory, of which some keys, or all by "", fail.
type hashes struct {
	mu       sync.Mutex
	fields   map[string]map[string]string
	versions map[string]int64
	faults   map[string]error
}

func newHashes() *hashes {
	return &hashes{fields: make(map[string]map[string]string), versions: make(map[string]int64), faults: make(map[string]error)}
}

// fail makes a key fail from now on; nil mends it.
func (h *hashes) fail(key string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults[key] = err
}

func (h *hashes) fault(key string) error {
	if err := h.faults[""]; err != nil {
		return err
	}
	return h.faults[key]
}

func (h *hashes) epoch(key string) string {
	if h.versions[key] == 0 {
		return ""
	}
	return "e"
}

func (h *hashes) Check(context.Context, []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.fault("")
}

func (h *hashes) Versions(_ context.Context, keys []string) (epochs []string, versions []int64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range keys {
		if h.faults[key] != nil {
			epochs, versions = append(epochs, ""), append(versions, -1)
			continue
		}
		epochs, versions = append(epochs, h.epoch(key)), append(versions, h.versions[key])
	}
	return epochs, versions, h.fault("")
}

func (h *hashes) Read(_ context.Context, key string) (map[string]string, string, int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.fields[key]), h.epoch(key), h.versions[key], h.fault(key)
}

func (h *hashes) Raise(_ context.Context, key string, _ int, values, drop map[string]string) (
	more map[string]string, epoch string, before, after int64, err error,
) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.fault(key); err != nil {
		return nil, "", 0, 0, err
	}
	before, more = h.versions[key], make(map[string]string)
	if h.fields[key] == nil {
		h.fields[key] = make(map[string]string)
	}
	for name, value := range values {
		switch stored := h.fields[key][name]; {
		case stored < value:
			h.fields[key][name] = value
			h.versions[key] = before + 1
		case stored > value:
			more[name] = stored
		}
	}
	for name, value := range drop {
		if h.fields[key][name] == value {
			delete(h.fields[key], name)
		}
	}
	return more, h.epoch(key), before, h.versions[key], nil
}

// sharingIn returns an Applier of providers that shares their levels in h.
func sharingIn(t *testing.T, h *hashes, patience time.Duration, providers ...string) *Applier {
	t.Helper()
	var list []flows.Provider
	for _, name := range providers {
		list = append(list, flows.Provider{Name: name, Rate: 60, Burst: 60})
	}
	a, err := New(list, slog.New(slog.DiscardHandler), WithRegisters(h, func(p string) string { return p }, patience))
	if err != nil {
		t.Fatal(err)
	}
	a.Start()
	return a
}

// However long the registers were away, a level is followed within a second once they
// are back.
func TestFollowedWithinASecondOfAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHashes()
		a, b := sharingIn(t, h, time.Second, "ibkr"), sharingIn(t, h, time.Second, "ibkr")
		for outage := 100 * time.Millisecond; outage < time.Minute; outage = outage*3/2 + time.Millisecond {
			h.fail("", errors.New("away"))
			time.Sleep(outage)
			h.fail("", nil)
			for i, level := range []event.Level{event.LevelHard, event.LevelOK} {
				mustApply(t, a, "x", level, time.Now().Add(time.Duration(i)))
				mustCommit(t, a)
				time.Sleep(time.Second)
				if got := levelOf(t, b); got != level {
					t.Errorf("a second after an outage of %v: %v, want %v", outage, got, level)
				}
			}
		}
		mustClose(t, a, b)
	})
}

// What is wrong with one provider's levels is no concern of the others: theirs are
// restored, shared and followed, and their events acknowledged.
func TestAProvidersFaultIsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHashes()
		h.fail("bad", errors.New("not a hash"))
		a, b := sharingIn(t, h, time.Second, "bad", "ibkr"), sharingIn(t, h, time.Second, "bad", "ibkr")
		for i, level := range []event.Level{event.LevelHard, event.LevelOK, event.LevelSoft} {
			adj := adjustment("x", level, time.Now().Add(time.Duration(i)))
			mustApply(t, a, "x", level, time.Now().Add(time.Duration(i)))
			adj.Provider = "bad"
			if _, err := a.Apply(context.Background(), adj); err != nil {
				t.Fatal(err)
			}
			if err := a.Commit(context.Background(), "ibkr"); err != nil {
				t.Errorf("the other's fault: %v", err)
			}
			if err := a.Commit(context.Background(), "bad"); err == nil {
				t.Error("committed what is not shared")
			}
			if err := a.Commit(context.Background()); err == nil {
				t.Error("committed all")
			}
			time.Sleep(time.Second)
			if got := levelOf(t, b); got != level {
				t.Errorf("level %v followed, want %v", got, level)
			}
			if reason, _ := b.Fault(); reason == "" {
				t.Error("the fault is not told")
			}
		}
		c := sharingIn(t, h, time.Second, "bad", "ibkr")
		time.Sleep(2 * time.Second)
		if got := levelOf(t, c); got != event.LevelSoft {
			t.Errorf("restored %v", got)
		}
		h.fail("bad", nil)
		time.Sleep(time.Second)
		for _, x := range []*Applier{a, b, c} {
			if s, err := x.RateState("bad"); err != nil || s.Level != event.LevelSoft {
				t.Errorf("mended: %+v, %v", s, err)
			}
		}
		mustClose(t, a, b, c)
	})
}

func mustClose(t *testing.T, all ...*Applier) {
	t.Helper()
	for _, a := range all {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}
