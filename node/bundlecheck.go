package node

import (
	"context"
	"slices"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/pages"
)

// compared is a source of verified blocks. Pages of bundles are compared with them: only the digest
// of its bundle vouches for a page, that of the index for a block.
type compared struct {
	block.Source

	node *Node
}

// Fetch implements [block.Source].
func (c compared) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	return c.Source.Fetch(ctx, req, func(k block.Key, data []byte) error {
		c.node.compareBundles(ctx, k, data)
		return sink(k, data)
	})
}

// compareBundles drops the bundles that have other bytes than a block that was verified.
func (n *Node) compareBundles(ctx context.Context, k block.Key, data []byte) {
	for _, id := range n.bundles.store.Differing(k, data) {
		n.rejectBundle(ctx, id, k)
	}
}

// rejectBundle drops a bundle for good, and what mounts have cached of it.
func (n *Node) rejectBundle(ctx context.Context, id block.Digest, k block.Key) {
	set, err := n.bundles.store.Reject(id)
	if err != nil {
		n.log.WarnContext(ctx, "a bundle with wrong bytes may come back", "bundle", id.String(), "error", err)
	}
	if set == nil {
		return
	}
	n.bundles.metrics.rejected.Inc()
	var images []string
	for _, m := range n.mountsOfBundle(id) {
		images = append(images, m.image.Name)
	}
	n.log.ErrorContext(ctx, "the bundle of an image has other bytes than its layers; it is dropped. Programs that have read them need a restart",
		"images", images, "bundle", id.String(), "block", k.String())
	n.bundles.mu.Lock()
	defer n.bundles.mu.Unlock()
	if load := n.bundles.loads[id]; load != nil {
		load.cancel()
	}
	if n.bundles.closed {
		return
	}
	// Not here: a read may wait for the block.
	ctx = context.WithoutCancel(ctx)
	n.preparations.Go(func() { n.forgetBundlePages(ctx, set) })
}

func (n *Node) mountsOfBundle(id block.Digest) []*Mount {
	return slices.DeleteFunc(n.mounted(), func(m *Mount) bool { return m.image.Bundle == nil || m.image.Bundle.Table != id })
}

// forgetBundlePages makes the kernel forget what it has cached of a bundle, for the mounts and for
// the layer files that they are made of.
func (n *Node) forgetBundlePages(ctx context.Context, set *pages.Set) {
	for _, layer := range set.Layers() {
		if err := n.fs.DropPages(layer); err != nil {
			n.log.WarnContext(ctx, "page cache may keep wrong bytes of a bundle", "layer", layer.Short(), "error", err)
		}
	}
	for _, m := range n.mountsOfBundle(set.ID()) {
		if err := m.forgetPages(set); err != nil {
			n.log.WarnContext(ctx, "page cache may keep wrong bytes of a bundle", "image", m.image.Name, "error", err)
		}
	}
}

// forgetPages drops the cached pages of all files of which a bundle has a part.
func (m *Mount) forgetPages(set *pages.Set) error {
	return m.eachFile(func(f *erofs.Node, layer block.Digest, drop func(parts []filePart) (bool, error)) error {
		for _, s := range f.Segments {
			if set.Overlaps(layer, s.StreamOffset, s.Length) {
				_, err := drop(nil)
				return err
			}
		}
		return nil
	})
}
