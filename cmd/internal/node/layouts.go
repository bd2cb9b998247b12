package node

import (
	"crypto/sha256"
	"fmt"
	"io"
	"sync"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// layouts holds the layer indexes in use. It implements [block.Layout] for
// everything that verifies blocks.
//
// A diffID cannot be checked against an index without reading the whole layer, so
// an index could claim the diffID of somebody else's layer with digests of its own.
// Blocks it let into the cache would then reach the other image. Therefore only one
// table of block digests is ever in force for a diffID: an index with a different
// one is refused while the first is in use.
type layouts struct {
	mu     sync.RWMutex
	layers map[block.Digest]*openLayer // by digest of the index
	tables map[block.Digest]*table     // by diffID
}

// openLayer is a layer index and how many mounts use it.
type openLayer struct {
	*index.Layer
	digest block.Digest
	file   io.Closer
	users  int
}

// table is what is known of the blocks of a layer stream, and how many indexes in
// use say so.
type table struct {
	digest block.Digest // of all block digests
	layer  *index.Layer
	users  int
}

func newLayouts() *layouts {
	return &layouts{layers: make(map[block.Digest]*openLayer), tables: make(map[block.Digest]*table)}
}

// acquire puts the index with the given digest in force, or joins its other users;
// file is then closed at once. On an error the caller keeps file.
func (l *layouts) acquire(digest block.Digest, layer *index.Layer, file io.Closer) (*openLayer, error) {
	sum := tableDigest(layer)
	l.mu.Lock()
	defer l.mu.Unlock()
	if open := l.layers[digest]; open != nil {
		if err := file.Close(); err != nil {
			return nil, fmt.Errorf("closing layer index: %w", err)
		}
		open.users++
		return open, nil
	}
	known := l.tables[layer.DiffID()]
	if known == nil {
		known = &table{digest: sum, layer: layer}
		l.tables[layer.DiffID()] = known
	}
	if known.digest != sum {
		return nil, fmt.Errorf("the index of layer %s contradicts one that is in use for the same diffID: one of them is forged or damaged",
			layer.DiffID())
	}
	known.users++
	open := &openLayer{Layer: layer, digest: digest, file: file, users: 1}
	l.layers[digest] = open
	return open, nil
}

// release ends one use of a layer index.
func (l *layouts) release(open *openLayer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if open.users--; open.users > 0 {
		return nil
	}
	delete(l.layers, open.digest)
	known := l.tables[open.DiffID()]
	if known.users--; known.users == 0 {
		delete(l.tables, open.DiffID())
	}
	if err := open.file.Close(); err != nil {
		return fmt.Errorf("closing layer index: %w", err)
	}
	return nil
}

// tableDigest is a digest of all block digests of a layer.
func tableDigest(layer *index.Layer) block.Digest {
	all := sha256.New()
	for i := range block.Count(layer.StreamSize()) {
		digest, _ := layer.BlockDigest(i)
		all.Write(digest[:])
	}
	return block.Digest(all.Sum(nil))
}

// StreamSize implements [block.Layout].
func (l *layouts) StreamSize(diffID block.Digest) (int64, bool) {
	if layer := l.layer(diffID); layer != nil {
		return layer.StreamSize(), true
	}
	return 0, false
}

// BlockDigest implements [block.Layout].
func (l *layouts) BlockDigest(k block.Key) (block.Digest, bool) {
	if layer := l.layer(k.Layer); layer != nil {
		return layer.BlockDigest(k.Index)
	}
	return block.Digest{}, false
}

// layer returns any index in use for the diffID. Block digests are in memory, so
// it does not matter whose file is closed first.
func (l *layouts) layer(diffID block.Digest) *index.Layer {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if known := l.tables[diffID]; known != nil {
		return known.layer
	}
	return nil
}

// along returns the blocks that the frames of a range hold whole: what the
// registry sends with it in any case.
func (l *layouts) along(r block.Range) block.Range {
	layer := l.layer(r.Layer)
	if layer == nil || r.Count == 0 || r.End() > layer.BlockCount() {
		return r
	}
	first, err := frameOf(layer, r.Key(0).Offset())
	if err != nil {
		return r
	}
	last, err := frameOf(layer, min(r.Key(r.Count).Offset(), layer.StreamSize())-1)
	if err != nil {
		return r
	}
	from := min(r.First, block.Count(first.StreamOffset))
	to := max(r.End(), uint32((last.StreamOffset+last.StreamLength)/block.Size))
	return block.Range{Layer: r.Layer, First: from, Count: to - from}
}

func frameOf(layer *index.Layer, offset int64) (index.Frame, error) {
	i, err := layer.FrameAt(offset)
	if err != nil {
		return index.Frame{}, err
	}
	return layer.Frame(i)
}
