package event

import "testing"

func TestLevel(t *testing.T) {
	for level, name := range map[Level]string{LevelOK: "ok", LevelSoft: "soft", LevelHard: "hard"} {
		if level.String() != name {
			t.Errorf("got %q, want %q", level, name)
		}
		if got, ok := ParseLevel(name); !ok || got != level {
			t.Errorf("%s: got %v, %v", name, got, ok)
		}
	}
	if LevelHard <= LevelSoft || LevelSoft <= LevelOK {
		t.Error("a worse level must be greater")
	}
	if got := Level(3).String(); got != "unknown" {
		t.Errorf("got %q for no level", got)
	}
	for _, name := range []string{"", "OK", "unknown", "ok "} {
		if got, ok := ParseLevel(name); ok {
			t.Errorf("%q: got %v", name, got)
		}
	}
}
