package rate

import (
	"math"
	"testing"
	"time"
)

func TestNames(t *testing.T) {
	tests := []struct{ got, want string }{
		{OK.String(), "ok"},
		{Soft.String(), "soft"},
		{Hard.String(), "hard"},
		{Level(7).String(), "level(7)"},
		{AggregateWorst.String(), "worst"},
		{AggregateLast.String(), "last"},
		{Aggregate(7).String(), "aggregate(7)"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestPolicyValidate(t *testing.T) {
	tests := []struct {
		name   string
		policy Policy
		want   string
	}{
		{name: "default", policy: DefaultPolicy()},
		{name: "zero", policy: Policy{}},
		{name: "upside down", policy: Policy{OK: 0, Soft: 0.5, Hard: 1}},
		{name: "above", policy: Policy{OK: 1.0000001}, want: "policy: ok: scale 1.0000001 must be in [0, 1]"},
		{name: "below", policy: Policy{Soft: -0.5}, want: "policy: soft: scale -0.5 must be in [0, 1]"},
		{name: "nan", policy: Policy{Hard: math.NaN()}, want: "policy: hard: scale NaN must be in [0, 1]"},
		{
			name: "all", policy: Policy{OK: 2, Soft: math.Inf(1), Hard: 3},
			want: "policy: ok: scale 2 must be in [0, 1]\npolicy: soft: scale +Inf must be in [0, 1]\n" +
				"policy: hard: scale 3 must be in [0, 1]",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got string
			if err := tt.policy.Validate(); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestSilenceLevel(t *testing.T) {
	const m = time.Minute
	hold, release, step := Silence{}, Silence{After: m}, Silence{After: m, Step: true}
	tests := []struct {
		name    string
		silence Silence
		level   Level
		age     time.Duration
		want    Level
		due     time.Duration // after the event; 0 for never
	}{
		{"hold", hold, Hard, 1000 * time.Hour, Hard, 0},
		{"release early", release, Hard, m - 1, Hard, m},
		{"release", release, Hard, m, OK, 0},
		{"step early", step, Hard, m - 1, Hard, m},
		{"step once", step, Hard, m, Soft, 2 * m},
		{"step twice", step, Hard, 2 * m, OK, 0},
		{"step long ago", step, Hard, 1000 * time.Hour, OK, 0},
		{"step soft", step, Soft, m, OK, 0},
		{"ok has nothing to release", step, OK, 0, OK, 0},
		{"event ahead of the clock", step, Soft, -m, Soft, m},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, due := tt.silence.level(tt.level, epoch, epoch.Add(tt.age))
			var want time.Time
			if tt.due != 0 {
				want = epoch.Add(tt.due)
			}
			if got != tt.want || !due.Equal(want) {
				t.Errorf("got %v until %v, want %v until %v", got, due, tt.want, want)
			}
		})
	}
}
