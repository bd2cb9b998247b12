package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// probeTime is how long the first look at whether a registry serves ranges may hold up a pull: as
// long as the look-up of an image may.
const probeTime = time.Second

// streamCache is the disk cache as the registry fills it with layers that it has to read whole.
type streamCache struct{ node *Node }

// Fetch implements [block.Source].
func (c streamCache) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	return c.node.disk.Fetch(ctx, req, sink)
}

// Put implements [block.Store]. No other block than the right one gets into the cache.
func (c streamCache) Put(ctx context.Context, k block.Key, data []byte) error {
	want, ok := c.node.layerIndexes.BlockDigest(k)
	if !ok {
		return fmt.Errorf("caching block %s: its digest: %w", k, block.ErrNotFound)
	}
	if got := block.Sum(data); got != want {
		return fmt.Errorf("caching block %s: digest is %s, not %s: %w", k, got.Short(), want.Short(), block.ErrCorrupt)
	}
	return c.node.disk.Put(ctx, k, data)
}

// noteStreamed counts a block that came from the registry for nobody in particular.
func (n *Node) noteStreamed(k block.Key, bytes int) {
	n.trafficCounters.change(k.Layer, func(t *Traffic) { *fromRegistry(t) += int64(bytes) })
	n.registryRate.change(time.Now(), 0, int64(bytes))
}

// checkRanges returns an error that wraps [registry.ErrNoRanges] if the registry of an image does
// not serve ranges of its largest layer. That it cannot be asked is no error.
func (n *Node) checkRanges(ctx context.Context, repo name.Repository, image *Image) error {
	var largest ImageLayer
	for _, layer := range image.Layers[:image.Indexed()] {
		if layer.Size > largest.Size {
			largest = layer
		}
	}
	if largest.Size == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	err := n.cfg.Registry.CheckRanges(ctx, repo, largest.Digest, largest.Size)
	if errors.Is(err, registry.ErrNoRanges) {
		return fmt.Errorf("layer %s of %s: %w", largest.Digest.Short(), image.Name, err)
	}
	if err != nil {
		n.log.DebugContext(ctx, "not known whether the registry serves ranges", "image", image.Name, "error", err)
	}
	return nil
}

// local reports whether all that an image needs is in the disk cache.
func (n *Node) local(image *Image) bool {
	return !slices.ContainsFunc(image.Layers[:image.Indexed()], func(l ImageLayer) bool { return !n.disk.Complete(l.Stream) })
}
