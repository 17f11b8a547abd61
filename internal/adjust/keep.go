package adjust

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/rate"
)

const (
	// keepEvery is how often the file is written at most.
	keepEvery = 500 * time.Millisecond
	// maxKept bounds what is read of a file, in bytes.
	maxKept = 64 << 20
	// keptVersion is the form of the file.
	keptVersion = 1
)

// keep keeps a coordinator's levels in a file: read at the start, and written some
// time after a change and at the end. The file is replaced as a whole, so that it is
// never half written.
type keep struct {
	coordinator *rate.Coordinator
	path        string
	log         *slog.Logger

	stop chan struct{}
	done sync.WaitGroup

	mu        sync.Mutex
	providers []string
	fault     error // of the last attempt to write
}

// keptFile is the file: registers by coordinator, by provider.
type keptFile struct {
	Version   int                          `json:"version"`
	Providers map[string]map[string]string `json:"providers"`
}

func newKeep(c *rate.Coordinator, providers []string, path string, log *slog.Logger) *keep {
	k := &keep{coordinator: c, providers: providers, path: path, log: log, stop: make(chan struct{})}
	k.restore()
	c.Journal()
	return k
}

// restore takes in the file. One that is not there is no fault, and one that cannot
// be read does not stop the service: levels come anew with the events.
func (k *keep) restore() {
	levels, bad, err := k.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		k.log.Warn("rate levels not restored: providers start as if none was under pressure", "file", k.path, "err", err)
		return
	case bad > 0:
		k.log.Warn("kept rate levels that cannot be read are left out", "file", k.path, "count", bad)
	}
	restored := 0
	for provider, records := range levels {
		if !slices.Contains(k.providers, provider) {
			continue // one that is declared no more
		}
		restored += len(records)
		if _, err := k.coordinator.Merge(provider, records); err != nil {
			k.log.Warn("rate levels not restored", "file", k.path, "provider", provider, "err", err)
		}
	}
	k.log.Info("rate levels restored", "file", k.path, "coordinators", restored)
}

func (k *keep) read() (levels map[string][]rate.Record, bad int, err error) {
	if err := regular(k.path); err != nil {
		return nil, 0, err
	}
	f, err := os.Open(k.path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKept+1))
	if err != nil {
		return nil, 0, err
	}
	if len(data) > maxKept {
		return nil, 0, fmt.Errorf("larger than %d MiB", maxKept>>20)
	}
	return decodeKept(data)
}

// regular refuses what is there and is no regular file: reading a pipe may wait for ever,
// and a device is nothing to replace.
func regular(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	return nil
}

// decodeKept reads the content of a file. bad counts the records that are none.
func decodeKept(data []byte) (levels map[string][]rate.Record, bad int, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	var file keptFile
	if err := d.Decode(&file); err != nil {
		return nil, 0, fmt.Errorf("not a file of rate levels: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, 0, errors.New("not a file of rate levels: something follows")
	}
	if file.Version != keptVersion {
		return nil, 0, fmt.Errorf("version %d of the file is not %d, the only one that this build reads", file.Version, keptVersion)
	}
	levels = make(map[string][]rate.Record, len(file.Providers))
	for provider, registers := range file.Providers {
		records, n := recordsOf(registers)
		levels[provider] = records
		bad += n
	}
	return levels, bad, nil
}

// encodeKept spells the content of a file.
func encodeKept(levels map[string][]rate.Record) ([]byte, error) {
	file := keptFile{Version: keptVersion, Providers: make(map[string]map[string]string, len(levels))}
	for provider, records := range levels {
		registers := make(map[string]string, len(records))
		for _, r := range records {
			registers[strings.ToValidUTF8(r.Coordinator, "\ufffd")] = registerOf(r)
		}
		file.Providers[provider] = registers
	}
	data, err := json.MarshalIndent(file, "", " ")
	return append(data, '\n'), err
}

// start begins to write what changes.
func (k *keep) start() { k.done.Go(k.follow) }

func (k *keep) follow() {
	ticker := time.NewTicker(keepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			k.note(k.save())
		case <-k.stop:
			return
		}
	}
}

// close writes what has changed since the last time.
func (k *keep) close() error {
	close(k.stop)
	k.done.Wait()
	return k.save()
}

func (k *keep) note(err error) {
	k.mu.Lock()
	before := k.fault
	k.fault = err
	k.mu.Unlock()
	switch {
	case err != nil && before == nil:
		k.log.Warn("rate levels not kept, will be tried until they are", "file", k.path, "err", err)
	case err == nil && before != nil:
		k.log.Info("rate levels kept again", "file", k.path)
	}
}

// status is why the levels are not kept; "" when they are.
func (k *keep) status() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fault == nil {
		return ""
	}
	return fmt.Sprintf("rate levels not kept: %v", k.fault)
}

// save writes the file when anything has changed.
func (k *keep) save() error {
	if !k.coordinator.Changed() {
		return nil
	}
	providers := k.names()
	taken := make(map[string][]rate.Record, len(providers))
	levels := make(map[string][]rate.Record, len(providers))
	for _, p := range providers {
		var err error
		if taken[p], err = k.coordinator.Changes(p, -1); err != nil {
			continue // declared no more
		}
		if levels[p], err = k.coordinator.Records(p); err != nil {
			return err
		}
	}
	data, err := encodeKept(levels)
	if there := regular(k.path); there != nil && !errors.Is(there, fs.ErrNotExist) {
		err = firstOf(err, there)
	}
	if err == nil {
		err = replaceFile(k.path, data)
	}
	if err == nil {
		return nil
	}
	for p, records := range taken {
		err = firstOf(err, k.coordinator.PutBack(p, records))
	}
	return err
}

// replaceFile writes a file that is there as a whole or as it was.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = firstOf(err, f.Sync())
	err = firstOf(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
