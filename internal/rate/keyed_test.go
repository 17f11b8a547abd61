package rate

import (
	"testing"
	"time"
)

func TestKeyed(t *testing.T) {
	at := time.Unix(0, 0)
	k, err := NewKeyed(10, 2, 2, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []time.Duration{0, 0, 100 * time.Millisecond, 100 * time.Millisecond} {
		if got := k.Take("a"); got != want {
			t.Errorf("take %d: %s, want %s", i, got, want)
		}
	}
	if got := k.Take("b"); got != 0 {
		t.Errorf("another key waits %s", got)
	}
	at = at.Add(50 * time.Millisecond)
	if got := k.Take("a"); got != 50*time.Millisecond {
		t.Errorf("half way: %s", got)
	}
	at = at.Add(50 * time.Millisecond)
	if got := k.Take("a"); got != 0 {
		t.Errorf("after the wait: %s", got)
	}
	if k.Take("c"); k.Len() != 2 { // forgets b
		t.Errorf("%d keys remembered, want 2", k.Len())
	}
	if got := k.Take("a"); got == 0 {
		t.Error("the key seen before the last was forgotten")
	}
}

// Over any time no key gets more than its burst and what the rate brings.
func TestKeyedNeverGrantsMore(t *testing.T) {
	at := time.Unix(0, 0)
	k, err := NewKeyed(7, 3, 10, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	granted := 0
	for i := range 10_000 {
		at = at.Add(time.Duration(i%13) * time.Millisecond)
		if k.Take("a") == 0 {
			granted++
		}
		if most := 3 + 7*at.Sub(time.Unix(0, 0)).Seconds(); float64(granted) > most {
			t.Fatalf("%d granted after %s, at most %g", granted, at.Sub(time.Unix(0, 0)), most)
		}
	}
	if least := 7 * at.Sub(time.Unix(0, 0)).Seconds() * 0.9; float64(granted) < least {
		t.Errorf("%d granted, want at least %g", granted, least)
	}
}

func TestKeyedRefusesWhatIsOutOfRange(t *testing.T) {
	for _, tt := range []struct {
		rate, burst float64
		keys        int
	}{{0, 1, 1}, {-1, 1, 1}, {1, 0, 1}, {1, 1, 0}, {1e30, 1, 1}} {
		if _, err := NewKeyed(tt.rate, tt.burst, tt.keys, nil); err == nil {
			t.Errorf("%+v was taken", tt)
		}
	}
}
