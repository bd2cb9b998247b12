package node

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
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
	// maxTraces and maxTraceBytes bound the files of traces. Beyond them those are dropped
	// whose images were started longest ago, those of removed images first.
	maxTraces     = 1024
	maxTraceBytes = 64 << 20
)

// startupTraces knows what starts of images have read, in a file for each image, and keeps
// the blocks in the cache: those of the images started last, as long as they fit into their
// share. An image is named by the ID that its mounts have. A trace stays when its image is
// removed, for the next pull; its blocks do not.
type startupTraces struct {
	dir       string
	disk      *cache.Disk
	maxBlocks int64 // that may be pinned
	maxLayers int64 // of which blocks may be pinned
	maxTraces int
	maxBytes  int64 // of all files
	log       *slog.Logger

	mu     sync.Mutex // guards what follows, and the files
	images map[block.Digest]*startupTrace
	// hints are the IDs of images by the name under which peers ask for their traces.
	hints map[block.Digest]block.Digest
}

// startupTrace is what is known of the start of an image. The trace itself is in the file.
type startupTrace struct {
	hint    block.Digest  // see startupTraces.hints; zero if there is none
	blocks  []block.Range // those of the trace
	list    []block.Range // those of the prefetch list
	set     []block.Range // both: the start-up set
	size    int64         // of the file
	last    time.Time
	removed bool // the image is not on this machine
	pinned  bool
	// expected says that no start was recorded: the trace is one of the registry, or there is only a
	// prefetch list. There is no file.
	expected bool
}

// openStartupTraces reads the traces in a directory. What cannot be read counts as none.
func openStartupTraces(dir string, cfg Config, disk *cache.Disk) (*startupTraces, error) {
	s := &startupTraces{
		dir: dir, disk: disk, log: cfg.Log, images: make(map[block.Digest]*startupTrace), hints: make(map[block.Digest]block.Digest),
		maxBlocks: math.MaxInt64, maxLayers: math.MaxInt64, maxTraces: maxTraces, maxBytes: maxTraceBytes,
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
			err = s.loadLocked(id) // nobody else knows of s yet
		}
		if err != nil {
			s.log.Warn("an unusable trace is removed", "file", entry.Name(), "error",
				errors.Join(err, os.Remove(filepath.Join(dir, entry.Name()))))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updatePinsLocked()
	return s, nil
}

func (s *startupTraces) loadLocked(id block.Digest) error {
	info, err := os.Stat(s.path(id))
	if err != nil {
		return fmt.Errorf("reading a trace: %w", err)
	}
	image, read, _, err := s.readLocked(id)
	if err != nil {
		return err
	}
	s.setLocked(id, image, read, info.Size(), info.ModTime())
	return nil
}

// setLocked sets what is known of an image.
func (s *startupTraces) setLocked(id, image block.Digest, read startup.Trace, size int64, last time.Time) {
	known := s.images[id]
	if known == nil {
		known = new(startupTrace)
		s.images[id] = known
	}
	known.blocks, known.size, known.last, known.expected = read.Blocks(), size, last, false
	known.set = unionRanges(known.list, known.blocks)
	if !image.IsZero() {
		known.hint = traceHint(image)
		s.hints[known.hint] = id
	}
}

// readLocked reads the file of an image: the digest of its platform manifest, its trace, and
// the trace in its encoded form.
func (s *startupTraces) readLocked(id block.Digest) (image block.Digest, read startup.Trace, encoded []byte, err error) {
	content, err := s.contentLocked(id)
	if err == nil {
		image, encoded, err = startup.EncodedMergedTrace(content)
	}
	if err == nil {
		read, err = startup.Parse(encoded)
	}
	return image, read, encoded, err
}

func (s *startupTraces) contentLocked(id block.Digest) ([]byte, error) {
	file, err := os.Open(s.path(id))
	if err != nil {
		return nil, fmt.Errorf("opening a trace: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(file, int64(startup.MaxHistory)+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("reading a trace: %w", err)
	}
	return content, nil
}

func (s *startupTraces) path(id block.Digest) string { return filepath.Join(s.dir, id.Hex()) }

// has reports whether a trace is known of the image with a platform manifest.
func (s *startupTraces) has(manifest block.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.hints[traceHint(manifest)]
	return known
}

// of returns the trace of an image that is about to be started, nil if it is not known. An
// image that has been converted again has another ID, but the same manifest and the same
// layer streams.
func (s *startupTraces) of(id, manifest block.Digest) startup.Trace {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.learntLocked(id)
	if known == nil {
		id = s.hints[traceHint(manifest)]
		if known = s.images[id]; known == nil {
			return nil
		}
	}
	_, read, _, err := s.readLocked(id)
	if err != nil {
		s.log.Warn("the trace of an image is lost", "image", id.Short(), "error", errors.Join(err, s.dropLocked(id)))
		return nil
	}
	if known.removed {
		known.removed = false
		s.updatePinsLocked()
	}
	return read
}

// learntLocked returns what was recorded of an image, nil for nothing.
func (s *startupTraces) learntLocked(id block.Digest) *startupTrace {
	if known := s.images[id]; known != nil && !known.expected {
		return known
	}
	return nil
}

// addTrace adds what a start of an image has read.
func (s *startupTraces) addTrace(start recordedStart) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var history startup.History
	if s.learntLocked(start.id) != nil {
		content, err := s.contentLocked(start.id)
		if err == nil {
			history, err = startup.ParseHistory(content)
		}
		if err != nil {
			s.log.Warn("the traces of earlier starts are lost", "image", start.id.Short(), "error", err)
		}
	}
	history, changed := history.Add(start.Sample, start.endedEarly)
	if len(history.Samples) == 0 {
		return
	}
	history.Image, changed = start.manifest, changed || history.Image != start.manifest
	if err := s.saveLocked(start.id, history, changed); err != nil {
		s.log.Warn("the trace of a start is lost", "image", start.id.Short(), "error", err)
		return
	}
	known := s.images[start.id]
	known.removed = false
	if changed && known.pinned {
		s.pinLocked(start.id, known)
	}
	s.updatePinsLocked()
}

// saveLocked keeps a history, or when its image was last started. A file that is cut short by
// a crash is found out by its digest, so nothing is waited for.
func (s *startupTraces) saveLocked(id block.Digest, history startup.History, changed bool) error {
	now := time.Now()
	if !changed {
		s.images[id].last = now
		return os.Chtimes(s.path(id), now, now)
	}
	encoded, err := history.Encode()
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
	s.setLocked(id, history.Image, history.Trace(), int64(len(encoded)), now)
	return nil
}

// retain unpins the start-up sets of images that keep does not want.
func (s *startupTraces) retain(keep func(image block.Digest) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, known := range s.images {
		if known.removed = !keep(id); known.removed && known.expected {
			s.disk.PinSet(setName(id))
			delete(s.images, id)
		}
	}
	s.updatePinsLocked()
}

func (s *startupTraces) dropLocked(id block.Digest) error {
	s.disk.PinSet(setName(id))
	if known := s.images[id]; s.hints[known.hint] == id {
		delete(s.hints, known.hint)
	}
	delete(s.images, id)
	if err := os.Remove(s.path(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("dropping a trace: %w", err)
	}
	return nil
}

// StartStatus tells of the start-up set of an image.
type StartStatus struct {
	// Bytes are those of its blocks, MissingBytes those of them that are not in the disk cache,
	// and of which the bundle of the image has no pages either.
	Bytes        int64 `json:"bytes"`
	MissingBytes int64 `json:"missingBytes"`
	// Pinned says that what is there of it is not evicted.
	Pinned bool `json:"pinned"`
	// Source says where it is known from.
	Source TraceSource `json:"source"`
}

// count counts the bytes of blocks of layer streams, whose lengths are given by stream ID.
func (s *StartStatus) count(blocks []block.Range, sizes map[block.Digest]int64, held func(block.Key) bool) {
	for _, r := range blocks {
		for i := range r.Count {
			n := int64(block.Length(sizes[r.Layer], r.First+i))
			s.Bytes += n
			if !held(r.Key(i)) {
				s.MissingBytes += n
			}
		}
	}
}

// recorded returns the blocks that starts of an image on this node have read, none if nothing is known of
// them.
func (s *startupTraces) recorded(id block.Digest) []block.Range {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.learntLocked(id); known != nil {
		return known.blocks
	}
	return nil
}
