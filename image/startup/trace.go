package startup

import (
	"cmp"
	"math"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// PageSize is the granularity of a trace in bytes: that of what the kernel reads and
	// keeps.
	PageSize = 4096
	// MaxBlocks is the greatest number of blocks that a trace touches, so that it never has
	// more than 512 MiB: several times what the starts of large images read. What is read
	// after that is work, not a start.
	MaxBlocks = 2048
	// MaxSpans is the greatest number of spans of a trace: every second page of the blocks.
	MaxSpans = MaxBlocks * blockPages / 2
	// MaxLayers is the greatest number of layers that a trace touches, several times what
	// overlayfs can mount.
	MaxLayers = 512
	// blockPages is the number of pages of a block.
	blockPages = block.Size / PageSize
	// maxPage is the number of pages that a layer stream can have, for blocks are numbered
	// with 32 bits.
	maxPage = math.MaxUint32 * blockPages
)

// Span is a run of bytes of a layer stream. Offset and Length are multiples of [PageSize],
// except that a span may end with its stream.
type Span struct {
	Layer  block.Digest // stream ID
	Offset int64
	Length int64
}

// End returns the offset after the last byte.
func (s Span) End() int64 { return s.Offset + s.Length }

// Trace is the list of what a start reads, in the order of the first read, no byte twice.
// Spans that follow each other in their layer stream as well are one span. The last one of a
// stream may reach up to a page past its end: a [Recorder] does not know where streams end.
type Trace []Span

// Bytes returns the number of bytes of all spans.
func (t Trace) Bytes() int64 {
	n := int64(0)
	for _, s := range t {
		n += s.Length
	}
	return n
}

// Blocks returns the blocks that the trace touches in the order of the first read, each of
// them once. Blocks that follow each other in their layer stream as well are one range.
func (t Trace) Blocks() []block.Range {
	var ranges []block.Range
	seen := make(map[block.Key]struct{})
	for _, s := range t {
		touched := block.Covering(s.Layer, s.Offset, s.Length)
		for i := range touched.Count {
			k := touched.Key(i)
			if _, again := seen[k]; again {
				continue
			}
			seen[k] = struct{}{}
			if last := len(ranges) - 1; last >= 0 && ranges[last].Layer == k.Layer && ranges[last].End() == k.Index {
				ranges[last].Count++
				continue
			}
			ranges = append(ranges, block.Range{Layer: k.Layer, First: k.Index, Count: 1})
		}
	}
	return ranges
}

// Clip returns the part of the trace that lies in the layer streams of an image, whose lengths
// in bytes are given by stream ID. It is for traces that come from elsewhere, which may name
// other layers and bytes after the end.
func (t Trace) Clip(sizes map[block.Digest]int64) Trace {
	var clipped Trace
	for _, s := range t {
		if s.Length = min(s.Length, sizes[s.Layer]-s.Offset); s.Length > 0 {
			clipped = append(clipped, s)
		}
	}
	return clipped
}

// Union returns the trace followed by what only more has, within the limits of a trace.
func (t Trace) Union(more Trace) Trace {
	var all Recorder
	all.addAll(t)
	all.addAll(more)
	return all.Trace()
}

// Recorder makes a trace of reads. The zero value is ready. It is not safe for concurrent use.
type Recorder struct {
	spans  Trace
	seen   map[block.Key]uint64 // a bit for each page of a block
	layers map[block.Digest]struct{}
	limit  int // of blocks, if it is not MaxBlocks
	full   bool
}

func (r *Recorder) addAll(t Trace) {
	for _, s := range t {
		r.Add(s)
	}
}

// Add adds the pages of a read that are not there yet, as long as there is room. A page is added
// whole even if the read touches only a part of it.
func (r *Recorder) Add(read Span) {
	if read.Offset < 0 || read.Length <= 0 || r.full {
		return
	}
	if r.seen == nil {
		r.seen, r.layers = make(map[block.Key]uint64), make(map[block.Digest]struct{})
	}
	end := int64(math.MaxInt64 - PageSize)
	if read.Length < end-read.Offset {
		end = read.End()
	}
	page, last := read.Offset/PageSize, (end-1)/PageSize
	for ; page <= last && page < maxPage; page++ {
		if !r.room(block.Key{Layer: read.Layer, Index: uint32(page / blockPages)}) {
			r.full = true
			return
		}
		r.addPage(read.Layer, page)
	}
}

// room reports whether a page of a block can be added.
func (r *Recorder) room(k block.Key) bool {
	if _, known := r.seen[k]; !known && len(r.seen) >= cmp.Or(r.limit, MaxBlocks) {
		return false
	}
	if _, known := r.layers[k.Layer]; !known && len(r.layers) >= MaxLayers {
		return false
	}
	return len(r.spans) < MaxSpans
}

func (r *Recorder) addPage(layer block.Digest, page int64) {
	k, bit := block.Key{Layer: layer, Index: uint32(page / blockPages)}, uint64(1)<<(page%blockPages)
	if r.seen[k]&bit != 0 {
		return
	}
	r.seen[k] |= bit
	r.layers[layer] = struct{}{}
	if last := len(r.spans) - 1; last >= 0 && r.spans[last].Layer == layer && r.spans[last].End() == page*PageSize {
		r.spans[last].Length += PageSize
		return
	}
	r.spans = append(r.spans, Span{Layer: layer, Offset: page * PageSize, Length: PageSize})
}

// Full reports whether there is no room for more.
func (r *Recorder) Full() bool { return r.full }

// Trace returns what has been recorded. It is the caller's.
func (r *Recorder) Trace() Trace { return append(Trace(nil), r.spans...) }
