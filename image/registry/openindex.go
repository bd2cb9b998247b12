package registry

import (
	"fmt"
	"io"

	"github.com/brisk-project/brisk/image/index"
)

// OpenIndex opens the index of a layer and checks that it describes that layer.
// The reader must hold verified bytes and stay valid while the index is used.
func OpenIndex(layer Layer, r io.ReaderAt, size int64) (*index.Layer, error) {
	return openIndex(layer, func() (*index.Layer, error) { return index.Open(r, size) })
}

func openIndex(layer Layer, open func() (*index.Layer, error)) (*index.Layer, error) {
	doing := "opening the index of layer " + layer.Digest.Short()
	opened, err := open()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	if opened.BlobDigest() != layer.Digest || opened.DiffID() != layer.DiffID || opened.BlobSize() != layer.Size {
		return nil, fmt.Errorf("%s: %w: it describes blob %s of %d bytes with diffID %s, not blob %s of %d bytes with diffID %s",
			doing, ErrInvalid, opened.BlobDigest(), opened.BlobSize(), opened.DiffID(), layer.Digest, layer.Size, layer.DiffID)
	}
	return opened, nil
}
