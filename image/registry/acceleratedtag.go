package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// AcceleratedTag returns the tag under which the acceleration of a tag is found.
// A tag that is such a tag stays as it is.
func AcceleratedTag(tag name.Tag) name.Tag {
	return TagWithSuffix(tag, AcceleratedSuffix)
}

// TagWithSuffix returns the tag with a suffix, unless it has that already.
func TagWithSuffix(tag name.Tag, suffix string) name.Tag {
	if strings.HasSuffix(tag.TagStr(), suffix) {
		return tag
	}
	return tag.Context().Tag(tag.TagStr() + suffix)
}

// ArtifactsUnder returns the index artifacts that are listed under a tag, whatever
// image they belong to; none when there is no such tag.
func (c *Client) ArtifactsUnder(ctx context.Context, tag name.Tag) ([]*Artifact, error) {
	listed, err := c.listed(ctx, tag)
	if err != nil {
		return nil, err
	}
	var found []*Artifact
	listed = slices.DeleteFunc(listed, func(d v1.Descriptor) bool { return d.ArtifactType != ArtifactType })
	for _, d := range listed[:min(len(listed), maxCandidates)] {
		got, err := c.artifact(ctx, tag.Context(), d)
		if err != nil {
			return nil, err
		}
		if got.index != nil {
			found = append(found, got.index)
		}
	}
	return found, nil
}

// Tags returns the tags of a repository. Errors are those of [Client.Resolve].
func (c *Client) Tags(ctx context.Context, repo name.Repository) ([]string, error) {
	doing := "listing the tags of " + repo.String()
	options, err := c.session(repo, false).options(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	tags, err := remote.List(repo, options...)
	if err != nil {
		return nil, registryError(ctx, doing, err)
	}
	return tags, nil
}

// LayerIndexes fetches and opens the index of every layer of an image, in the
// order of its layers. Layers that occur twice share an index. Errors wrap
// [ErrNoArtifact] when the artifact has no index of a layer.
func (c *Client) LayerIndexes(ctx context.Context, image *Image, artifact *Artifact) ([]*index.Layer, error) {
	opened := make([]*index.Layer, len(image.Layers))
	first := make(map[Layer]int, len(image.Layers))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(smallFetches)
	for i, layer := range image.Layers {
		if _, twice := first[layer]; twice {
			continue
		}
		first[layer] = i
		group.Go(func() error {
			var err error
			opened[i], err = c.layerIndex(groupCtx, image, artifact, layer)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, layer := range image.Layers {
		opened[i] = opened[first[layer]]
	}
	return opened, nil
}

func (c *Client) layerIndex(ctx context.Context, image *Image, artifact *Artifact, layer Layer) (*index.Layer, error) {
	doing := fmt.Sprintf("fetching the index of layer %s of %s", layer.Digest.Short(), image.Name)
	entry, ok := artifact.Index(layer.Digest)
	if !ok {
		return nil, fmt.Errorf("%s: %w for it; \"brisk convert\" makes one", doing, ErrNoArtifact)
	}
	content, err := c.ReadBlob(ctx, image.Name.Context(), entry.Digest, entry.Size, MaxIndexBlob)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return OpenIndex(layer, bytes.NewReader(content), int64(len(content)))
}

// covers counts the layers that the artifact has an index of.
func (a *Artifact) covers(layers []block.Digest) int {
	n := 0
	for _, layer := range layers {
		if _, ok := a.Index(layer); ok {
			n++
		}
	}
	return n
}

// referrers asks the referrers API, or reads the fallback tag where there is none. What
// an endpoint does not list, the next one may.
func (c *Client) referrers(ctx context.Context, image *Image) (found []v1.Descriptor, err error) {
	err = c.try(ctx, image.Name.Context(), needReferrers, func(s *session, patience time.Duration) error {
		listed, err := s.referrers(ctx, image.Digest, patience)
		if err != nil {
			return err
		}
		found = listed
		if !slices.ContainsFunc(listed, func(d v1.Descriptor) bool { return candidate(d, image, ArtifactType) }) {
			return errNothing
		}
		return nil
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
	return found, err
}

// referrers lists the referrers of a manifest in the repository of the session.
func (s *session) referrers(ctx context.Context, digest block.Digest, patience time.Duration) ([]v1.Descriptor, error) {
	doing := fmt.Sprintf("listing the referrers of %s", digest)
	ctx, cancel := within(ctx, patience)
	defer cancel()
	options, err := s.optionsFor(ctx, patience)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	listed, err := remote.Referrers(s.repo.Digest(digest.String()), options...)
	if err != nil {
		return nil, registryError(ctx, doing, err)
	}
	raw, err := listed.RawManifest()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	parsed, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", doing, ErrInvalid, err)
	}
	return parsed.Manifests, nil
}

// listed returns the artifacts that the image index under a tag lists.
func (c *Client) listed(ctx context.Context, tag name.Tag) ([]v1.Descriptor, error) {
	listing, err := c.indexUnder(ctx, tag)
	if listing == nil || err != nil {
		return nil, err
	}
	return artifactsOf(listing), nil
}

func artifactsOf(listing *v1.IndexManifest) []v1.Descriptor {
	return slices.DeleteFunc(slices.Clone(listing.Manifests), func(d v1.Descriptor) bool { return !isArtifact(d) })
}

// indexUnder returns the image index under a tag, nil if there is none.
func (c *Client) indexUnder(ctx context.Context, tag name.Tag) (*v1.IndexManifest, error) {
	root, err := c.manifest(ctx, tag)
	if notFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !root.MediaType.IsIndex() {
		return nil, nil
	}
	parsed, err := parseIndex(root.Manifest)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", tag, err)
	}
	return parsed, nil
}
