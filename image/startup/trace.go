package startup

import (
	"math"

	"github.com/brisk-project/brisk/internal/block"
)

// MaxBlocks is the greatest number of blocks of a trace, 512 MiB: several times what the
// starts of large images read. What is read behind that many is work, not a start.
const MaxBlocks = 2048

// Trace is a list of blocks in the order in which they were first read, each of them once.
// Blocks that follow each other in their layer stream as well are one range.
type Trace []block.Range

// Blocks returns the number of blocks.
func (t Trace) Blocks() int {
	n := 0
	for _, r := range t {
		n += int(r.Count)
	}
	return n
}

// Union returns the trace followed by the blocks that only more has, at most [MaxBlocks].
func (t Trace) Union(more Trace) Trace {
	var all Recorder
	for _, r := range t {
		all.Add(r)
	}
	for _, r := range more {
		all.Add(r)
	}
	return all.Trace()
}

// Recorder makes a trace of reads. The zero value is ready. It is not safe for concurrent use.
type Recorder struct {
	runs Trace
	seen map[block.Key]struct{}
}

// Add adds the blocks of a read that are not there yet, as long as there is room.
func (r *Recorder) Add(read block.Range) {
	if r.seen == nil {
		r.seen = make(map[block.Key]struct{})
	}
	count := min(read.Count, math.MaxUint32-read.First)
	for i := range count {
		if r.Full() {
			return
		}
		k := read.Key(i)
		if _, again := r.seen[k]; again {
			continue
		}
		r.seen[k] = struct{}{}
		if last := len(r.runs) - 1; last >= 0 && r.runs[last].Layer == k.Layer && r.runs[last].End() == k.Index {
			r.runs[last].Count++
			continue
		}
		r.runs = append(r.runs, block.Range{Layer: k.Layer, First: k.Index, Count: 1})
	}
}

// Full reports whether there is no room for more blocks.
func (r *Recorder) Full() bool { return len(r.seen) >= MaxBlocks }

// Trace returns what has been recorded. It is the caller's.
func (r *Recorder) Trace() Trace { return append(Trace(nil), r.runs...) }
