package adjust

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/rate"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
	"github.com/mjdevaccount/pulseflow/stages"
)

// A provider that a new file declares has the levels that others share about it, before
// anything is granted.
func TestConfigureSharesNewProviders(t *testing.T) {
	server := redistest.Start(t)
	first := started(t, server.URL(), flows.Provider{Rate: 60, Burst: 60})
	mustApply(t, first, "bars", event.LevelHard, time.Now())
	mustCommit(t, first)

	second := started(t, server.URL(), flows.Provider{Rate: 60, Burst: 60})
	ctx := context.Background()
	if err := second.Configure(ctx, []flows.Provider{{Name: "polygon", Rate: 5, Burst: 5}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := second.State("ibkr"); !errors.Is(err, rate.ErrUnknownProvider) {
		t.Errorf("a provider that is gone: %v", err)
	}
	both := []flows.Provider{{Name: "ibkr", Rate: 60, Burst: 60}, {Name: "polygon", Rate: 5, Burst: 5}}
	if err := second.Configure(ctx, both, nil); err != nil {
		t.Fatal(err)
	}
	if l := levelOf(t, second); l != event.LevelHard {
		t.Errorf("level %v right after, want the shared one", l)
	}
	// It goes on following, and telling.
	mustApply(t, first, "bars", event.LevelOK, time.Now().Add(time.Second))
	mustCommit(t, first)
	eventually(t, "the level to be followed", func() bool { return levelOf(t, second) == event.LevelOK })
	mustApply(t, second, "quotes", event.LevelSoft, time.Now())
	mustCommit(t, second)
	eventually(t, "the level to be told", func() bool { return slices.Contains(known(t, first), known(t, second)[0]) })
	if reason, _ := second.Fault(); reason != "" {
		t.Error(reason)
	}
}

// A policy that is the same in the new file does not outrank what events have brought.
func TestConfigureAnnouncesAndKeepsPolicies(t *testing.T) {
	a, _ := keeping(t, filepath.Join(t.TempDir(), "rates.json"))
	provider := []flows.Provider{{Name: "ibkr", Rate: 60, Burst: 60, MinRate: 1}}
	told := 0
	end := a.Follow(func(string) error { told++; return nil })
	mustApply(t, a, "bars", event.LevelSoft, time.Now())
	policies := map[string]stages.Policy{"ibkr": {OK: 1, Soft: 0.25, Hard: 0}}
	for range 2 {
		if err := a.Configure(context.Background(), provider, policies); err != nil {
			t.Fatal(err)
		}
		if s, err := a.State("ibkr"); err != nil || s.Scale != 0.25 {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if err := a.Announce(); err != nil || told != 1 {
		t.Errorf("told %d times, %v", told, err)
	}
	end()
	if err := a.Announce(); err != nil || told != 1 {
		t.Errorf("told %d times after the end, %v", told, err)
	}
	if err := a.Configure(context.Background(), []flows.Provider{{Name: "ibkr", Rate: -1}}, nil); err == nil {
		t.Error("a negative rate was accepted")
	}
	a.Start()
	if err := a.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}
