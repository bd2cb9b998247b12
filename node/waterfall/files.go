package waterfall

import (
	"fmt"

	"github.com/brisk-project/brisk/image/index"
)

// maxExtents bounds the parts of files that are looked at in one layer.
const maxExtents = 1 << 22

// FilesOf returns the files of a layer.
func FilesOf(layer *index.Layer) (*Files, error) {
	files := new(Files)
	for entry, err := range layer.Entries() {
		if err != nil {
			return nil, fmt.Errorf("reading the entries of layer %s: %w", layer.BlobDigest().Short(), err)
		}
		for _, segment := range entry.Segments {
			if len(files.extents) == maxExtents {
				return nil, fmt.Errorf("layer %s has more than %d parts of files", layer.BlobDigest().Short(), maxExtents)
			}
			files.Add(entry.Path, segment.StreamOffset, segment.Length, segment.FileOffset)
		}
	}
	files.Sort()
	return files, nil
}
