package node

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

const (
	// pinnedShare is the part of the cache, as one in so many, of its bytes and of its
	// layers, that start-up sets may keep from being evicted. The other half is for what
	// runs: a cache in which nothing can be evicted is none.
	pinnedShare = 2
	// maxStarts bounds the traces that are kept. Beyond it those go whose images were
	// started longest ago.
	maxStarts = 1024
)

// startupTraces knows the traces of images, in a file for each, and keeps their blocks in the
// cache: those of the images started last, as long as they fit into their share. An image
// is named by the ID that its mounts have.
type startupTraces struct {
	dir       string
	disk      *cache.Disk
	maxBlocks int64 // that may be pinned
	maxLayers int64 // of which blocks may be pinned
	log       *slog.Logger

	mu     sync.Mutex // guards what follows, and the files
	images map[block.Digest]*startupTrace
}

// startupTrace is what is known of the start of an image.
type startupTrace struct {
	trace  startup.Trace // never changed, only replaced
	blocks []block.Range // those of the trace
	last   time.Time
	pinned bool
}

// openStartupTraces reads the traces in a directory. What cannot be read counts as none.
func openStartupTraces(dir string, cfg Config, disk *cache.Disk) (*startupTraces, error) {
	s := &startupTraces{
		dir: dir, disk: disk, log: cfg.Log, images: make(map[block.Digest]*startupTrace),
		maxBlocks: math.MaxInt64, maxLayers: math.MaxInt64,
	}
	if cfg.CacheBytes > 0 {
		s.maxBlocks = cfg.CacheBytes / pinnedShare / block.Size
	}
	if cfg.CacheFiles > 0 {
		s.maxLayers = cfg.CacheFiles / pinnedShare / cache.LayerFiles
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("making the directory of traces: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("looking for traces: %w", err)
	}
	for _, entry := range entries {
		id, err := block.ParseDigest("sha256:" + entry.Name())
		if err == nil {
			err = s.load(id)
		}
		if err != nil {
			s.log.Warn("a trace is of no use and is removed", "file", entry.Name(), "error",
				errors.Join(err, os.Remove(filepath.Join(dir, entry.Name()))))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updatePinsLocked()
	return s, nil
}

func (s *startupTraces) load(id block.Digest) error {
	file, err := os.Open(s.path(id))
	if err != nil {
		return fmt.Errorf("opening a trace: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(file, startup.MaxEncoded+1))
	info, statErr := file.Stat()
	if err = errors.Join(err, statErr, file.Close()); err != nil {
		return fmt.Errorf("reading a trace: %w", err)
	}
	known, err := startup.Parse(content)
	if err != nil {
		return err
	}
	s.images[id] = &startupTrace{trace: known, blocks: known.Blocks(), last: info.ModTime()}
	return nil
}

func (s *startupTraces) path(id block.Digest) string { return filepath.Join(s.dir, id.Hex()) }

// of returns the trace of an image, nil if it is not known.
func (s *startupTraces) of(id block.Digest) startup.Trace {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.images[id]; known != nil {
		return known.trace
	}
	return nil
}

// addTrace adds what a start of an image has read. What an earlier one has read stays: a start
// reads less from here when the kernel still has the rest in memory.
func (s *startupTraces) addTrace(id block.Digest, read startup.Trace) {
	if len(read) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.images[id]
	if known == nil {
		known = new(startupTrace)
		s.images[id] = known
	}
	all := known.trace.Union(read)
	changed := all.Bytes() > known.trace.Bytes()
	known.trace, known.blocks, known.last = all, all.Blocks(), time.Now()
	if err := s.saveLocked(id, known, changed); err != nil {
		s.log.Warn("what a start has read is forgotten with this process", "image", id.Short(), "error", err)
	}
	if changed && known.pinned {
		s.pinLocked(id, known)
	}
	s.updatePinsLocked()
}

// saveLocked keeps a trace, or when its image was last started. A file that is cut short by
// a crash is found out by its digest, so nothing is waited for.
func (s *startupTraces) saveLocked(id block.Digest, known *startupTrace, changed bool) error {
	if !changed {
		return os.Chtimes(s.path(id), known.last, known.last)
	}
	encoded, err := known.trace.Encode()
	if err != nil {
		return err
	}
	// A name that is none of an image: it is removed at the next start if it is left.
	next := s.path(id) + ".tmp"
	if err := os.WriteFile(next, encoded, 0o600); err != nil {
		return fmt.Errorf("writing a trace: %w", errors.Join(err, os.Remove(next)))
	}
	if err := os.Rename(next, s.path(id)); err != nil {
		return fmt.Errorf("writing a trace: %w", err)
	}
	return nil
}

// retain drops the traces of images that keep does not want.
func (s *startupTraces) retain(keep func(image block.Digest) bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	before := len(s.images)
	for id := range s.images {
		if !keep(id) {
			errs = append(errs, s.dropLocked(id))
		}
	}
	if len(s.images) < before {
		s.updatePinsLocked()
	}
	return errors.Join(errs...)
}

func (s *startupTraces) dropLocked(id block.Digest) error {
	s.disk.PinSet(setName(id))
	delete(s.images, id)
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("dropping a trace: %w", err)
	}
	return nil
}

// updatePinsLocked decides which start-up sets are pinned. Blocks that are in several sets are
// counted for each.
func (s *startupTraces) updatePinsLocked() {
	ids := make([]block.Digest, 0, len(s.images))
	for id := range s.images {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b block.Digest) int {
		return cmp.Or(s.images[b].last.Compare(s.images[a].last), strings.Compare(a.Hex(), b.Hex()))
	})
	for len(ids) > maxStarts {
		if err := s.dropLocked(ids[len(ids)-1]); err != nil {
			s.log.Warn("a trace too many is kept", "error", err)
		}
		ids = ids[:len(ids)-1]
	}
	blocks, layers := int64(0), make(map[block.Digest]struct{})
	for _, id := range ids {
		known := s.images[id]
		size := int64(0)
		more := make(map[block.Digest]struct{})
		for _, r := range known.blocks {
			size += int64(r.Count)
			if _, ok := layers[r.Layer]; !ok {
				more[r.Layer] = struct{}{}
			}
		}
		fits := blocks+size <= s.maxBlocks && int64(len(layers)+len(more)) <= s.maxLayers
		if fits {
			blocks += size
			for layer := range more {
				layers[layer] = struct{}{}
			}
		}
		if fits != known.pinned {
			known.pinned = fits
			s.pinLocked(id, known)
		}
	}
}

func (s *startupTraces) pinLocked(id block.Digest, known *startupTrace) {
	if known.pinned {
		s.disk.PinSet(setName(id), known.blocks...)
		return
	}
	s.disk.PinSet(setName(id))
}

func setName(id block.Digest) string { return "start/" + id.Hex() }

// StartStatus tells of the start-up set of an image.
type StartStatus struct {
	// Bytes are those of its blocks, MissingBytes those of them that are not in the disk
	// cache.
	Bytes        int64 `json:"bytes"`
	MissingBytes int64 `json:"missingBytes"`
	// Pinned says that what is there of it is not evicted.
	Pinned bool `json:"pinned"`
}

// status tells of the start-up set of an image with the given layers, nil if it is not
// known.
func (s *startupTraces) status(id block.Digest, layers []ImageLayer) *StartStatus {
	s.mu.Lock()
	known := s.images[id]
	if known == nil {
		s.mu.Unlock()
		return nil
	}
	read, status := known.blocks, &StartStatus{Pinned: known.pinned}
	s.mu.Unlock()
	sizes := make(map[block.Digest]int64, len(layers))
	for _, layer := range layers {
		sizes[layer.Stream] = layer.StreamSize
	}
	for _, r := range read {
		for i := range r.Count {
			n := int64(block.Length(sizes[r.Layer], r.First+i))
			status.Bytes += n
			if !s.disk.Has(r.Key(i)) {
				status.MissingBytes += n
			}
		}
	}
	return status
}
