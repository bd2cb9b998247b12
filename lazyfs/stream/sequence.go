package stream

import "github.com/brisk-project/brisk/internal/block"

const (
	// maxRuns is how many sequential readers of one layer are told apart.
	maxRuns = 8
	// reorderSlack is by how many blocks reads of a run may arrive out of order: the
	// kernel sends two read-ahead requests of 1 MiB at a time.
	reorderSlack = 8
	// firstWindow is the number of blocks from which on reads count as sequential.
	// A single program or library is rarely longer, and what would be fetched in
	// vain behind it is as short.
	firstWindow = 3
	// minAhead is the least number of blocks worth a request of read-ahead.
	minAhead = 2
	// maxRecentReads is how many extents with waiting reads are remembered.
	maxRecentReads = 32
)

// run is one sequential pass over a layer.
type run struct {
	end    uint32 // block after the last one read
	length uint32 // blocks read in sequence
	ahead  uint32 // block after the last one asked for
	used   uint64 // when, in reads of the layer
}

// sequence tells the sequential passes over a layer apart. The zero value is ready.
type sequence struct {
	runs  [maxRuns]run
	reads uint64
}

// record notes a read and returns the pass it belongs to.
func (s *sequence) record(read block.Range) *run {
	s.reads++
	oldest := &s.runs[0]
	for i := range s.runs {
		r := &s.runs[i]
		if r.used > 0 && read.First <= r.end+reorderSlack && read.End()+reorderSlack >= r.end {
			if read.End() > r.end {
				r.length += min(read.End()-r.end, read.Count)
				r.end = read.End()
			}
			r.used = s.reads
			return r
		}
		if r.used < oldest.used {
			oldest = r
		}
	}
	*oldest = run{end: read.End(), length: read.Count, ahead: read.End(), used: s.reads}
	return oldest
}

// next returns the next range to ask for: the window ahead grows with the length of
// the pass, and is topped up when half of it is used. Ranges end at extent boundaries
// where that leaves enough.
func (r *run) next(layer block.Digest, total, limit uint32) (block.Range, bool) {
	if r.length < firstWindow {
		return block.Range{}, false
	}
	window := min(2*r.length, limit)
	from := max(r.ahead, r.end)
	to := min(r.end+window, total)
	if from >= to || to < total && to-from < max(minAhead, window/2) && from > r.end {
		return block.Range{}, false
	}
	boundary := from - from%block.ExtentBlocks + block.ExtentBlocks
	if boundary-from < minAhead {
		boundary += block.ExtentBlocks
	}
	to = min(to, boundary)
	if to-from < minAhead && to < total {
		return block.Range{}, false
	}
	return block.Range{Layer: layer, First: from, Count: to - from}, true
}

// recentSet remembers a few extents, the most recent last.
type recentSet struct{ extents []uint32 }

func (s *recentSet) add(extent uint32) {
	for i, e := range s.extents {
		if e == extent {
			s.extents = append(s.extents[:i], s.extents[i+1:]...)
			break
		}
	}
	if len(s.extents) == maxRecentReads {
		s.extents = s.extents[1:]
	}
	s.extents = append(s.extents, extent)
}

func (s *recentSet) pop() (uint32, bool) {
	if len(s.extents) == 0 {
		return 0, false
	}
	last := s.extents[len(s.extents)-1]
	s.extents = s.extents[:len(s.extents)-1]
	return last, true
}
