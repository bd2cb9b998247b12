package pages

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/internal/block"
)

// Span is a run of bytes of a layer stream.
type Span struct {
	Layer          block.Digest // stream ID
	Offset, Length int64
}

// Frame is a part of the content that arrives and is verified as a whole.
type Frame struct {
	Stored int64        // bytes on the way
	Digest block.Digest // SHA-256 of its content
}

// Layout describes the content of a set. The content is the spans, one after the other; no byte is in
// two of them.
type Layout struct {
	Spans     []Span
	FrameSize int64 // content of every frame but the last, in bytes
	Frames    []Frame
}

// run is a span and where it begins in the content.
type run struct {
	offset, length, position int64
}

func (r run) end() int64 { return r.offset + r.length }

// table finds bytes of layers in the content.
type table struct {
	runs  map[block.Digest][]run // in the order of offsets
	bytes int64
}

func newTable(l Layout) (*table, error) {
	t := &table{runs: make(map[block.Digest][]run)}
	for _, s := range l.Spans {
		if s.Offset < 0 || s.Length <= 0 {
			return nil, fmt.Errorf("a span has %d bytes at %d", s.Length, s.Offset)
		}
		t.runs[s.Layer] = append(t.runs[s.Layer], run{offset: s.Offset, length: s.Length, position: t.bytes})
		t.bytes += s.Length
	}
	for layer, runs := range t.runs {
		slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.offset, b.offset) })
		for i := 1; i < len(runs); i++ {
			if runs[i-1].end() > runs[i].offset {
				return nil, fmt.Errorf("byte %d of layer %s is in two spans", runs[i].offset, layer.Short())
			}
		}
	}
	if l.FrameSize <= 0 || int64(len(l.Frames)) != (t.bytes+l.FrameSize-1)/l.FrameSize {
		return nil, errors.New("the frames do not hold the spans")
	}
	return t, nil
}

// find returns the position in the content of a byte of a layer, and how many follow it
// there; or -1 and how many of the layer are missing, at most n.
func (t *table) find(layer block.Digest, off, n int64) (position, length int64) {
	runs := t.runs[layer]
	i, found := slices.BinarySearchFunc(runs, off, func(r run, off int64) int { return cmp.Compare(r.offset, off) })
	if !found {
		i-- // the last run that begins before off
	}
	if i >= 0 && off < runs[i].end() {
		r := runs[i]
		return r.position + off - r.offset, min(n, r.end()-off)
	}
	if i+1 < len(runs) {
		n = min(n, runs[i+1].offset-off)
	}
	return -1, n
}

// blocks yields the blocks of which the layout holds a part.
func (t *table) blocks(yield func(block.Key) bool) {
	for layer, runs := range t.runs {
		for _, r := range runs {
			all := block.Covering(layer, r.offset, r.length)
			for i := range all.Count {
				if !yield(all.Key(i)) {
					return
				}
			}
		}
	}
}
