package agent

import (
	"fmt"
	"path/filepath"

	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/node"
)

// Streams finds layer streams in the directory of an agent, which may run or not.
type Streams struct {
	// Dir is the directory of the agent.
	Dir string
}

// Stream returns the file that has the stream of a layer of an image, in part or in
// full, and how long it is in full. The image is given by its ID, the bottom layer is 0. The
// content is not verified.
func (s Streams) Stream(image string, layer int) (path string, size int64, err error) {
	objects, err := cache.OpenObjects(filepath.Join(s.Dir, "objects"))
	if err != nil {
		return "", 0, err
	}
	opened, _, err := readRecord(image, objects.Get)
	if err != nil {
		return "", 0, err
	}
	if layer < 0 || layer >= len(opened.Layers) {
		return "", 0, fmt.Errorf("image %s has %d layers, no layer %d", opened.Name, len(opened.Layers), layer)
	}
	found := opened.Layers[layer]
	return node.StreamFile(s.Dir, found.Stream), found.StreamSize, nil
}
