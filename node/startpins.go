package node

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// expect pins the blocks that the trace in the registry says a start of an image will read, until a
// start was recorded.
func (s *startupTraces) expect(id block.Digest, blocks []block.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.images[id]; known != nil && (!known.expected || slices.Equal(known.blocks, blocks)) {
		return
	}
	s.disk.PinSet(setName(id))
	s.images[id] = &startupTrace{blocks: blocks, last: time.Now(), expected: true}
	s.updatePinsLocked()
}

// knows reports whether it is known what a start of an image reads, for its blocks to be pinned.
func (s *startupTraces) knows(id block.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.images[id] != nil
}

// pins reports whether the blocks of the start of an image are pinned.
func (s *startupTraces) pins(id block.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.images[id]
	return known != nil && known.pinned
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
