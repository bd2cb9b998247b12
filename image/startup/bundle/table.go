package bundle

import (
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// PageSize is what offsets and lengths of spans are multiples of, but for the end of a
	// layer stream.
	PageSize = startup.PageSize
	// MaxTable is the greatest length in bytes of an encoded table.
	MaxTable = 8 << 20
	// MaxBytes is the greatest length of the content: more is work, not a start.
	MaxBytes = 512 << 20
	// MaxSpans is the greatest number of spans: each is a page at least.
	MaxSpans = MaxBytes / PageSize
	// MaxLayers is the greatest number of layers.
	MaxLayers = 4096
	// MinFrameSize is the least content of a frame in bytes: smaller ones compress badly.
	MinFrameSize = 64 << 10
	// MaxFrameSize is the greatest: a reader has to wait for the whole of a frame.
	MaxFrameSize = 4 << 20
)

// Span is a run of pages of a layer stream, as traces have them.
type Span = startup.Span

// Layer is a layer stream that spans refer to.
type Layer struct {
	ID   block.Digest // stream ID
	Size int64        // of the stream in bytes
}

// Frame is a frame of a bundle.
type Frame struct {
	Stored int64        // compressed length in bytes
	Digest block.Digest // of its content
}

// Table says what a bundle holds, in the order in which it holds it.
type Table struct {
	// FrameSize is the length in bytes of the content of every frame but the last.
	FrameSize int64
	Layers    []Layer
	Spans     []Span // of Layers; no byte is in two of them
	Frames    []Frame
}

// Bytes returns the length of the content.
func (t *Table) Bytes() int64 {
	total := int64(0)
	for _, s := range t.Spans {
		total += s.Length
	}
	return total
}

// Stored returns the length of the frames in the blob.
func (t *Table) Stored() int64 {
	total := int64(0)
	for _, f := range t.Frames {
		total += f.Stored
	}
	return total
}

// FrameLength returns the length of the content of a frame.
func (t *Table) FrameLength(i int) int64 {
	if i < len(t.Frames)-1 {
		return t.FrameSize
	}
	return t.Bytes() - int64(i)*t.FrameSize
}

// check returns what is wrong with a table whose numbers are within their bounds.
func (t *Table) check() error {
	sizes := make(map[block.Digest]int64, len(t.Layers))
	for _, l := range t.Layers {
		if _, again := sizes[l.ID]; again {
			return fmt.Errorf("layer %s is listed twice", l.ID.Short())
		}
		sizes[l.ID] = l.Size
	}
	total := int64(0)
	for _, s := range t.Spans {
		size, known := sizes[s.Layer]
		switch end := s.Offset + s.Length; {
		case !known:
			return fmt.Errorf("a span is of layer %s, which is not listed", s.Layer.Short())
		case s.Offset < 0 || s.Length <= 0 || s.Length > MaxBytes || s.Offset > size-s.Length:
			return fmt.Errorf("a span of %d bytes at %d does not lie in a layer of %d bytes", s.Length, s.Offset, size)
		case s.Offset%PageSize != 0 || end%PageSize != 0 && end != size:
			return fmt.Errorf("a span of %d bytes at %d is not made of pages", s.Length, s.Offset)
		}
		if total += s.Length; total > MaxBytes {
			return fmt.Errorf("the spans have more than %d bytes", int64(MaxBytes))
		}
	}
	if want := (total + t.FrameSize - 1) / t.FrameSize; int64(len(t.Frames)) != want {
		return fmt.Errorf("there are %d frames, not %d", len(t.Frames), want)
	}
	for i, f := range t.Frames {
		if f.Stored <= 0 || f.Stored > maxStored(t.FrameSize) {
			return fmt.Errorf("frame %d has %d bytes, the limit is %d", i, f.Stored, maxStored(t.FrameSize))
		}
	}
	return t.checkOverlaps()
}

func (t *Table) checkOverlaps() error {
	sorted := slices.Clone(t.Spans)
	slices.SortFunc(sorted, compareSpans)
	for i := 1; i < len(sorted); i++ {
		last, s := sorted[i-1], sorted[i]
		if last.Layer == s.Layer && last.Offset+last.Length > s.Offset {
			return fmt.Errorf("two spans hold byte %d of layer %s", s.Offset, s.Layer.Short())
		}
	}
	return nil
}

func compareSpans(a, b Span) int {
	if c := slices.Compare(a.Layer[:], b.Layer[:]); c != 0 {
		return c
	}
	switch {
	case a.Offset < b.Offset:
		return -1
	case a.Offset > b.Offset:
		return 1
	default:
		return 0
	}
}

// maxStored is the greatest length of a frame whose content does not compress.
func maxStored(content int64) int64 { return content + content>>7 + 1024 }
