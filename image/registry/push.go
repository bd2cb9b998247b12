package registry

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

// PushBlob stores a blob in a repository unless it is there already.
func (c *Client) PushBlob(ctx context.Context, repo name.Repository, content []byte, mediaType types.MediaType) error {
	doing := fmt.Sprintf("pushing a blob of %d bytes to %s", len(content), repo)
	options, err := c.session(repo, true).options(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := remote.WriteLayer(repo, static.NewLayer(content, mediaType), options...); err != nil {
		return registryError(ctx, doing, err)
	}
	return nil
}

// PushArtifact stores the manifest of an index artifact, made by
// [EncodeArtifact]; the layer indexes it lists must be there. It is found by the
// referrers API afterwards, or by the fallback tag where the registry has no such
// API.
func (c *Client) PushArtifact(ctx context.Context, repo name.Repository, manifest []byte) error {
	if err := c.PushBlob(ctx, repo, emptyContent(), emptyMediaType); err != nil {
		return err
	}
	return c.putManifest(ctx, repo.Digest(block.Sum(manifest).String()), manifest, types.OCIManifestSchema1)
}

// PushAccelerated stores an image index, made by [EncodeAccelerated], under a
// tag. It does nothing, and returns false, when the tag names that image index
// already.
func (c *Client) PushAccelerated(ctx context.Context, tag name.Tag, manifest []byte) (bool, error) {
	current, err := c.manifest(ctx, tag)
	if err != nil && !notFound(err) {
		return false, err
	}
	if err == nil && block.Sum(current.Manifest) == block.Sum(manifest) {
		return false, nil
	}
	return true, c.putManifest(ctx, tag, manifest, types.OCIImageIndex)
}

func (c *Client) putManifest(ctx context.Context, ref name.Reference, manifest []byte, mediaType types.MediaType) error {
	doing := "pushing " + ref.String()
	options, err := c.session(ref.Context(), true).options(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if err := remote.Put(ref, rawManifest{manifest, mediaType}, options...); err != nil {
		return registryError(ctx, doing, err)
	}
	return nil
}

// rawManifest is a manifest whose bytes are known.
type rawManifest struct {
	content   []byte
	mediaType types.MediaType
}

// RawManifest implements remote.Taggable.
func (m rawManifest) RawManifest() ([]byte, error) { return m.content, nil }

// MediaType tells go-containerregistry what RawManifest returns.
func (m rawManifest) MediaType() (types.MediaType, error) { return m.mediaType, nil }
