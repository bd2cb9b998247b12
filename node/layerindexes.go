package node

import (
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// layerIndexes holds the layer indexes in use. It implements [block.Layout] for
// everything that verifies blocks.
type layerIndexes struct {
	mu      sync.RWMutex
	layers  map[block.Digest]*openLayer   // by digest of the index
	streams map[block.Digest][]*openLayer // by stream ID; all say the same of the blocks
}

// openLayer is a layer index and how many mounts use it.
type openLayer struct {
	*index.Layer
	digest block.Digest
	file   io.Closer
	users  int
	lent   int // users that do not keep the layer from being dropped
}

func newLayerIndexes() *layerIndexes {
	return &layerIndexes{layers: make(map[block.Digest]*openLayer), streams: make(map[block.Digest][]*openLayer)}
}

// acquire puts the index with the given digest in force, or joins its other users;
// file is then closed at once. On an error the caller keeps file.
func (l *layerIndexes) acquire(digest block.Digest, layer *index.Layer, file io.Closer) (*openLayer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if open := l.layers[digest]; open != nil {
		if err := file.Close(); err != nil {
			return nil, fmt.Errorf("closing layer index: %w", err)
		}
		open.users++
		return open, nil
	}
	open := &openLayer{Layer: layer, digest: digest, file: file, users: 1}
	l.layers[digest] = open
	l.streams[layer.StreamID()] = append(l.streams[layer.StreamID()], open)
	return open, nil
}

// join joins the users of the index with the given digest, if it is in force and
// describes the layer. One that is only lent may have been dropped from the disk.
func (l *layerIndexes) join(layer ImageLayer) (*openLayer, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	open := l.layers[layer.Index]
	if open == nil || open.users == open.lent || open.BlobDigest() != layer.Digest || open.DiffID() != layer.DiffID || open.BlobSize() != layer.Size {
		return nil, false
	}
	open.users++
	return open, true
}

// lend makes one use of a layer index one that does not keep the layer from being dropped,
// or ends that, before the use is released.
func (l *layerIndexes) lend(open *openLayer, lent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lent {
		open.lent++
	} else {
		open.lent--
	}
}

// release ends one use of a layer index.
func (l *layerIndexes) release(open *openLayer) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if open.users--; open.users > 0 {
		return nil
	}
	delete(l.layers, open.digest)
	id := open.StreamID()
	l.streams[id] = slices.DeleteFunc(l.streams[id], func(other *openLayer) bool { return other == open })
	if len(l.streams[id]) == 0 {
		delete(l.streams, id)
	}
	if err := open.file.Close(); err != nil {
		return fmt.Errorf("closing layer index: %w", err)
	}
	return nil
}

// StreamSize implements [block.Layout].
func (l *layerIndexes) StreamSize(stream block.Digest) (int64, bool) {
	if layer := l.layer(stream); layer != nil {
		return layer.StreamSize(), true
	}
	return 0, false
}

// BlockDigest implements [block.Layout].
func (l *layerIndexes) BlockDigest(k block.Key) (block.Digest, bool) {
	if layer := l.layer(k.Layer); layer != nil {
		return layer.BlockDigest(k.Index)
	}
	return block.Digest{}, false
}

// layer returns any index in use for the stream, nil for none. Its block digests
// and frame table are in memory, so it does not matter if it is released meanwhile.
func (l *layerIndexes) layer(stream block.Digest) *index.Layer {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if open := l.streams[stream]; len(open) > 0 {
		return open[0].Layer
	}
	return nil
}

// along returns the blocks that the frames of a range hold whole: what the registry
// sends with it in any case. It leaves out those beyond a block that is held already:
// to want them would be to fetch a whole frame again for a block at its border, of
// which the source has kept the other part.
func (l *layerIndexes) along(r block.Range, held func(block.Key) bool) block.Range {
	layer := l.layer(r.Layer)
	if layer == nil || r.Count == 0 || r.End() > layer.BlockCount() {
		return r
	}
	from, err := frameOf(layer, r.Key(0).Offset())
	if err != nil {
		return r
	}
	to, err := frameOf(layer, min(r.Key(r.Count).Offset(), layer.StreamSize())-1)
	if err != nil {
		return r
	}
	missing := func(i uint32) bool { return !held(block.Key{Layer: r.Layer, Index: i}) }
	first, end := r.First, r.End()
	for first > block.Count(from.StreamOffset) && missing(first-1) {
		first--
	}
	for end < uint32((to.StreamOffset+to.StreamLength)/block.Size) && missing(end) {
		end++
	}
	return block.Range{Layer: r.Layer, First: first, Count: end - first}
}

func frameOf(layer *index.Layer, offset int64) (index.Frame, error) {
	i, err := layer.FrameAt(offset)
	if err != nil {
		return index.Frame{}, err
	}
	return layer.Frame(i)
}

// digests returns those of all indexes in use, and the stream IDs of their layers. What is
// only lent is left out.
func (l *layerIndexes) digests() map[block.Digest]struct{} {
	l.mu.RLock()
	defer l.mu.RUnlock()
	all := make(map[block.Digest]struct{}, len(l.layers)+len(l.streams))
	for digest, open := range l.layers {
		if open.users > open.lent {
			all[digest], all[open.StreamID()] = struct{}{}, struct{}{}
			for piece := range open.PieceDigests() {
				all[piece] = struct{}{}
			}
		}
	}
	return all
}
