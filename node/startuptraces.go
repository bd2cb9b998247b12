package node

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
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
	size    int64         // of the file
	last    time.Time
	removed bool // the image is not on this machine
	pinned  bool
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
	known.blocks, known.size, known.last = read.Blocks(), size, last
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
		image, encoded, err = startup.CutMerged(content)
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
	known := s.images[id]
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

// addTrace adds what a start of an image has read.
func (s *startupTraces) addTrace(start recordedStart) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var history startup.History
	if s.images[start.id] != nil {
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
		known.removed = !keep(id)
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

// orderLocked returns all images, those that are on this machine first, then by their last
// start.
func (s *startupTraces) orderLocked() []block.Digest {
	ids := slices.Collect(maps.Keys(s.images))
	slices.SortFunc(ids, func(a, b block.Digest) int {
		x, y := s.images[a], s.images[b]
		if x.removed != y.removed {
			if x.removed {
				return 1
			}
			return -1
		}
		return cmp.Or(y.last.Compare(x.last), strings.Compare(a.Hex(), b.Hex()))
	})
	return ids
}

// dropSurplusLocked drops the traces that are too many or too long, and returns the images of
// the others in their order.
func (s *startupTraces) dropSurplusLocked() []block.Digest {
	ids, size := s.orderLocked(), int64(0)
	for i, id := range ids {
		size += s.images[id].size
		if i < s.maxTraces && size <= s.maxBytes {
			continue
		}
		for _, id := range ids[i:] {
			if err := s.dropLocked(id); err != nil {
				s.log.Warn("a trace too many is kept", "error", err)
			}
		}
		return ids[:i]
	}
	return ids
}

// updatePinsLocked decides which start-up sets are pinned. Blocks that are in several sets are
// counted for each.
func (s *startupTraces) updatePinsLocked() {
	blocks, layers := int64(0), make(map[block.Digest]struct{})
	for _, id := range s.dropSurplusLocked() {
		known := s.images[id]
		size := int64(0)
		more := make(map[block.Digest]struct{})
		for _, r := range known.blocks {
			size += int64(r.Count)
			if _, ok := layers[r.Layer]; !ok {
				more[r.Layer] = struct{}{}
			}
		}
		fits := !known.removed && blocks+size <= s.maxBlocks && int64(len(layers)+len(more)) <= s.maxLayers
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
	// Source says where it is known from.
	Source TraceSource `json:"source"`
}

// count counts the bytes of blocks of layer streams, whose lengths are given by stream ID.
func (s *StartStatus) count(blocks []block.Range, sizes map[block.Digest]int64, disk *cache.Disk) {
	for _, r := range blocks {
		for i := range r.Count {
			n := int64(block.Length(sizes[r.Layer], r.First+i))
			s.Bytes += n
			if !disk.Has(r.Key(i)) {
				s.MissingBytes += n
			}
		}
	}
}

// status tells of the start-up set of an image whose layer streams have the given lengths, nil
// if it is not learnt.
func (s *startupTraces) status(id block.Digest, sizes map[block.Digest]int64) *StartStatus {
	s.mu.Lock()
	known := s.images[id]
	if known == nil {
		s.mu.Unlock()
		return nil
	}
	read, status := known.blocks, &StartStatus{Pinned: known.pinned, Source: TraceLearnt}
	s.mu.Unlock()
	status.count(read, sizes, s.disk)
	return status
}
