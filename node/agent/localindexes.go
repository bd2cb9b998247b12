package agent

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
	"github.com/brisk-project/brisk/node"
)

const (
	// maxIndexed bounds the images whose indexes this node has written, maxIndexBytes
	// their indexes, and maxList the list of them.
	maxIndexed    = 128
	maxIndexBytes = 512 << 20
	maxList       = 16 << 20
)

// localIndexes are the images whose indexes this node has written itself. They are kept when
// the images are removed, for the next pull to be lazy; those written first go first.
//
// Nobody else has had a hand in them: the layers were hashed when the indexes were
// made. So they are used without asking a registry for better ones.
type localIndexes struct {
	path string
	node *node.Node

	mu      sync.Mutex                       // guards what follows
	images  []*node.Image                    // the oldest first
	pending map[block.Digest]node.ImageLayer // indexes of an image that is not finished, by layer
}

// openLocalIndexes reads the list in a file. One that cannot be read is begun anew.
func openLocalIndexes(path string, n *node.Node) (*localIndexes, error) {
	w := &localIndexes{path: path, node: n, pending: make(map[block.Digest]node.ImageLayer)}
	list, err := statefile.Read(path, maxList)
	if err != nil {
		return w, fmt.Errorf("reading the list of indexes: %w", err)
	}
	if list == nil {
		return w, nil
	}
	w.images, err = parseLocalIndexes(list)
	return w, err
}

// parseLocalIndexes decodes a list, and leaves out what makes no sense.
func parseLocalIndexes(list []byte) ([]*node.Image, error) {
	var images []*node.Image
	if err := json.Unmarshal(list, &images); err != nil {
		return nil, fmt.Errorf("reading the list of indexes: %w", err)
	}
	images = slices.DeleteFunc(images, func(i *node.Image) bool {
		return i == nil || i.Digest.IsZero() || len(i.Layers) == 0 || i.Indexed() != len(i.Layers)
	})
	return images[max(0, len(images)-maxIndexed):], nil
}

// image returns the image with a manifest.
func (w *localIndexes) image(manifest string) (*node.Image, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, image := range w.images {
		if image.Digest.String() == manifest {
			return &node.Image{Name: image.Name, Digest: image.Digest, Layers: slices.Clone(image.Layers), Local: true}, true
		}
	}
	return nil, false
}

// layer returns a layer of any image that is the same.
func (w *localIndexes) layer(like node.ImageLayer) (node.ImageLayer, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, image := range w.images {
		for _, layer := range image.Layers {
			if layer.Digest == like.Digest && layer.DiffID == like.DiffID {
				return layer, true
			}
		}
	}
	return node.ImageLayer{}, false
}

// put stores the index of a layer of an image that is to be added.
func (w *localIndexes) put(layer node.ImageLayer, encoded []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending[layer.Digest] = layer
	_, err := w.node.PutObject(encoded)
	return err
}

// add adds an image whose layers all have indexes.
func (w *localIndexes) add(image *node.Image) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.pending)
	w.images = append(w.images, image)
	for len(w.images) > maxIndexed || len(w.images) > 1 && w.bytesLocked() > maxIndexBytes {
		w.images = w.images[1:]
	}
	return w.saveLocked()
}

// drop forgets an image, such as one of which an index is gone.
func (w *localIndexes) drop(manifest block.Digest) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.images = slices.DeleteFunc(w.images, func(i *node.Image) bool { return i.Digest == manifest })
	return w.saveLocked()
}

func (w *localIndexes) bytesLocked() int64 {
	var size int64
	for index := range w.indexesLocked() {
		size += index.IndexSize
	}
	return size
}

// indexesLocked returns the layers of all images, each index once.
func (w *localIndexes) indexesLocked() map[node.ImageLayer]struct{} {
	all := make(map[node.ImageLayer]struct{})
	for _, image := range w.images {
		for _, layer := range image.Layers {
			all[layer] = struct{}{}
		}
	}
	for _, layer := range w.pending {
		all[layer] = struct{}{}
	}
	return all
}

// retain calls fn with the digests of all indexes, which are not to be dropped. Until it
// returns no index is added.
func (w *localIndexes) retain(fn func(indexes []block.Digest) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var digests []block.Digest
	for index := range w.indexesLocked() {
		digests = append(digests, index.Index)
	}
	return fn(digests)
}

func (w *localIndexes) saveLocked() error {
	list, err := json.Marshal(w.images)
	if err != nil {
		return fmt.Errorf("encoding the list of indexes: %w", err)
	}
	if err := statefile.Write(w.path, list); err != nil {
		return fmt.Errorf("writing the list of indexes: %w", err)
	}
	return nil
}
