package adjust

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mjdevaccount/pulseflow/event"
	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/rate"
)

func keeping(t *testing.T, path string) (*Applier, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	a, err := New([]flows.Provider{{Name: "ibkr", Rate: 60, Burst: 60, MinRate: 1}}, slog.New(slog.NewTextHandler(&log, nil)),
		WithFile(path))
	if err != nil {
		t.Fatal(err)
	}
	return a, &log
}

func TestFileKeepsLevels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rates.json")
	a, _ := keeping(t, path)
	a.Start()
	now := time.Now()
	mustApply(t, a, "a", event.LevelHard, now)
	mustApply(t, a, "b", event.LevelSoft, now)
	mustApply(t, a, "c", event.LevelHard, now)
	if _, err := a.Forget("ibkr", "c"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file, while the process runs", func() bool { _, err := os.Stat(path); return err == nil })
	want := known(t, a)
	// Killed here: what follows is another life.
	b, log := keeping(t, path)
	if diff := cmp.Diff(want, known(t, b)); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}
	if !strings.Contains(log.String(), "rate levels restored") {
		t.Errorf("log: %s", log)
	}
	mustApply(t, b, "c", event.LevelHard, now)
	if diff := cmp.Diff(want, known(t, b)); diff != "" {
		t.Errorf("a repeated event of a forgotten coordinator (-want +got):\n%s", diff)
	}
	mustApply(t, a, "a", event.LevelOK, now.Add(time.Second))
	if err := a.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	c, _ := keeping(t, path)
	if l := levelOf(t, c); l != event.LevelSoft {
		t.Errorf("%v, want the level at the end", l)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFileThatCannotBeRead(t *testing.T) {
	whole := `{"version": 1, "providers": {"ibkr": {"a": "2026112418075347900000020"}, "other": {"a": "2026112418075347900000020"}}}`
	for name, tt := range map[string]struct {
		content string
		warning string
		level   event.Level
	}{
		"whole":         {whole, "", event.LevelHard},
		"cut off":       {whole[:40], "not restored", event.LevelOK},
		"empty":         {"", "not restored", event.LevelOK},
		"not JSON":      {"\x00\x01", "not restored", event.LevelOK},
		"something on":  {whole + "{}", "something follows", event.LevelOK},
		"later version": {`{"version": 2}`, "version 2", event.LevelOK},
		"a bad record":  {strings.Replace(whole, `{"a"`, `{"b": "soon", "a"`, 1), "left out", event.LevelHard},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "rates.json")
			if err := os.WriteFile(path, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			a, log := keeping(t, path)
			if l := levelOf(t, a); l != tt.level {
				t.Errorf("level %v, want %v", l, tt.level)
			}
			if warned := strings.Contains(log.String(), "level=WARN"); warned != (tt.warning != "") || !strings.Contains(log.String(), tt.warning) {
				t.Errorf("log %s, want %q", log, tt.warning)
			}
		})
	}
}

func TestFileThatCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "rates.json")
	a, _ := keeping(t, path)
	a.Start()
	mustApply(t, a, "a", event.LevelHard, time.Now())
	eventually(t, "a fault", func() bool { reason, _ := a.Fault(); return strings.Contains(reason, "not kept") })
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file once it can be written", func() bool { reason, _ := a.Fault(); return reason == "" })
	b, _ := keeping(t, path)
	if l := levelOf(t, b); l != event.LevelHard {
		t.Errorf("level %v", l)
	}
	if err := a.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// A pipe is neither waited for nor replaced.
func TestFileThatIsAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rates.json")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	released := time.AfterFunc(10*time.Second, func() {
		t.Error("somebody waits for the pipe")
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			_ = f.Close()
		}
	})
	defer released.Stop()
	a, log := keeping(t, path)
	if !strings.Contains(log.String(), "not a regular file") {
		t.Errorf("log %s", log)
	}
	a.Start()
	mustApply(t, a, "a", event.LevelHard, time.Now())
	eventually(t, "a fault", func() bool { reason, _ := a.Fault(); return strings.Contains(reason, "not a regular file") })
	if err := a.Close(context.Background()); err == nil {
		t.Error("the levels were not kept, and closing did not say so")
	}
	if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		t.Errorf("the pipe is gone: %v, %v", info, err)
	}
}

// The order of registers is that of the records, and each is read as it was written.
func TestRegistersOrderAsRecords(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func() rate.Record {
		seconds := []float64{-62135596799, -1, 0, 1e9, 1.79e9, 253402300799}[rnd.IntN(6)]
		return rate.Record{
			Coordinator: "a", Level: rate.Level(rnd.IntN(3)), Gone: rnd.IntN(2) == 0,
			Time: event.At(seconds).Add(time.Duration(rnd.IntN(3))),
		}
	}
	value := func(r rate.Record) int {
		n := 2 * int(r.Level)
		if r.Gone {
			n++
		}
		return n
	}
	for range 10_000 {
		a, b := random(), random()
		x, y := registerOf(a), registerOf(b)
		want := a.Time.Compare(b.Time)
		if want == 0 {
			want = min(1, max(-1, value(a)-value(b)))
		}
		if got := strings.Compare(x, y); got != want {
			t.Fatalf("%+v is %s, %+v is %s: %d, want %d", a, x, b, y, got, want)
		}
		if back, ok := recordOf("a", x); !ok || !cmp.Equal(a, back) {
			t.Fatalf("%+v is read as %+v, %v", a, back, ok)
		}
	}
}

// Whatever a file holds, reading it does no harm, and what is read is written as it
// was read.
func FuzzKeptFile(f *testing.F) {
	f.Add([]byte(`{"version": 1, "providers": {"ibkr": {"a": "2026112418075347900000020", "b": "2026112418075347900000011"}}}`))
	f.Add([]byte(`{"version": 1, "providers": {"ibkr": null, "x": {"": "99991231235959999999999"}}}`))
	f.Add([]byte(`{"version": 2}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		levels, _, err := decodeKept(data)
		if err != nil {
			return
		}
		c, err := rate.NewCoordinator(rate.Config{Providers: []rate.ProviderConfig{{Name: "p", Rate: 1}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, records := range levels {
			if _, err := c.Merge("p", records); err != nil {
				t.Fatal(err)
			}
		}
		again, err := encodeKept(levels)
		if err != nil {
			t.Fatal(err)
		}
		back, bad, err := decodeKept(again)
		if err != nil || bad != 0 || len(back) != len(levels) {
			t.Fatalf("%s: %d bad, %v", again, bad, err)
		}
		for provider, records := range levels {
			if len(back[provider]) != len(records) {
				t.Fatalf("%q: %d of %d records", provider, len(back[provider]), len(records))
			}
		}
	})
}
