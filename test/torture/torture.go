// Package torture makes small images that hold what real ones seldom do: every
// type of tar entry and every header format, awkward names, sizes, times, owners
// and extended attributes, and layers that hide, replace and link what lies below
// them in every way that containerd accepts. Tests unpack them with containerd and
// compare the outcome with a mount.
//
// The images are the same bytes on every run. They hold regular content that
// compresses and content that does not. Extended attributes and ACLs of some of
// them fit no ext4 directory: unpack them to a tmpfs.
package torture

import (
	"context"
	"slices"

	"github.com/brisk-project/brisk/test/fstree"
)

// Image is one image, without manifest and configuration.
type Image struct {
	// Name is short and fit for the name of a test or of a repository.
	Name string
	// Layers holds the layer streams, uncompressed tars, the bottom one first.
	Layers [][]byte
	// Plain, if set, holds layers that unpack to the same tree, for an image with
	// entries of a type that containerd refuses.
	Plain [][]byte
	// NoOverlay says that containerd refuses the image with its overlayfs snapshotter
	// and accepts it with those that unpack all layers into one directory.
	NoOverlay bool
}

// Unpack unpacks the image with containerd below the empty directory dir and returns the
// tree that a mount of Layers has to equal.
func (i Image) Unpack(ctx context.Context, dir string) (*fstree.Tree, error) {
	layers := i.Layers
	if i.Plain != nil {
		layers = i.Plain
	}
	if i.NoOverlay {
		return fstree.UnpackInto(ctx, dir, layers)
	}
	return fstree.Unpack(ctx, dir, layers)
}

// Images returns every image. The caller may keep and change them.
func Images() []Image {
	return slices.Concat(contentImages(), metadataImages(), mergeImages(), linkImages(), formatImages())
}
