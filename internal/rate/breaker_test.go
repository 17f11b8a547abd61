package rate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustRecord(t testing.TB, c *Coordinator, successes ...bool) {
	t.Helper()
	for _, success := range successes {
		record := c.RecordFailure
		if success {
			record = c.RecordSuccess
		}
		if err := record("p"); err != nil {
			t.Fatal(err)
		}
	}
}

// wantRefused tests that both kinds of call are refused.
func wantRefused(t testing.TB, c *Coordinator, reason error, retryAfter time.Duration) {
	t.Helper()
	ok, after, err := c.TryAcquire("p", 1)
	if ok || after != retryAfter || !errors.Is(err, reason) {
		t.Errorf("try: %v, %v, %v, want refused with %v for %v", ok, after, err, reason, retryAfter)
	}
	err = c.Acquire(t.Context(), "p", 1)
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || !errors.Is(err, reason) || refused.RetryAfter != retryAfter || refused.Provider != "p" {
		t.Errorf("acquire: %v, want refused with %v for %v", err, reason, retryAfter)
	}
}

func wantGranted(t testing.TB, c *Coordinator) {
	t.Helper()
	if ok, _, err := c.TryAcquire("p", 1); !ok || err != nil {
		t.Errorf("try: %v, %v", ok, err)
	}
}

func TestBreaker(t *testing.T) {
	const failure, success = false, true
	type step struct {
		pass    time.Duration
		record  []bool
		acquire int // so many are granted, then
		refused time.Duration
		want    BreakerStatus
	}
	open := BreakerStatus{State: BreakerOpen, RetryAfter: time.Minute}
	tests := []struct {
		name   string
		config Breaker
		steps  []step
	}{
		{"none", Breaker{}, []step{{record: make([]bool, 100), acquire: 1}}},
		{"failures in a row open it", Breaker{Threshold: 3}, []step{
			{record: []bool{failure, failure}, acquire: 1, want: BreakerStatus{Failures: 2}},
			{record: []bool{success}},
			{record: []bool{failure, failure}, want: BreakerStatus{Failures: 2}},
			{record: []bool{failure}, refused: time.Minute, want: open},
		}},
		{"results of calls from before do not matter", Breaker{Threshold: 1}, []step{
			{record: []bool{failure}, want: open},
			{
				pass: 59 * time.Second, record: []bool{failure, success}, refused: time.Second,
				want: BreakerStatus{State: BreakerOpen, RetryAfter: time.Second},
			},
		}},
		{"a success closes it", Breaker{Threshold: 2, OpenFor: time.Second}, []step{
			{record: []bool{failure, failure}, want: BreakerStatus{State: BreakerOpen, RetryAfter: time.Second}},
			{pass: time.Second - 1, refused: 1, want: BreakerStatus{State: BreakerOpen, RetryAfter: 1}},
			{pass: 1, want: BreakerStatus{State: BreakerHalfOpen}},
			{acquire: 1, refused: time.Second, want: BreakerStatus{State: BreakerHalfOpen, RetryAfter: time.Second}},
			{record: []bool{success}, acquire: 3},
			{record: []bool{failure}, acquire: 1, want: BreakerStatus{Failures: 1}},
		}},
		{"a failure opens it again", Breaker{Threshold: 2, HalfOpen: 3}, []step{
			{record: []bool{failure, failure}, want: open},
			{
				pass: time.Minute, acquire: 3, refused: time.Minute,
				want: BreakerStatus{State: BreakerHalfOpen, RetryAfter: time.Minute},
			},
			{pass: time.Second, record: []bool{failure}, refused: time.Minute, want: open},
			{pass: time.Minute, acquire: 1, want: BreakerStatus{State: BreakerHalfOpen}},
		}},
		{"calls that never say how it went", Breaker{Threshold: 1, HalfOpen: 2}, []step{
			{record: []bool{failure}, want: open},
			{
				pass: time.Hour, acquire: 2, refused: time.Minute,
				want: BreakerStatus{State: BreakerHalfOpen, RetryAfter: time.Minute},
			},
			{
				pass: time.Minute, acquire: 2, refused: time.Minute,
				want: BreakerStatus{State: BreakerHalfOpen, RetryAfter: time.Minute},
			},
		}},
		{"open for as long as can be", Breaker{Threshold: 1, OpenFor: Never}, []step{
			{
				pass: time.Hour, record: []bool{failure}, refused: maxAlarm,
				want: BreakerStatus{State: BreakerOpen, RetryAfter: maxAlarm},
			},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clock := newStillClock()
			c := newTestCoordinator(t, clock, ProviderConfig{Rate: 60, Breaker: tt.config})
			for i, s := range tt.steps {
				clock.move(s.pass)
				mustRecord(t, c, s.record...)
				for range s.acquire {
					wantGranted(t, c)
				}
				if s.refused > 0 {
					wantRefused(t, c, ErrBreakerOpen, s.refused)
				}
				if diff := cmp.Diff(s.want, mustState(t, c).Breaker); diff != "" {
					t.Errorf("step %d (-want +got):\n%s", i, diff)
				}
			}
		})
	}
}

// Nobody waits for a provider that is not to be called.
func TestWaitersAreTurnedAway(t *testing.T) {
	tests := []struct {
		name   string
		begin  func(t *testing.T, c *Coordinator)
		reason error
		text   string
	}{
		{
			"breaker", func(t *testing.T, c *Coordinator) { mustRecord(t, c, false) }, ErrBreakerOpen,
			`acquire from provider "p": circuit breaker open: retry after 1m0s`,
		},
		{
			"cooldown", func(t *testing.T, c *Coordinator) { mustCool(t, c, GlobalScope, time.Hour) }, ErrCooldown,
			`acquire from provider "p": in cooldown: retry after 1h0m0s`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const waiters = 100
				c := newTestCoordinator(t, nil, ProviderConfig{Rate: 1, Burst: 1, Breaker: Breaker{Threshold: 1}})
				mustApply(t, c, "a", Hard, time.Now())
				start := time.Now()
				var wg sync.WaitGroup
				for range waiters {
					wg.Go(func() {
						err := c.Acquire(t.Context(), "p", 1)
						if !errors.Is(err, tt.reason) || err.Error() != tt.text {
							t.Errorf("got %v, want %s", err, tt.text)
						}
					})
				}
				synctest.Wait()
				tt.begin(t, c)
				wg.Wait()
				if passed := time.Since(start); passed > 0 {
					t.Errorf("they waited %v", passed)
				}
				s := mustState(t, c)
				if s.Waiters != 0 || s.Denied != waiters || s.Granted != 0 {
					t.Errorf("%d wait, %d denied, %d granted", s.Waiters, s.Denied, s.Granted)
				}
			})
		})
	}
}

// A call that is let through to try the provider and gives up before it has its
// token leaves its place to another.
func TestProbeThatGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCoordinator(t, nil, ProviderConfig{Rate: 1, Burst: 1, Breaker: Breaker{Threshold: 1}})
		mustRecord(t, c, false)
		mustApply(t, c, "a", Hard, time.Now())
		time.Sleep(DefaultOpenFor)
		if ok, after, err := c.TryAcquire("p", 1); ok || after != Never || err != nil {
			t.Errorf("try during the pause: %v, %v, %v", ok, after, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		probe := make(chan error, 1)
		go func() { probe <- c.Acquire(ctx, "p", 1) }()
		synctest.Wait()
		wantRefused(t, c, ErrBreakerOpen, DefaultOpenFor)
		cancel()
		if err := <-probe; !errors.Is(err, context.Canceled) {
			t.Errorf("probe: %v", err)
		}
		go func() { probe <- c.Acquire(t.Context(), "p", 1) }()
		synctest.Wait()
		if s := mustState(t, c); s.Waiters != 1 {
			t.Errorf("%d wait", s.Waiters)
		}
		mustApply(t, c, "a", OK, time.Now())
		if err := <-probe; err != nil {
			t.Errorf("second probe: %v", err)
		}
	})
}

// Every waiter gets an answer, whatever opens, closes, cools down and is
// cancelled at once.
func TestNoWaiterIsLeftBehind(t *testing.T) {
	for range 300 {
		synctest.Test(t, func(t *testing.T) {
			c := newTestCoordinator(t, nil, ProviderConfig{
				Rate: 1000, Burst: 3, MinRate: 1, RampUp: time.Second, Breaker: Breaker{Threshold: 2, OpenFor: 5 * time.Millisecond},
			})
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for k := range 10 {
						ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+k)*time.Millisecond)
						err := c.Acquire(ctx, "p", 1+i%3)
						cancel()
						switch {
						case err == nil && (i+k)%3 == 0:
							mustRecord(t, c, false)
						case err == nil:
							mustRecord(t, c, true)
						case errors.Is(err, ErrBreakerOpen), errors.Is(err, ErrCooldown):
							time.Sleep(time.Millisecond)
						case !errors.Is(err, context.DeadlineExceeded):
							t.Error(err)
						}
						if i == 0 {
							mustApply(t, c, "a", Level(k%levels), time.Now())
						}
						if i == 1 && k%4 == 0 {
							mustCool(t, c, GlobalScope, time.Millisecond)
						}
					}
				})
			}
			wg.Wait()
			if s := mustState(t, c); s.Waiters != 0 {
				t.Errorf("%d still wait", s.Waiters)
			}
		})
	}
}

func TestBreakerStateString(t *testing.T) {
	for s, want := range map[BreakerState]string{
		BreakerClosed: "closed", BreakerOpen: "open", BreakerHalfOpen: "half_open", 7: "breaker(7)",
	} {
		if got := s.String(); got != want {
			t.Errorf("%d: %q, want %q", uint8(s), got, want)
		}
	}
}
