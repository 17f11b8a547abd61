package watch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mjdevaccount/pulseflow/flows"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline bounds every wait for something that must happen.
const deadline = 20 * time.Second

// watched is a Files that runs over one folder.
type watched struct {
	t     *testing.T
	dir   string
	files *Files
	told  atomic.Int64
}

func run(t *testing.T, dir string, names ...string) *watched {
	t.Helper()
	paths := make([]string, len(names))
	for i, n := range names {
		paths[i] = filepath.Join(dir, n)
	}
	files, err := New(asTheyAre(paths...), flows.Digest, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return runFiles(t, dir, files)
}

func runFiles(t *testing.T, dir string, files *Files) *watched {
	w := &watched{t: t, dir: dir, files: files}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.files.Run(ctx, func() { w.told.Add(1) })
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// asTheyAre are files that have just been read.
func asTheyAre(paths ...string) []File {
	files := make([]File, len(paths))
	for i, path := range paths {
		files[i] = File{Path: path, Digest: (&Files{digest: flows.Digest}).digestOf(path)}
	}
	return files
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// expect waits until it was told n times, and sees that it is not told again.
func (w *watched) expect(n int64) {
	w.t.Helper()
	for end := time.Now().Add(deadline); w.told.Load() < n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("told %d times, want %d", w.told.Load(), n)
		}
	}
	time.Sleep(2 * quiet)
	if got := w.told.Load(); got != n {
		w.t.Fatalf("told %d times, want %d", got, n)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreTold(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "1")
	w := run(t, dir, "a", "b")
	// Nothing of it: another file, and the same content again.
	write(t, w.path("c"), "1")
	write(t, w.path("a"), "1")
	w.expect(0)
	write(t, w.path("a"), "2")
	w.expect(1)
	// An editor: a new file in the place of the old one.
	write(t, w.path("a~"), "3")
	must(t, os.Rename(w.path("a~"), w.path("a")))
	w.expect(2)
	// Another one: the old one aside first, and the new one soon.
	must(t, os.Rename(w.path("a"), w.path("a.bak")))
	time.Sleep(2 * quiet)
	write(t, w.path("a"), "4")
	w.expect(3)
	// A file that was not there.
	write(t, w.path("b"), "1")
	w.expect(4)
	// Gone for good, and back.
	must(t, os.Remove(w.path("a")))
	w.expect(5)
	write(t, w.path("a"), "5")
	w.expect(6)
}

// What comes in quick succession is told once.
func TestEditsAreToldTogether(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "1")
	w := run(t, dir, "a")
	for _, text := range []string{"", "2", "23", "234"} {
		write(t, w.path("a"), text)
	}
	w.expect(1)
}

// A ConfigMap is a folder behind a link, which is switched as a whole.
func TestLinksAreFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, version := range []string{"..1", "..2", "..3"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, filepath.Join(dir, version, "a"), version)
	}
	must(t, os.Symlink("..1", filepath.Join(dir, "..data")))
	must(t, os.Symlink(filepath.Join("..data", "a"), filepath.Join(dir, "a")))
	w := run(t, dir, "a")
	for i, version := range []string{"..2", "..3"} {
		must(t, os.Symlink(version, w.path("..data_tmp")))
		must(t, os.Rename(w.path("..data_tmp"), w.path("..data")))
		w.expect(int64(i) + 1)
	}
	must(t, os.RemoveAll(w.path("..1")))
	// In the folder that the link leads to by now.
	write(t, w.path("..3/a"), "edited")
	w.expect(3)
}

// A link on the way to the file's folder is switched.
func TestFoldersBehindLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, release := range []string{"one", "two"} {
		must(t, os.Mkdir(filepath.Join(dir, release), 0o700))
		write(t, filepath.Join(dir, release, "a"), release)
	}
	must(t, os.Symlink("one", filepath.Join(dir, "current")))
	w := run(t, dir, "current/a")
	must(t, os.Symlink("two", w.path("next")))
	must(t, os.Rename(w.path("next"), w.path("current")))
	w.expect(1)
}

func TestFollowOtherFiles(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "a"), "1")
	write(t, filepath.Join(other, "b"), "1")
	w := run(t, dir, "a")
	w.files.Follow(asTheyAre(w.path("a"), filepath.Join(other, "b")))
	w.expect(0)
	write(t, filepath.Join(other, "b"), "2")
	w.expect(1)
	w.files.Follow(asTheyAre(w.path("a")))
	w.expect(1)
	write(t, filepath.Join(other, "b"), "3")
	w.expect(1)
	write(t, w.path("a"), "2")
	w.expect(2)
}

// What is written between reading a file and watching it is told too.
func TestAnEditBeforeWatching(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "1")
	read := asTheyAre(a)
	write(t, a, "2")
	files, err := New(read, flows.Digest, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w := runFiles(t, dir, files)
	w.expect(1)
	write(t, b, "1")
	read = asTheyAre(a, b)
	write(t, b, "2")
	files.Follow(read)
	w.expect(2)
	// Too large to be used, and no reason to tell of it again and again.
	write(t, b, strings.Repeat("x", 3<<20))
	w.expect(3)
	files.Follow(asTheyAre(a, b))
	w.expect(3)
}

// A file in whose place something else has come is one that is gone, and waits for nobody.
func TestNoFileAnyMore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "1")
	w := run(t, dir, "a")
	must(t, os.Remove(w.path("a")))
	must(t, syscall.Mkfifo(w.path("a"), 0o600))
	w.expect(1)
	must(t, os.Remove(w.path("a")))
	must(t, os.Mkdir(w.path("a"), 0o700))
	w.expect(1)
	must(t, os.Remove(w.path("a")))
	write(t, w.path("a"), "2")
	w.expect(2)
}
