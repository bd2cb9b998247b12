package block_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/internal/block"
)

func TestCovering(t *testing.T) {
	layer := block.Sum([]byte("layer"))
	for _, test := range []struct {
		name         string
		off, n       int64
		first, count uint32
	}{
		{"nothing", 10, 0, 0, 0},
		{"negative length", 10, -1, 0, 0},
		{"negative offset", -1, 10, 0, 0},
		{"first byte", 0, 1, 0, 1},
		{"first block", 0, block.Size, 0, 1},
		{"a byte into the second", 0, block.Size + 1, 0, 2},
		{"last byte of a block", block.Size - 1, 1, 0, 1},
		{"across an edge", block.Size - 1, 2, 0, 2},
		{"inside", 3*block.Size + 7, 5, 3, 1},
		{"end of the last block there can be", math.MaxUint32*block.Size + block.Size - 1, 1, math.MaxUint32, 1},
		{"past the last block there can be", (math.MaxUint32 + 1) * block.Size, 1, 0, 0},
		{"end past the last block there can be", math.MaxUint32 * block.Size, math.MaxInt64 - math.MaxUint32*block.Size, math.MaxUint32, 1},
		{"longest", 1, math.MaxInt64, 0, math.MaxUint32},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := block.Range{Layer: layer, First: test.first, Count: test.count}
			if diff := cmp.Diff(want, block.Covering(layer, test.off, test.n)); diff != "" {
				t.Errorf("Covering(%d, %d) (-want +got):\n%s", test.off, test.n, diff)
			}
		})
	}
}

func TestCountAndLength(t *testing.T) {
	for _, test := range []struct {
		size  int64
		count uint32
		last  int
	}{
		{-1, 0, 0},
		{0, 0, 0},
		{1, 1, 1},
		{block.Size - 1, 1, block.Size - 1},
		{block.Size, 1, block.Size},
		{block.Size + 1, 2, 1},
		{block.ExtentSize, block.ExtentBlocks, block.Size},
		{10<<40 + 5, 10<<40/block.Size + 1, 5},
	} {
		if got := block.Count(test.size); got != test.count {
			t.Errorf("Count(%d) = %d, want %d", test.size, got, test.count)
		}
		if test.count == 0 {
			continue
		}
		if got := block.Length(test.size, test.count-1); got != test.last {
			t.Errorf("Length(%d, last) = %d, want %d", test.size, got, test.last)
		}
		if got := block.Length(test.size, test.count); got != 0 {
			t.Errorf("Length(%d, past the end) = %d, want 0", test.size, got)
		}
	}
}

func TestRange(t *testing.T) {
	layer, other := block.Sum([]byte("layer")), block.Sum([]byte("other"))
	r := block.Range{Layer: layer, First: 5, Count: 3}
	for k, want := range map[block.Key]bool{
		{Layer: layer, Index: 4}: false,
		{Layer: layer, Index: 5}: true,
		{Layer: layer, Index: 7}: true,
		{Layer: layer, Index: 8}: false,
		{Layer: other, Index: 5}: false,
	} {
		if got := r.Contains(k); got != want {
			t.Errorf("%s.Contains(%s) = %t", r, k, got)
		}
	}
	if got := block.Count(math.MaxInt64); got != math.MaxUint32 {
		t.Errorf("Count(the greatest size) = %d", got)
	}
	if r.End() != 8 || r.Key(2).Index != 7 || r.Key(2).Offset() != 7*block.Size {
		t.Errorf("%s: end %d, third key %s at %d", r, r.End(), r.Key(2), r.Key(2).Offset())
	}
	last := block.Range{Layer: layer, First: math.MaxUint32, Count: 1}
	if !last.Contains(last.Key(0)) || last.Contains(block.Key{Layer: layer}) {
		t.Errorf("%s does not contain exactly its one block", last)
	}
	for r, want := range map[block.Range]string{
		r:                                  layer.Short() + "/5-7",
		{Layer: layer, First: 5, Count: 0}: layer.Short() + "/none",
		last:                               layer.Short() + "/4294967295-4294967295",
	} {
		if got := r.String(); got != want {
			t.Errorf("String() = %q, want %q", got, want)
		}
	}
}
