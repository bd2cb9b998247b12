package node

import (
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// CheckNote reports whether a note can be read.
func CheckNote(content []byte) error {
	_, err := parseNote(content)
	return err
}

// EndStarts returns the starts of a node as if the time in which they are measured had passed.
func EndStarts(n *Node) []StartDelay { return n.delays.ended(time.Now().Add(delayWindow)) }

// Lent returns the disk cache as peers see it.
func Lent(n *Node) block.Source {
	return &lentDisk{node: n, open: make(map[block.Digest]struct{})}
}

// Known reports whether the digests of a layer stream are known to a node.
func Known(n *Node, stream block.Digest) bool { return n.layerIndexes.layer(stream) != nil }
