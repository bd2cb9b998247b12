package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
)

// Retain drops everything on disk that neither the given images nor mounts need:
// indexes, metadata, blocks. Recorded traces stay, for the next pull of their images, but pin nothing. Objects that are kept for other reasons are given too.
func (n *Node) Retain(ctx context.Context, images []*Image, objects ...block.Digest) error {
	n.stopPreparing(func(image *Image) bool {
		return slices.ContainsFunc(images, func(other *Image) bool { return other.Digest == image.Digest })
	})
	n.keeping.Lock()
	defer n.keeping.Unlock()
	keep := n.inUse()
	for _, object := range objects {
		keep[object] = struct{}{}
	}
	for _, image := range images {
		for _, t := range image.Traces {
			keep[t.Digest] = struct{}{}
		}
		if image.Bundle != nil {
			keep[image.Bundle.Table] = struct{}{}
		}
		for i, layer := range image.Layers[:image.Indexed()] {
			keep[layer.Index] = struct{}{}
			keep[layer.Head.Digest] = struct{}{}
			keep[layer.Stream] = struct{}{}
			keep[image.id(i+1)] = struct{}{}
		}
	}
	kept := func(digest block.Digest) bool { _, ok := keep[digest]; return ok }
	_, err := n.objects.Sweep(kept)
	errs := []error{err, n.fs.Sweep(kept), n.retainBundles(kept), n.proofs.retain(kept)}
	n.startupTraces.retain(kept)
	for _, image := range images {
		n.expectTrace(image)
	}
	n.disk.DropStalePins() // those of mounts that were given up would be in the way
	for _, stream := range n.disk.Layers() {
		if kept(stream) {
			continue
		}
		if err := n.disk.Remove(stream); err != nil {
			errs = append(errs, fmt.Errorf("dropping the blocks of layer %s: %w", stream.Short(), err))
			continue
		}
		n.log.InfoContext(ctx, "blocks of an unused layer removed", "layer", stream.Short())
	}
	return errors.Join(errs...)
}

// inUse returns the digests of all indexes, streams and metadata that mounts use.
func (n *Node) inUse() map[block.Digest]struct{} {
	used := n.layerIndexes.digests()
	n.mu.Lock()
	defer n.mu.Unlock()
	for p := range n.preparing {
		used[p.image.id(len(p.layers))] = struct{}{}
	}
	for m := range n.mounts {
		if m.image.Bundle != nil {
			used[m.image.Bundle.Table] = struct{}{}
		}
		var digests []block.Digest
		for _, layer := range m.layers {
			digests = append(digests, layer.digest)
		}
		used[lazyfs.ImageID(digests)] = struct{}{}
	}
	return used
}

// LayerBytes returns how many bytes one layer of an image takes on this machine, the
// bottom one being 0, and how many inodes: what of it is in the disk cache, its index, and
// the metadata of the layers up to it.
func (n *Node) LayerBytes(image *Image, layer int) (size, inodes int64) {
	if usage, ok := n.disk.LayerUsage(image.Layers[layer].Stream); ok {
		size, inodes = usage.Bytes, cacheFiles
	}
	for _, path := range []string{n.objects.Path(image.Layers[layer].Index), n.objects.Path(image.Layers[layer].Head.Digest), n.fs.MetadataPath(image.id(layer + 1))} {
		if info, err := os.Stat(path); err == nil {
			size += info.Size()
			inodes++
		}
	}
	return size, inodes
}

// cacheFiles is how many files the disk cache has for a layer: data, record and the
// directory of both.
const cacheFiles = 3

// PutObject stores a small object under its digest, and returns it.
func (n *Node) PutObject(content []byte) (block.Digest, error) {
	n.keeping.RLock()
	defer n.keeping.RUnlock()
	digest := block.Sum(content)
	return digest, n.objects.Put(digest, content)
}

// Object returns an object of at most limit bytes that was stored before. The error
// wraps [block.ErrNotFound] if there is none.
func (n *Node) Object(digest block.Digest, limit int64) ([]byte, error) {
	return n.objects.Get(digest, limit)
}
