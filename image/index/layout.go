package index

import "github.com/brisk-project/brisk/internal/block"

// Layout knows the blocks of layers by their stream ID. It implements [block.Layout].
type Layout map[block.Digest]*Layer

// StreamSize implements [block.Layout].
func (l Layout) StreamSize(stream block.Digest) (int64, bool) {
	if layer := l[stream]; layer != nil {
		return layer.StreamSize(), true
	}
	return 0, false
}

// BlockDigest implements [block.Layout].
func (l Layout) BlockDigest(k block.Key) (block.Digest, bool) {
	if layer := l[k.Layer]; layer != nil {
		return layer.BlockDigest(k.Index)
	}
	return block.Digest{}, false
}
