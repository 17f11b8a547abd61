package watch

import (
	"context"
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
	// maxLinks bounds the links that are followed from one path.
	maxLinks = 16
)

// Files watches files for other content.
type Files struct {
	log     *slog.Logger
	events  *fsnotify.Watcher
	follow  chan []File
	folders map[string]bool   // those that are watched
	seen    map[string]string // digests by path
	digest  Digest
}

// Digest tells one content from another. It is never "".
type Digest func(io.Reader) (string, error)

// File is a file, and what whoever watches it has read there.
type File struct {
	Path string
	// Digest is that of what was read; "" when it could not be read.
	Digest string
}

// New begins to watch files, which need not exist, and whose digests are those of digest.
// Run has to be called to be told, and ends it. The error is that of the operating
// system, whose limits on watching are low on some.
func New(files []File, digest Digest, log *slog.Logger) (*Files, error) {
	events, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	f := &Files{
		log: log, events: events, follow: make(chan []File, 1), folders: make(map[string]bool), digest: digest,
	}
	f.set(files)
	return f, nil
}

// Follow makes the watched files these. It does not wait, and is not to be called twice
// at once.
func (f *Files) Follow(files []File) {
	select {
	case <-f.follow: // not taken notice of yet
	default:
	}
	f.follow <- slices.Clone(files)
}

// Close ends what was never run. It may be called in any case.
func (f *Files) Close() error { return f.events.Close() }

// Run calls changed whenever a file has another content than was read there or was told
// last, is there again or is gone, until ctx ends.
func (f *Files) Run(ctx context.Context, changed func()) {
	defer f.events.Close()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	settle := time.NewTimer(quiet) // what was read may have changed since
	defer settle.Stop()
	var first time.Time // of the events that were not looked at yet
	var gone time.Time  // when a file was first missed
	for {
		select {
		case <-ctx.Done():
			return
		case files := <-f.follow:
			f.set(files)
			settle.Reset(quiet)
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
		now := f.read()
		if f.misses(now) {
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
func (f *Files) misses(now map[string]string) bool {
	for path, digest := range now {
		if digest == "" && f.seen[path] != "" {
			return true
		}
	}
	return false
}

func (f *Files) set(files []File) {
	f.seen = make(map[string]string, len(files))
	for _, file := range files {
		f.seen[file.Path] = file.Digest
	}
	f.watchFolders()
}

// read looks at the files.
func (f *Files) read() map[string]string {
	now := make(map[string]string, len(f.seen))
	for path := range f.seen {
		now[path] = f.digestOf(path)
	}
	return now
}

// digestOf is "" for what cannot be read, and for what can be read only once and may wait
// for a writer for ever, such as a named pipe.
func (f *Files) digestOf(path string) string {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	digest, err := f.digest(file)
	if err != nil {
		return ""
	}
	return digest
}

// watchFolders watches the folders in which something may happen to the files: that of
// each path, and those of all that links lead to.
func (f *Files) watchFolders() {
	want := make(map[string]bool)
	for path := range f.seen {
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
