package agent

import "github.com/brisk-project/brisk/node"

// Mode is the way in which images with an index are loaded.
type Mode string

// The modes.
const (
	ModeAuto  Mode = "auto"  // as ModeFill, but as ModeLazy what the cache cannot hold
	ModeLazy  Mode = "lazy"  // what is read
	ModeFill  Mode = "fill"  // everything, in parallel, from the pull on; what is read first
	ModePlain Mode = "plain" // not lazily at all
)

// cacheShare is the part of the cache, as one in so many, that an image may take for it
// to be loaded whole in ModeAuto: one that pushes out others, or its own first blocks,
// gains nothing by it.
const cacheShare = 2

// fills reports whether the blocks of an image are loaded before they are read.
func (i images) fills(image *node.Image) bool {
	switch i.mode {
	case ModeLazy, ModePlain:
		return false
	case ModeFill:
		return true
	case ModeAuto:
	}
	var size int64
	for _, layer := range image.Layers {
		size += layer.StreamSize
	}
	return i.cacheBytes == 0 || size <= i.cacheBytes/cacheShare
}
