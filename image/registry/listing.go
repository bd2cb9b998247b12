package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// maxPlatforms is the most manifests that are looked at of one image index, and of all
	// that are nested in it together.
	maxPlatforms = 256
	// maxNesting is how deep image indexes may lie in each other.
	maxNesting = 4
)

// Listing is everything that a reference names.
type Listing struct {
	// Digest is that of the manifest or image index. Of an accelerated one it is the digest of
	// what that was made from.
	Digest block.Digest
	// Images are the runnable images in the order of the image index. They may be listed for
	// several platforms.
	Images []*Image
	// Skipped are the listed manifests that are no image that could be read, without
	// attestations and artifacts of ours.
	Skipped []SkippedManifest
	// Members are the entries of the image index, as they are, but for artifacts of ours. An
	// image outside an image index is the only one.
	Members []v1.Descriptor
	// Annotations are those of the image index.
	Annotations map[string]string

	members []member // nil for an image outside an image index
}

// SkippedManifest is a manifest that an image index lists and that is left out.
type SkippedManifest struct {
	Descriptor v1.Descriptor
	Reason     string
}

// Choose returns the image that a machine of a platform runs, as containerd chooses. Errors
// wrap [block.ErrNotFound].
func (l *Listing) Choose(platform v1.Platform) (*Image, error) {
	if l.members == nil && len(l.Images) == 1 {
		return l.Images[0], nil
	}
	matcher := matcherOf(platform)
	for _, d := range preferred(l.members, matcher) {
		i := slices.IndexFunc(l.Images, func(image *Image) bool { return image.Descriptor.Digest == d.Digest })
		if i >= 0 && (d.Platform != nil || matcher.Match(spec(l.Images[i].Platform()))) {
			return l.Images[i], nil
		}
	}
	return nil, errNoPlatform(l.members, platform)
}

func errNoPlatform(members []member, platform v1.Platform) error {
	var have []string
	for _, m := range flatten(members) {
		if m.reason == "" && m.Platform != nil {
			have = append(have, FormatPlatform(*m.Platform))
		}
	}
	asked := FormatPlatform(platform)
	if asked == "" {
		asked = "this machine's"
	}
	return fmt.Errorf("%w: no image for platform %s, there is one for: %s", block.ErrNotFound, asked, strings.Join(have, ", "))
}

// member is an entry of an image index.
type member struct {
	v1.Descriptor

	nested []member // the entries of a nested image index, not nil for one
	reason string   // why it is not an image, "" if it may be one
}

func flatten(members []member) []member {
	var flat []member
	for _, m := range members {
		if m.nested != nil {
			flat = append(flat, flatten(m.nested)...)
			continue
		}
		flat = append(flat, m)
	}
	return flat
}

// ResolveAll returns everything that ref names, with the images for all platforms. What cannot
// be read of an image index because it is no image, or not in the registry, is skipped. Errors
// are those of [Client.Resolve].
func (c *Client) ResolveAll(ctx context.Context, ref name.Reference) (*Listing, error) {
	root, err := c.manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !root.MediaType.IsIndex() {
		image, err := c.image(ctx, ref, root, nil)
		if err != nil {
			return nil, err
		}
		return &Listing{Digest: image.Digest, Images: []*Image{image}, Members: []v1.Descriptor{image.entry()}}, nil
	}
	walk := &indexWalk{client: c, ref: ref}
	index, err := walk.read(root.Manifest)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", ref, err)
	}
	l := &Listing{Digest: rootOf(root.Manifest, index), Annotations: index.Annotations}
	l.Members = slices.DeleteFunc(slices.Clone(index.Manifests), isArtifact)
	if l.members, err = walk.members(ctx, index, 0); err != nil {
		return nil, err
	}
	return l, c.resolveMembers(ctx, ref, l, walk.artifacts)
}

// resolveMembers fetches the images of a listing.
func (c *Client) resolveMembers(ctx context.Context, ref name.Reference, l *Listing, artifacts []v1.Descriptor) error {
	flat := flatten(l.members)
	images := make([]*Image, len(flat))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(smallFetches)
	for i, m := range flat {
		if m.reason != "" {
			continue
		}
		group.Go(func() error {
			var err error
			images[i], err = c.member(groupCtx, ref, m.Descriptor, artifacts)
			if errors.Is(err, ErrInvalid) || notFound(err) {
				flat[i].reason = err.Error()
				return nil
			}
			if err == nil {
				images[i].root = l.Digest
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, m := range flat {
		switch {
		case images[i] != nil:
			l.Images = append(l.Images, images[i])
		case m.reason != isAttestation:
			l.Skipped = append(l.Skipped, SkippedManifest{Descriptor: m.Descriptor, Reason: m.reason})
		}
	}
	if len(l.Images) > 0 {
		return nil
	}
	why := "it is empty"
	if len(l.Skipped) > 0 {
		why = l.Skipped[0].Reason
	}
	return fmt.Errorf("resolving %s: %w: the image index lists no runnable image: %s", ref, ErrInvalid, why)
}

// rootOf returns the digest of an image index; of an accelerated one that of what it was made from.
func rootOf(manifest []byte, index *v1.IndexManifest) block.Digest {
	base, err := block.ParseDigest(index.Annotations[AnnotationBase])
	if err == nil && slices.ContainsFunc(index.Manifests, isArtifact) {
		return base
	}
	return block.Sum(manifest)
}

// indexWalk reads an image index with all that are nested in it.
type indexWalk struct {
	client    *Client
	ref       name.Reference
	count     int
	artifacts []v1.Descriptor // those of ours
}

// read parses an image index and counts what it lists.
func (w *indexWalk) read(manifest []byte) (*v1.IndexManifest, error) {
	index, err := parseIndex(manifest)
	if err != nil {
		return nil, err
	}
	if w.count += len(index.Manifests); w.count > maxPlatforms {
		return nil, fmt.Errorf("%w: nested image indexes list %d manifests, the limit is %d", ErrInvalid, w.count, maxPlatforms)
	}
	return index, nil
}

// members returns the entries of an image index, never nil.
func (w *indexWalk) members(ctx context.Context, index *v1.IndexManifest, depth int) ([]member, error) {
	members := []member{}
	for _, d := range index.Manifests {
		if isArtifact(d) {
			w.artifacts = append(w.artifacts, d)
			continue
		}
		m := member{Descriptor: d, reason: notAnImage(d)}
		if d.MediaType.IsIndex() {
			var err error
			if m.nested, err = w.nested(ctx, d, depth+1); notFound(err) {
				m.reason = err.Error()
			} else if err != nil {
				return nil, err
			}
		}
		members = append(members, m)
	}
	return members, nil
}

func (w *indexWalk) nested(ctx context.Context, d v1.Descriptor, depth int) ([]member, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("resolving %s: %w: image indexes are nested deeper than %d", w.ref, ErrInvalid, maxNesting)
	}
	got, err := w.client.manifest(ctx, w.ref.Context().Digest(d.Digest.String()))
	if err != nil {
		return nil, err
	}
	index, err := w.read(got.Manifest)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", w.ref, err)
	}
	return w.members(ctx, index, depth)
}

func parseIndex(manifest []byte) (*v1.IndexManifest, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(manifest))
	if err != nil {
		return nil, fmt.Errorf("%w: image index: %w", ErrInvalid, err)
	}
	if len(index.Manifests) > maxPlatforms {
		return nil, fmt.Errorf("%w: image index lists %d manifests, the limit is %d", ErrInvalid, len(index.Manifests), maxPlatforms)
	}
	return index, nil
}

// isAttestation is the reason not to take what is listed for platform unknown/unknown. Builders
// put attestations there.
const isAttestation = "attestation"

// notAnImage says why an entry of an image index is not an image, "" if it may be one. Some tools
// give images an artifact type too: that of their configuration.
func notAnImage(d v1.Descriptor) string {
	switch {
	case d.MediaType.IsIndex():
		return ""
	case d.Platform != nil && d.Platform.OS == unknown && d.Platform.Architecture == unknown:
		return isAttestation
	case !d.MediaType.IsImage():
		return fmt.Sprintf("manifest %s is a %.100q, not an image", d.Digest, d.MediaType)
	case d.ArtifactType != "" && !types.MediaType(d.ArtifactType).IsConfig():
		return fmt.Sprintf("manifest %s is an artifact of type %.100q, not an image", d.Digest, d.ArtifactType)
	}
	return ""
}

// member returns an image of an image index.
func (c *Client) member(ctx context.Context, ref name.Reference, d v1.Descriptor, artifacts []v1.Descriptor) (*Image, error) {
	manifest, err := c.manifest(ctx, ref.Context().Digest(d.Digest.String()))
	if err != nil {
		return nil, err
	}
	manifest.Platform = d.Platform
	return c.image(ctx, ref, manifest, artifacts)
}

// choose returns the image of an image index that a machine of a platform runs.
func (c *Client) choose(ctx context.Context, ref name.Reference, root *remote.Descriptor, platform v1.Platform) (*Image, error) {
	walk := &indexWalk{client: c, ref: ref}
	index, err := walk.read(root.Manifest)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", ref, err)
	}
	members, err := walk.members(ctx, index, 0)
	if err != nil {
		return nil, err
	}
	matcher := matcherOf(platform)
	var failed error
	for _, d := range preferred(members, matcher) {
		if notAnImage(d) != "" {
			continue
		}
		image, err := c.member(ctx, ref, d, walk.artifacts)
		if errors.Is(err, ErrInvalid) {
			failed = errors.Join(failed, err) // an artifact that does not say so
			continue
		}
		if err != nil {
			return nil, err
		}
		if d.Platform != nil || matcher.Match(spec(image.Platform())) {
			image.root = rootOf(root.Manifest, index)
			return image, nil
		}
	}
	if failed != nil {
		return nil, failed
	}
	return nil, fmt.Errorf("resolving %s: %w", ref, errNoPlatform(members, platform))
}
