package watch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long nothing must have happened before the files are looked at, and
	// patience how long that may put it off.
	quiet    = 150 * time.Millisecond
	patience = 2 * time.Second
	// grace is how long a file may be missing before that is told: an editor may remove it
	// before it writes it anew.
	grace = time.Second
	// lookEvery is how often the files are looked at when nothing happens.
	lookEvery = 5 * time.Second
	// maxSize bounds what is read of a file, in bytes. It is more than a flow file or a
	// schema may have.
	maxSize = 4 << 20
	// maxLinks bounds the links that are followed from one path.
	maxLinks = 16
)

// Files watches files for other content.
type Files struct {
	log     *slog.Logger
	events  *fsnotify.Watcher
	follow  chan []string
	paths   []string
	folders map[string]bool // those that are watched
	seen    map[string]content
}

// content is what a file had; the zero value is that of one that cannot be read.
type content struct {
	there  bool
	digest [sha256.Size]byte
}

// New begins to watch the files at paths, which need not exist. Run has to be called to
// be told, and ends it. The error is that of the operating system, whose limits on
// watching are low on some.
func New(paths []string, log *slog.Logger) (*Files, error) {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	f := &Files{
		log: log, events: events, follow: make(chan []string, 1),
		folders: make(map[string]bool), seen: make(map[string]content),
	}
	f.setPaths(paths)
	return f, nil
}

// Follow makes the watched files those at paths. What is in new ones now is what they
// are compared with. It does not wait, and is not to be called twice at once.
func (f *Files) Follow(paths []string) {
	select {
	case <-f.follow: // not taken notice of yet
	default:
	}
	f.follow <- slices.Clone(paths)
}

// Close ends what was never run. It may be called in any case.
func (f *Files) Close() error { return f.events.Close() }

// Run calls changed whenever a file has another content than the last time, is there
// again or is gone, until ctx ends.
func (f *Files) Run(ctx context.Context, changed func()) {
	defer f.events.Close()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	settle := time.NewTimer(lookEvery)
	defer settle.Stop()
	var first time.Time // of the events that were not looked at yet
	var gone time.Time  // when a file was first missed
	for {
		select {
		case <-ctx.Done():
			return
		case paths := <-f.follow:
			f.setPaths(paths)
			continue
		case _, ok := <-f.events.Events:
			if !ok {
				return
			}
			now := time.Now()
			if first.IsZero() {
				first = now
			}
			settle.Reset(min(quiet, patience-now.Sub(first)))
			continue
		case err := <-f.events.Errors:
			f.log.Warn("file events were lost, looking at the files instead", "err", err)
		case <-settle.C:
		case <-look.C:
			if !first.IsZero() {
				continue // it will be settled soon
			}
		}
		first = time.Time{}
		f.watchFolders()
		now, missing := f.read()
		if missing && f.misses(now) {
			if gone.IsZero() {
				gone = time.Now()
			}
			if left := grace - time.Since(gone); left > 0 {
				settle.Reset(left)
				continue
			}
		}
		gone = time.Time{}
		if maps.Equal(now, f.seen) {
			continue
		}
		f.seen = now
		changed()
	}
}

// misses reports whether a file that was there is not.
func (f *Files) misses(now map[string]content) bool {
	return slices.ContainsFunc(f.paths, func(p string) bool { return f.seen[p].there && !now[p].there })
}

func (f *Files) setPaths(paths []string) {
	f.paths = slices.Clone(paths)
	f.watchFolders()
	now, _ := f.read()
	for path := range now {
		if before, known := f.seen[path]; known {
			now[path] = before
		}
	}
	f.seen = now
}

// read looks at the files and reports whether any cannot be read.
func (f *Files) read() (now map[string]content, missing bool) {
	now = make(map[string]content, len(f.paths))
	for _, path := range f.paths {
		c, err := contentOf(path)
		missing = missing || err != nil
		now[path] = c
	}
	return now, missing
}

func contentOf(path string) (content, error) {
	file, err := os.Open(path)
	if err != nil {
		return content{}, err
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.LimitReader(file, maxSize)); err != nil {
		return content{}, err
	}
	c := content{there: true}
	sum.Sum(c.digest[:0])
	return c, nil
}

// watchFolders watches the folders in which something may happen to the files: that of
// each path, and those of all that links lead to.
func (f *Files) watchFolders() {
	want := make(map[string]bool)
	for _, path := range f.paths {
		for range maxLinks {
			if folder, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
				want[folder] = true
			}
			// The folder's own path may have links in it too.
			f.linksOf(filepath.Dir(path), want)
			target, err := os.Readlink(path)
			if err != nil {
				break
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(path), target)
			}
			path = target
		}
	}
	for folder := range f.folders {
		if !want[folder] {
			if err := f.events.Remove(folder); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
				f.log.Debug("folder still watched", "folder", folder, "err", err)
			}
			delete(f.folders, folder)
		}
	}
	for folder := range want {
		// Again for one that is watched: it may be another folder of that name by now.
		if err := f.events.Add(folder); err != nil {
			if _, told := f.folders[folder]; !told {
				f.log.Warn("folder cannot be watched, looking at its files now and then", "folder", folder, "err", err)
			}
			f.folders[folder] = false
			continue
		}
		f.folders[folder] = true
	}
}

// linksOf adds the folders in which a link stands that path goes through.
func (f *Files) linksOf(path string, want map[string]bool) {
	for dir := filepath.Clean(path); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if info, err := os.Lstat(dir); err != nil || info.Mode()&os.ModeSymlink == 0 {
			continue
		}
		if folder, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
			want[folder] = true
		}
	}
}
