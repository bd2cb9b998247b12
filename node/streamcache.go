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
	c.node.compareBundles(ctx, k, data)
	return c.node.disk.Put(ctx, k, data)
}

// noteStreamed counts a block that came from the registry for nobody in particular.
func (n *Node) noteStreamed(k block.Key, bytes int) {
	n.trafficCounters.change(k.Layer, func(t *SourceStats) { *fromRegistry(t) += int64(bytes) })
	n.registryRate.change(time.Now(), 0, int64(bytes))
}

// rangeCheck is a look at whether a registry serves ranges, which goes on beside a pull.
type rangeCheck struct {
	cancel context.CancelFunc
	result <-chan error
}

// startRangeCheck begins to find out whether the registry of an image serves ranges of its largest
// layer. Whoever starts it waits for it or stops it.
func (n *Node) startRangeCheck(ctx context.Context, repo name.Repository, image *Image) rangeCheck {
	var largest ImageLayer
	for _, layer := range image.Layers[:image.Indexed()] {
		if layer.Size > largest.Size {
			largest = layer
		}
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	result := make(chan error, 1)
	go func() { result <- n.checkRanges(ctx, repo, image.Name, largest) }()
	return rangeCheck{cancel, result}
}

// wait returns an error that wraps [registry.ErrNoRanges] if ranges are not served.
func (c rangeCheck) wait() error {
	defer c.cancel()
	return <-c.result
}

// stop ends the check, whose result does not matter.
func (c rangeCheck) stop() {
	c.cancel()
	<-c.result //nolint:errcheck // the result does not matter
}

// checkRanges returns an error that wraps [registry.ErrNoRanges] if the registry of an image does
// not serve ranges of a layer. That it cannot be asked is no error.
func (n *Node) checkRanges(ctx context.Context, repo name.Repository, image string, layer ImageLayer) error {
	if layer.Size == 0 {
		return nil
	}
	err := n.cfg.Registry.CheckRanges(ctx, repo, layer.Digest, layer.Size)
	if errors.Is(err, registry.ErrNoRanges) {
		return fmt.Errorf("layer %s of %s: %w", layer.Digest.Short(), image, err)
	}
	if err != nil {
		n.log.DebugContext(ctx, "unknown whether the registry serves ranges", "image", image, "error", err)
	}
	return nil
}

// local reports whether all that an image needs is in the disk cache.
func (n *Node) local(image *Image) bool {
	return !slices.ContainsFunc(image.Layers[:image.Indexed()], func(l ImageLayer) bool { return !n.disk.Complete(l.Stream) })
}
