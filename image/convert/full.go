package convert

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// converted notes what a layer has become in full mode.
func (w *work) converted() {
	if w.target.Digest != w.layer.Digest {
		w.done.FullDigest, w.done.FullSize = w.target.Digest, w.target.Size
	}
}

// makeTargets makes the images that the artifacts belong to. In full mode their manifests are
// pushed by digest, which makes nothing of them visible yet.
func (c *conversion) makeTargets(ctx context.Context) error {
	c.targets = make([]*registry.Image, len(c.images))
	for i, image := range c.images {
		c.targets[i] = image
		if c.compressor == nil || c.skipped[i] != "" || c.leftOut(image) {
			continue
		}
		target, err := c.makeFull(ctx, image)
		if err != nil {
			return err
		}
		c.targets[i] = target
		if c.artifacts[i], err = c.artifactOf(ctx, target, c.artifacts[i]); err != nil {
			return err
		}
	}
	return nil
}

// leftOut reports whether a layer of an image has no index.
func (c *conversion) leftOut(image *registry.Image) bool {
	for _, layer := range image.Layers {
		if c.byDigest[layer.Digest].skipped != "" {
			return true
		}
	}
	return false
}

// makeFull pushes the manifest of an image in full mode. An image whose layers are all in full
// mode stays as it is.
func (c *conversion) makeFull(ctx context.Context, image *registry.Image) (*registry.Image, error) {
	layers := make([]registry.Layer, len(image.Layers))
	same := true
	for i, layer := range image.Layers {
		layers[i] = c.byDigest[layer.Digest].target
		same = same && layers[i].Digest == layer.Digest
	}
	if _, full := image.Source(); full && same {
		return image, nil
	}
	target, manifest, err := image.Full(layers)
	if err != nil {
		return nil, err
	}
	if _, found := c.inFull[target.Digest]; found {
		return target, nil
	}
	return target, c.client.PushImage(ctx, c.ref.Context(), target, manifest)
}

// artifactOf returns the artifact that an image in full mode has already, nil if none. Traces and bundles
// are the same in both modes, so the image also gets the start-up artifact of its source, if that is newer.
func (c *conversion) artifactOf(ctx context.Context, target *registry.Image, source *registry.Artifact) (*registry.Artifact, error) {
	existing := c.inFull[target.Digest]
	if source == nil || source.Startup == nil || source.Subject == target.Digest {
		return existing, nil
	}
	if existing != nil && existing.Startup != nil && !source.Startup.Created.After(existing.Startup.Created) {
		return existing, nil
	}
	startup := *source.Startup
	manifest, err := registry.EncodeStartup(target.Descriptor, &startup)
	if err != nil {
		return nil, err
	}
	startup.Digest, startup.Size, startup.Subject = block.Sum(manifest), int64(len(manifest)), target.Digest
	if err := c.client.PushArtifact(ctx, c.ref.Context(), manifest); err != nil {
		return nil, err
	}
	if existing == nil {
		existing = &registry.Artifact{}
	}
	existing.Startup = &startup
	return existing, nil
}

// lookUpFull finds the layers that were converted before: those of the image itself if it is in full mode, of what its
// accelerated tag names, of the images the caller knows, and of the tags spelled most alike.
func (c *conversion) lookUpFull(ctx context.Context) error {
	for i, image := range c.images {
		c.learnFull(image, c.artifacts[i])
	}
	if err := c.lookUpTag(ctx); err != nil {
		return err
	}
	if c.cfg.Reindex {
		clear(c.reusable)
		return nil
	}
	for _, step := range []func(context.Context) error{c.lookUpCheckpoints, c.lookUpKnown, c.lookUpNeighbours} {
		if c.missing() == 0 {
			return nil
		}
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// learnFull notes the layers of an image in full mode that the images to convert have. Any other
// image is left alone.
func (c *conversion) learnFull(image *registry.Image, a *registry.Artifact) {
	if _, full := image.Source(); !full || a == nil {
		return
	}
	repo := image.Name.Context()
	if repo.String() == c.ref.Context().String() {
		c.inFull[image.Digest] = a
	}
	c.learnLayers(repo, image.Layers, a.Indexes)
}

// learnFullTag notes the layers of the images in full mode under a tag.
func (c *conversion) learnFullTag(ctx context.Context, tag name.Tag) error {
	listing, err := c.client.ResolveAll(ctx, tag)
	if errors.Is(err, block.ErrNotFound) || errors.Is(err, registry.ErrInvalid) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.learnFullImages(ctx, listing.Images)
}

// learnFullKnown notes the layers of an image the caller knows, and of its accelerated tag.
func (c *conversion) learnFullKnown(ctx context.Context, ref name.Reference, images []*registry.Image) error {
	if err := c.learnFullImages(ctx, images); err != nil {
		return err
	}
	if tag, ok := ref.(name.Tag); ok {
		return c.learnFullTag(ctx, registry.AcceleratedTag(tag))
	}
	return nil
}

func (c *conversion) learnFullImages(ctx context.Context, images []*registry.Image) error {
	for _, image := range images {
		if _, full := image.Source(); !full {
			continue
		}
		a, err := c.client.FindArtifact(ctx, image)
		if errors.Is(err, registry.ErrNoArtifact) {
			continue // a conversion that was interrupted has left it
		}
		if err != nil {
			return fmt.Errorf("looking for converted layers: %w", err)
		}
		c.learnFull(image, a)
	}
	return nil
}
