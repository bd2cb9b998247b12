package v1alpha1

import "errors"

// ImageKey names an image in a NodeBlocks object: the first 8 bytes, big-endian, of the
// SHA-256 digest of its platform manifest.
type ImageKey uint64

// ImageBlocks is what a node knows of one image. Sizes are in bytes.
type ImageBlocks struct {
	Key ImageKey
	// StartupMissing is what a start of the image still has to load.
	StartupMissing int64
	// Cached is how much of the image is on the node.
	Cached int64
	// Estimated says that no start-up set is known: StartupMissing is a guess.
	Estimated bool
}

// ErrImages is returned for a packed list of images that is malformed.
var ErrImages = errors.New("malformed list of images")
