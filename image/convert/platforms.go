package convert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// chosen returns what ref names, and those of its images that are to be converted: all, or one for
// each platform.
func chosen(
	ctx context.Context, client *registry.Client, ref name.Reference, platforms []v1.Platform,
) (*registry.Listing, []*registry.Image, error) {
	listing, err := client.ResolveAll(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	if len(platforms) == 0 {
		return listing, listing.Images, nil
	}
	var images []*registry.Image
	for _, p := range platforms {
		image, err := listing.Choose(p)
		if err != nil {
			return nil, nil, err
		}
		if !slices.Contains(images, image) {
			images = append(images, image)
		}
	}
	return listing, images, nil
}

// unfit says which layer of an image is not a tar, "" if all are.
func unfit(image *registry.Image) string {
	for _, layer := range image.Layers {
		if !layer.IsTar() {
			return fmt.Sprintf("layer %s is a %.100q, not a tar", layer.Digest, layer.MediaType)
		}
	}
	return ""
}

// skip notes why a layer has no index if that leaves out its platforms only, and returns any
// other error. What is no tar must be as its manifest says: otherwise it was damaged on the way,
// or in the registry.
func (c *conversion) skip(ctx context.Context, w *work, err error) error {
	switch {
	case w.layer.Foreign && errors.Is(err, block.ErrNotFound):
		w.skipped = fmt.Sprintf("layer %s is not distributable and not in the registry", w.layer.Digest)
	case errors.Is(err, index.ErrUnfit):
		if err := c.checkBlob(ctx, w); err != nil {
			return err
		}
		w.skipped = fmt.Sprintf("layer %s: %s", w.layer.Digest, err)
	default:
		return err
	}
	return nil
}

// checkBlob reads a layer to compare its digest.
func (c *conversion) checkBlob(ctx context.Context, w *work) (err error) {
	blob, err := c.client.OpenBlob(ctx, c.ref.Context(), w.layer.Digest, w.layer.Size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	hash := sha256.New()
	if _, err := io.Copy(hash, blob); err != nil {
		return fmt.Errorf("reading the layer blob: %w", err)
	}
	if got := block.Digest(hash.Sum(nil)); got != w.layer.Digest {
		return fmt.Errorf("%w: the registry sent a blob with digest %s", ErrMismatch, got)
	}
	return nil
}

// skippedManifests reports what was left out of the image index.
func (c *conversion) skippedManifests() []Platform {
	if len(c.cfg.Platforms) > 0 {
		return nil
	}
	var left []Platform
	for _, s := range c.listing.Skipped {
		p := Platform{Skipped: s.Reason, Layers: []block.Digest{}}
		if s.Descriptor.Platform != nil {
			p.Platform = registry.FormatPlatform(*s.Descriptor.Platform)
		}
		if digest, err := block.ParseDigest(s.Descriptor.Digest.String()); err == nil {
			p.Manifest = digest
		}
		left = append(left, p)
	}
	return left
}

// accelerated returns what the accelerated image index lists besides artifacts: what ref names. Images
// in full mode take the places of their sources: those that were made, and those that kept has by
// their source. One whose source is in a nested image index comes first, to be preferred to it.
func (c *conversion) accelerated(kept map[block.Digest]*registry.Image) *registry.Listing {
	full := make(map[v1.Hash]*registry.Image)
	for source, image := range kept {
		full[v1.Hash{Algorithm: "sha256", Hex: source.Hex()}] = image
	}
	for i, image := range c.images {
		if c.targets[i] != image {
			full[image.Descriptor.Digest] = c.targets[i]
		}
	}
	if len(full) == 0 {
		return c.listing
	}
	base := &registry.Listing{Digest: c.listing.Digest, Annotations: c.listing.Annotations}
	for _, image := range c.listing.Images {
		source := image.Descriptor
		target, ok := full[source.Digest]
		if !ok {
			base.Images = append(base.Images, image)
			continue
		}
		listed := slices.ContainsFunc(c.listing.Members, func(m v1.Descriptor) bool { return m.Digest == source.Digest })
		if !listed && !contains(base.Images, target.Digest) {
			base.Members = append(base.Members, entryOf(target, nil))
		}
		base.Images = append(base.Images, target)
	}
	for _, m := range c.listing.Members {
		if target, ok := full[m.Digest]; ok {
			m = entryOf(target, m.Platform)
		}
		base.Members = append(base.Members, m)
	}
	return base
}

// entryOf returns the entry of an image in an image index, for its own platform if that is nil.
func entryOf(image *registry.Image, platform *v1.Platform) v1.Descriptor {
	d := image.Descriptor
	if d.Platform = platform; platform == nil {
		own := image.Platform()
		d.Platform = &own
	}
	return d
}

// keptFull returns the images in full mode that the accelerated tag has for the platforms that are not
// converted now, by the manifest that each was made from: a conversion of some platforms takes
// nothing from the others.
func (c *conversion) keptFull(ctx context.Context, tag name.Tag, listed []registry.Descriptor) (map[block.Digest]*registry.Image, error) {
	if len(c.cfg.Platforms) == 0 || len(listed) == 0 {
		return nil, nil
	}
	listing, err := c.client.ResolveAll(ctx, tag)
	if errors.Is(err, block.ErrNotFound) || errors.Is(err, registry.ErrInvalid) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kept := make(map[block.Digest]*registry.Image)
	for _, image := range listing.Images {
		source, full := image.Source()
		indexed := slices.ContainsFunc(listed, func(d registry.Descriptor) bool { return d.Subject == image.Digest && !d.Startup })
		if full && indexed && !contains(c.images, source) && contains(c.listing.Images, source) {
			kept[source] = image
		}
	}
	return kept, nil
}

func contains(images []*registry.Image, digest block.Digest) bool {
	return slices.ContainsFunc(images, func(image *registry.Image) bool { return image.Digest == digest })
}

// others returns the artifacts under the accelerated tag of images that it lists still, and that
// this conversion was not asked for.
func (c *conversion) others(images []*registry.Image, listed []registry.Descriptor) []registry.Descriptor {
	var kept []registry.Descriptor
	for _, d := range listed {
		if contains(images, d.Subject) && !contains(c.targets, d.Subject) {
			kept = append(kept, d)
		}
	}
	return kept
}

// place returns where an artifact stands among those of the other images.
func place(images []*registry.Image, d registry.Descriptor) int {
	return slices.IndexFunc(images, func(image *registry.Image) bool { return image.Digest == d.Subject })
}
