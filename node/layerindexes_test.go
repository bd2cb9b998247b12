package node

import (
	"bytes"
	"testing"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// closer counts how often it was closed.
type closer struct{ closed int }

func (c *closer) Close() error {
	c.closed++
	return nil
}

// openLayerOf makes and opens the index of a stored layer, and returns its digest.
func openLayerOf(t *testing.T, blob []byte) (*index.Layer, block.Digest) {
	t.Helper()
	built, err := index.Build(t.Context(), bytes.NewReader(blob), index.BuildConfig{})
	if err != nil {
		t.Fatal(err)
	}
	layer, err := index.Open(bytes.NewReader(built.Encoded), int64(len(built.Encoded)))
	if err != nil {
		t.Fatal(err)
	}
	return layer, block.Sum(built.Encoded)
}

// The same index is opened once for all its users, and the same stream is known for as
// long as any index of it is in use: here one of the gzip blob, one of the plain one.
func TestLayoutsCountUsers(t *testing.T) {
	stored := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(1, 1, 300<<10)...)}
	packed, packedDigest := openLayerOf(t, registrytest.Compress(t, stored))
	plain, plainDigest := openLayerOf(t, stored.Tar)
	id := packed.StreamID()
	if plain.StreamID() != id {
		t.Fatal("the same stream has two names")
	}
	l := newLayerIndexes()
	var files [3]closer
	acquire := func(digest block.Digest, layer *index.Layer, file *closer) *openLayer {
		open, err := l.acquire(digest, layer, file)
		if err != nil {
			t.Fatal(err)
		}
		return open
	}
	release := func(open *openLayer) {
		if err := l.release(open); err != nil {
			t.Error(err)
		}
	}
	first := acquire(packedDigest, packed, &files[0])
	again := acquire(packedDigest, packed, &files[1])
	other := acquire(plainDigest, plain, &files[2])
	if first != again || first == other || files[1].closed != 1 {
		t.Errorf("the index was opened twice: %v", files)
	}
	release(first)
	if files[0].closed != 0 {
		t.Error("closed while somebody uses it")
	}
	release(again)
	if size, ok := l.StreamSize(id); !ok || size != int64(len(stored.Tar)) || files[0].closed != 1 || files[2].closed != 0 {
		t.Errorf("with one of two indexes: size %d, %t, files %v", size, ok, files)
	}
	if digest, ok := l.BlockDigest(block.Key{Layer: id, Index: 1}); !ok || digest != block.Sum(stored.Tar[block.Size:]) {
		t.Errorf("digest %s, %t", digest, ok)
	}
	release(other)
	if _, ok := l.StreamSize(id); ok || files[2].closed != 1 || len(l.layers) != 0 {
		t.Errorf("after the last one: known %t, files %v", ok, files)
	}
}

// What the registry sends along with a range is whole frames, cut to whole blocks.
func TestAlong(t *testing.T) {
	stored := registrytest.Layer{
		Tar:         registrytest.Tar(t, registrytest.Files(1, 1, 3<<20)...),
		Compression: registrytest.Zstd, FrameSize: 3 * block.Size,
	}
	layer, digest := openLayerOf(t, registrytest.Compress(t, stored))
	l := newLayerIndexes()
	if _, err := l.acquire(digest, layer, &closer{}); err != nil {
		t.Fatal(err)
	}
	count := layer.BlockCount() // 13: frames of 3 blocks, the last one shorter
	// Blocks 8 and 10 are here already.
	held := func(k block.Key) bool { return k.Index == 8 || k.Index == 10 }
	for _, tt := range []struct{ first, count, wantFirst, wantCount uint32 }{
		{0, 1, 0, 3},
		{1, 1, 0, 3},
		{2, 2, 0, 6},
		{3, 3, 3, 3},
		{7, 1, 6, 2},
		{9, 1, 9, 1},
		{11, 1, 11, 1},
		{7, 5, 6, 6},
		{count - 1, 1, count - 1, 1},
		{0, count, 0, count},
		{5, 0, 5, 0},                 // nothing
		{count - 1, 2, count - 1, 2}, // past the end
	} {
		got := l.along(block.Range{Layer: layer.StreamID(), First: tt.first, Count: tt.count}, held)
		if got.First != tt.wantFirst || got.Count != tt.wantCount {
			t.Errorf("along with %d blocks from %d come %d from %d, want %d from %d",
				tt.count, tt.first, got.Count, got.First, tt.wantCount, tt.wantFirst)
		}
	}
	unknown := block.Range{Count: 2}
	if got := l.along(unknown, held); got != unknown {
		t.Errorf("of an unknown stream: %v", got)
	}
}

// What is only lent does not keep a layer on the disk, and nobody relies on it being there.
func TestLentLayers(t *testing.T) {
	stored := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(1, 1, 1000)...)}
	layer, digest := openLayerOf(t, stored.Tar)
	like := ImageLayer{Index: digest, Digest: layer.BlobDigest(), DiffID: layer.DiffID(), Size: layer.BlobSize()}
	l := newLayerIndexes()
	lent, err := l.acquire(digest, layer, &closer{})
	if err != nil {
		t.Fatal(err)
	}
	l.lend(lent, true)
	if _, ok := l.join(like); ok || len(l.digests()) != 0 {
		t.Errorf("a layer that is only lent: joined %t, needs %v", ok, l.digests())
	}
	if _, err := l.acquire(digest, layer, &closer{}); err != nil {
		t.Fatal(err)
	}
	if _, ok := l.join(like); !ok || len(l.digests()) != 2 {
		t.Errorf("a layer in use: joined %t, needs %v", ok, l.digests())
	}
}
