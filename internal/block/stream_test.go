package block_test

import (
	"slices"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
)

// TestStreamID checks one value against sha256sum, so that it does not change, and
// that it tells streams of different length or blocks apart.
func TestStreamID(t *testing.T) {
	a, b := block.Sum([]byte("a")), block.Sum([]byte("b"))
	both := slices.Concat(a[:], b[:])
	const want = "47fe8ea33261646240b6e85b01d471fa514a42f890705e80dd334d905e91740a"
	if got := block.StreamID(block.Size+1, both).Hex(); got != want {
		t.Errorf("stream ID is %s, want %s", got, want)
	}
	seen := make(map[block.Digest]bool)
	for _, id := range []block.Digest{
		block.StreamID(block.Size+1, both), block.StreamID(block.Size+2, both), block.StreamID(0, nil),
		block.StreamID(block.Size+1, slices.Concat(b[:], a[:])), block.StreamID(block.Size, a[:]),
	} {
		if seen[id] {
			t.Errorf("stream ID %s occurs twice", id)
		}
		seen[id] = true
	}
}
