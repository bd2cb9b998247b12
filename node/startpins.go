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
	known := s.images[id]
	if known != nil && (!known.expected || slices.Equal(known.blocks, blocks)) {
		return
	}
	s.changeSetLocked(id, func(t *startupTrace) { t.blocks = blocks })
}

// setList pins the blocks of the prefetch list of an image, as long as that is on this machine.
func (s *startupTraces) setList(id block.Digest, blocks []block.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.images[id]
	if known == nil && len(blocks) == 0 || known != nil && slices.Equal(known.list, blocks) {
		return
	}
	s.changeSetLocked(id, func(t *startupTrace) { t.list = blocks })
}

// changeSetLocked changes the start-up set of an image, of which nothing may be known yet.
func (s *startupTraces) changeSetLocked(id block.Digest, change func(*startupTrace)) {
	t := s.images[id]
	if t == nil {
		t = &startupTrace{expected: true}
		s.images[id] = t
	}
	if t.expected {
		t.last = time.Now()
	}
	change(t)
	t.set, t.pinned = unionRanges(t.list, t.blocks), false
	s.disk.PinSet(setName(id))
	s.updatePinsLocked()
}

// unionRanges returns the blocks of both, each once, those of a first.
func unionRanges(a, b []block.Range) []block.Range {
	if len(a) == 0 {
		return b
	}
	seen := make(map[block.Key]struct{})
	var all []block.Range
	for _, r := range slices.Concat(a, b) {
		for i := range r.Count {
			k := r.Key(i)
			if _, again := seen[k]; again {
				continue
			}
			seen[k] = struct{}{}
			if last := len(all) - 1; last >= 0 && all[last].Layer == k.Layer && all[last].End() == k.Index {
				all[last].Count++
				continue
			}
			all = append(all, block.Range{Layer: k.Layer, First: k.Index, Count: 1})
		}
	}
	return all
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
		for _, r := range known.set {
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
		s.disk.PinSet(setName(id), known.set...)
		return
	}
	s.disk.PinSet(setName(id))
}

func setName(id block.Digest) string { return "start/" + id.Hex() }
