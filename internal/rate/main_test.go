package rate

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// epoch is where stillClock starts.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// stillClock stands still until it is moved. Its timers never fire, so it also
// shows what holds without them.
type stillClock struct{ now time.Time }

func newStillClock() *stillClock { return &stillClock{now: epoch} }

func (c *stillClock) Now() time.Time                        { return c.now }
func (c *stillClock) AfterFunc(time.Duration, func()) Timer { return stillTimer{} }
func (c *stillClock) move(d time.Duration)                  { c.now = c.now.Add(d) }

type stillTimer struct{}

// newTestCoordinator returns a coordinator of the one provider "p".
func newTestCoordinator(t testing.TB, clock Clock, p ProviderConfig) *Coordinator {
	t.Helper()
	p.Name = "p"
	c, err := NewCoordinator(Config{Providers: []ProviderConfig{p}, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mustApply applies a level under the default policy.
func mustApply(t testing.TB, c *Coordinator, coordinator string, level Level, at time.Time) Result {
	t.Helper()
	r, err := c.Apply(Adjustment{
		Provider: "p", Coordinator: coordinator, Level: level, Policy: DefaultPolicy(), Time: at,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustState(t testing.TB, c *Coordinator) State {
	t.Helper()
	s, err := c.State("p")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (stillTimer) Reset(time.Duration) bool { return false }
func (stillTimer) Stop() bool               { return false }
