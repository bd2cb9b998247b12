package startup_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

const page = startup.PageSize

// pages returns count pages of a layer from page first on.
func pages(layer string, first, count int64) startup.Span {
	return startup.Span{Layer: block.Sum([]byte(layer)), Offset: first * page, Length: count * page}
}

func blocks(layer string, first, count uint32) block.Range {
	return block.Range{Layer: block.Sum([]byte(layer)), First: first, Count: count}
}

func TestOrderOfFirstReads(t *testing.T) {
	t.Parallel()
	var r startup.Recorder
	part := pages("b", 1, 1) // a part of page 1
	part.Offset, part.Length = part.Offset+100, 10
	for _, read := range []startup.Span{pages("a", 7, 2), pages("b", 0, 1), pages("a", 8, 2), pages("a", 6, 1), pages("a", 5, 6), part} {
		r.Add(read)
	}
	first := r.Trace()
	want := startup.Trace{pages("a", 7, 2), pages("b", 0, 1), pages("a", 9, 1), pages("a", 6, 1), pages("a", 5, 1), pages("a", 10, 1), pages("b", 1, 1)}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("trace:\n%s", diff)
	}
	both := first.Union(startup.Trace{pages("c", 3, 2), pages("a", 10, 2)})
	if diff := cmp.Diff(append(want, pages("c", 3, 2), pages("a", 11, 1)), both); diff != "" {
		t.Errorf("with what another start has read:\n%s", diff)
	}
	if first.Bytes() != 8*page || both.Bytes() != 11*page {
		t.Errorf("%d and %d bytes, want 8 and 11 pages", first.Bytes(), both.Bytes())
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	const inBlock = block.Size / page
	read := startup.Trace{pages("a", 3*inBlock+1, 2), pages("a", 4*inBlock-1, 2), pages("b", 9, 1), pages("a", 3*inBlock, 1), pages("a", 0, 1)}
	want := []block.Range{blocks("a", 3, 2), blocks("b", 0, 1), blocks("a", 0, 1)}
	if diff := cmp.Diff(want, read.Blocks()); diff != "" {
		t.Errorf("blocks:\n%s", diff)
	}
}

func TestClip(t *testing.T) {
	t.Parallel()
	end := pages("a", 1, 1)
	end.Length = 100
	sizes := map[block.Digest]int64{end.Layer: page + 100}
	read := startup.Trace{pages("other image", 0, 1), pages("a", 1, 5), pages("a", 7, 1), pages("a", 0, 1)}
	if diff := cmp.Diff(startup.Trace{end, pages("a", 0, 1)}, read.Clip(sizes)); diff != "" {
		t.Errorf("what an image of %d bytes has of the trace:\n%s", page+100, diff)
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	layer := block.Sum([]byte("a"))
	for name, c := range map[string]struct {
		reads  []startup.Span
		spans  int
		blocks uint32
		full   bool
	}{
		"not a range": {[]startup.Span{{layer, -page, page}, {layer, 0, 0}, {layer, 0, -page}}, 0, 0, false},
		"last block":  {[]startup.Span{{layer, block.Size * (math.MaxUint32 - 1), math.MaxInt64}}, 1, 1, false},
		"no block":    {[]startup.Span{{layer, math.MaxInt64 - page, math.MaxInt64}}, 0, 0, false},
		"blocks":      {[]startup.Span{{layer, block.Size, math.MaxInt64}, pages("b", 0, 1)}, 1, startup.MaxBlocks, true},
		"spans":       {scattered(startup.MaxSpans+1, 1), startup.MaxSpans, startup.MaxBlocks, true},
		"layers":      {scattered(startup.MaxLayers+1, startup.MaxLayers+1), startup.MaxLayers, startup.MaxLayers, true},
	} {
		var r startup.Recorder
		for _, read := range c.reads {
			r.Add(read)
		}
		got, touched := r.Trace(), uint32(0)
		for _, b := range got.Blocks() {
			touched += b.Count
		}
		if len(got) != c.spans || touched != c.blocks || r.Full() != c.full {
			t.Errorf("%s: %d spans, %d blocks, full %v, want %d, %d, %v", name, len(got), touched, r.Full(), c.spans, c.blocks, c.full)
		}
	}
}

// scattered returns pages that do not follow each other, every second one of as many layers in turn.
func scattered(count, layers int) []startup.Span {
	read := make([]startup.Span, count)
	for i := range read {
		read[i] = pages(string(rune(i%layers)), int64(i/layers)*2, 1)
	}
	return read
}
