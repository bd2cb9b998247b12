package convert

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/brisk-project/brisk/image/predict"
	"github.com/brisk-project/brisk/internal/block"
)

// extents is a source that delivers the whole extent of a block, in memory that it uses again.
type extents struct {
	stream []byte
	memory [block.Size]byte
}

func (s *extents) Fetch(_ context.Context, r block.Request, sink block.Sink) error {
	const blocks = 16
	first := r.First / blocks * blocks
	for i := first; i < min(first+blocks, block.Count(int64(len(s.stream)))); i++ {
		k := block.Key{Layer: r.Layer, Index: i}
		n := copy(s.memory[:], s.stream[k.Offset():])
		if err := sink(k, s.memory[:n]); err != nil {
			return err
		}
	}
	return nil
}

// TestStreamReaderReusesMemory reads a stream that is much larger than what is kept of it, at random.
func TestStreamReaderReusesMemory(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	src := &extents{stream: make([]byte, 3*predictCache*block.Size+1000)}
	for i := range src.stream {
		src.stream[i] = byte(i>>18) ^ byte(i)
	}
	reader := &streamReader{verified: src, limit: 1 << 40}
	if err := reader.open(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3*block.Size)
	for range 500 {
		p := buf[:1+rng.IntN(len(buf)-1)]
		off := rng.IntN(len(src.stream) - len(p))
		if err := reader.ReadStream(t.Context(), block.Digest{}, p, int64(off)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, src.stream[off:off+len(p)]) {
			t.Fatalf("wrong bytes from %d to %d", off, off+len(p))
		}
	}
	if kept := reader.blocks.Len() + len(reader.free); kept != predictCache {
		t.Errorf("memory for %d blocks is kept, want %d", kept, predictCache)
	}
	if err := reader.ReadStream(t.Context(), block.Digest{}, buf[:1], int64(len(src.stream))+1); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("a byte after the end: %v", err)
	}
	reader.limit = reader.fetched
	reader.blocks.Purge()
	if err := reader.ReadStream(t.Context(), block.Digest{}, buf[:1], 0); !errors.Is(err, predict.ErrBudget) {
		t.Errorf("more than the limit: %v", err)
	}
}
