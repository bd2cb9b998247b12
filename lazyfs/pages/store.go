package pages

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// DiskSpace is where the bytes of sets are counted: the block cache. Release gives back what
// Reserve took.
type DiskSpace interface {
	Reserve(n int64) error
	Release(n int64)
}

// Config configures [OpenStore].
type Config struct {
	// Dir is the directory of the store. It is made if it does not exist.
	Dir string
	// Space counts the bytes. Required.
	Space DiskSpace
	// Spared is how many bytes of sets that were never read [Store.Evict] keeps as long as it asks for
	// idle ones: they are what a start is about to need.
	Spared int64
	// Logger may be nil.
	Logger *slog.Logger
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
}

// Store keeps sets.
type Store struct {
	cfg Config

	mu       sync.Mutex // guards what follows
	entries  map[block.Digest]*entry
	bytes    int64
	rejected map[block.Digest]bool
}

// entry is a file of the store.
type entry struct {
	bytes int64     // that are counted
	used  time.Time // when it was made or last read, if there is no set
	set   *Set      // nil for a file of a process before this one that nobody has opened
}

func (e *entry) lastUse() time.Time {
	if e.set == nil {
		return e.used
	}
	return time.Unix(0, e.set.used.Load())
}

// OpenStore opens the store in a directory. Files for which there is no room are removed.
func OpenStore(cfg Config) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{cfg: cfg, entries: make(map[block.Digest]*entry), rejected: make(map[block.Digest]bool)}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of pages: %w", err)
	}
	files, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("looking for pages: %w", err)
	}
	for _, file := range files {
		if s.addRejected(file.Name()) {
			continue
		}
		if err := s.add(file); err != nil {
			cfg.Logger.Warn("an unusable file of pages is removed", "file", file.Name(), "error",
				errors.Join(err, os.Remove(filepath.Join(cfg.Dir, file.Name()))))
		}
	}
	promauto.With(cfg.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "brisk_bundle_disk_bytes", Help: "Bytes of bundles on disk, which count as part of the disk cache.",
	}, func() float64 { return float64(s.Bytes()) })
	return s, nil
}

// add counts a file of a process before this one.
func (s *Store) add(file fs.DirEntry) error {
	id, err := block.ParseDigest("sha256:" + file.Name())
	if err != nil {
		return err
	}
	info, err := file.Info()
	if err != nil {
		return err
	}
	if err := s.cfg.Space.Reserve(info.Size()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[id] = &entry{bytes: info.Size(), used: info.ModTime()}
	s.bytes += info.Size()
	return nil
}

// Bytes returns the bytes of all sets.
func (s *Store) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

func (s *Store) path(id block.Digest) string { return filepath.Join(s.cfg.Dir, id.Hex()) }

// Get returns a set that is open, nil if there is none.
func (s *Store) Get(id block.Digest) *Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.entries[id]; e != nil {
		return e.set
	}
	return nil
}

// Has reports whether there is a set, open or not.
func (s *Store) Has(id block.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries[id] != nil
}

// Open returns the set with an ID, which must be the digest of what the layout was read
// from. If it does not exist it is made, and room is made for it. The error wraps
// [block.ErrNotFound] if it does not exist and create is not set, and [ErrRejected] if it was rejected.
func (s *Store) Open(id block.Digest, l Layout, create bool) (*Set, error) {
	set, err := s.open(id, l, create)
	if err != nil {
		return nil, fmt.Errorf("opening pages %s: %w", id.Short(), err)
	}
	return set, nil
}

func (s *Store) open(id block.Digest, l Layout, create bool) (*Set, error) {
	set, err := newSet(id, l)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	known, rejected := s.entries[id], s.rejected[id]
	s.mu.Unlock()
	if rejected {
		return nil, ErrRejected
	}
	if known == nil {
		if !create {
			return nil, block.ErrNotFound
		}
		// Making room may remove sets of this store.
		if err := s.cfg.Space.Reserve(set.Bytes()); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	switch {
	case e == nil && known == nil:
		e = &entry{bytes: set.Bytes()}
		s.entries[id] = e
		s.bytes += e.bytes
	case e == nil: // it has been removed meanwhile
		return nil, block.ErrNotFound
	case known == nil: // somebody was faster
		s.cfg.Space.Release(set.Bytes())
	}
	if e.set != nil {
		return e.set, nil
	}
	if err := s.openFile(set, e.bytes, known != nil); err != nil {
		return nil, errors.Join(err, s.removeLocked(id))
	}
	e.set = set
	return set, nil
}

// openFile opens or makes the file of a set.
func (s *Store) openFile(set *Set, size int64, left bool) error {
	if size != set.Bytes() {
		return fmt.Errorf("its file has %d bytes, not %d", size, set.Bytes())
	}
	file, err := os.OpenFile(s.path(set.id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	// Its size is what a process after this one counts.
	if err := file.Truncate(size); err != nil {
		return errors.Join(err, file.Close())
	}
	set.file = file
	set.started.Store(left)
	for i := range set.state {
		if left {
			set.state[i] = unverified
		}
	}
	return nil
}

// removeLocked removes a set and its file.
func (s *Store) removeLocked(id block.Digest) error {
	e := s.entries[id]
	if e == nil {
		return nil
	}
	delete(s.entries, id)
	s.bytes -= e.bytes
	var err error
	if e.set != nil {
		err = e.set.close()
	}
	if removed := os.Remove(s.path(id)); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
		err = errors.Join(err, removed)
	}
	s.cfg.Space.Release(e.bytes)
	if err != nil {
		return fmt.Errorf("removing pages %s: %w", id.Short(), err)
	}
	return nil
}

// Remove removes a set, even one that is being read: its readers get blocks from now on.
func (s *Store) Remove(id block.Digest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removeLocked(id)
}

// Retain removes the sets that keep does not want.
func (s *Store) Retain(keep func(id block.Digest) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	errs := []error{s.forgetRejectedLocked(keep)}
	for id := range s.entries {
		if !keep(id) {
			errs = append(errs, s.removeLocked(id))
		}
	}
	return errors.Join(errs...)
}

// resting is how long a set has not been read when its page cache is given back.
const resting = 10 * time.Second

// Maintain removes the sets of which holder has every block, since those serve from now on, and
// gives back the page cache of sets that have not been read for a while. It is to be called
// from time to time.
func (s *Store) Maintain(holder block.Holder) error {
	var errs []error
	for _, set := range s.opened() {
		if set.loading() {
			continue
		}
		switch rested := time.Since(time.Unix(0, set.used.Load())) >= resting; {
		case set.cached(holder):
			errs = append(errs, s.Remove(set.id))
		case rested && set.kept.Swap(false):
			errs = append(errs, set.releasePages())
		}
	}
	return errors.Join(errs...)
}

func (s *Set) loading() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.arrival.running()
}

// cached reports whether holder has every block of which the set has a part.
func (s *Set) cached(holder block.Holder) bool {
	for k := range s.table.blocks {
		if !holder.Has(k) {
			return false
		}
	}
	return true
}

// Close closes the files. The sets must not be used any more.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, e := range s.entries {
		if e.set != nil {
			errs = append(errs, e.set.close())
		}
	}
	return errors.Join(errs...)
}
