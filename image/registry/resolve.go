package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

// smallFetches is how many manifests or layer indexes are fetched at a time.
const smallFetches = 4

// Layer is one layer of an image, as manifest and configuration describe it.
type Layer struct {
	Digest    block.Digest // of the stored blob
	DiffID    block.Digest // of the layer stream
	Size      int64        // of the stored blob, in bytes
	MediaType types.MediaType
	// Foreign is set for a layer that registries need not hold.
	Foreign bool
}

// Image is an image for one platform.
type Image struct {
	// Name is the reference that was resolved; Name.Context() is the repository.
	Name name.Reference
	// Descriptor describes the platform manifest: what an index artifact has as
	// its subject. Platform is set only if an image index said so.
	Descriptor v1.Descriptor
	// Digest is that of the platform manifest.
	Digest block.Digest
	// Config is the image configuration, and ConfigBlob what the manifest says of it.
	Config     *v1.ConfigFile
	ConfigBlob v1.Descriptor
	// Annotations are those of the manifest.
	Annotations map[string]string
	// Layers are in the order of the manifest, the lowest first.
	Layers []Layer

	// root is the digest of what Name named; of an accelerated image index, of what that was made from.
	root block.Digest
	// artifacts are the artifacts listed beside the manifest in the image
	// index through which it was found.
	artifacts []v1.Descriptor
}

// Platform returns what the image runs on: as the image index says, or else as
// its configuration does.
func (i *Image) Platform() v1.Platform {
	if i.Descriptor.Platform != nil {
		return *i.Descriptor.Platform
	}
	return v1.Platform{
		OS: i.Config.OS, Architecture: i.Config.Architecture, Variant: i.Config.Variant,
		OSVersion: i.Config.OSVersion, OSFeatures: i.Config.OSFeatures,
	}
}

// entry returns the entry of the image in an image index.
func (i *Image) entry() v1.Descriptor {
	platform := i.Platform()
	d := i.Descriptor
	d.Platform = &platform
	return d
}

// Resolve returns the image that ref names, for a machine of a platform, as containerd chooses.
// What the platform leaves open is as on this machine. An image that is not part of an image
// index is returned whatever its platform.
//
// Errors wrap [block.ErrNotFound], [block.ErrUnavailable], [ErrDenied],
// [ErrInvalid], [ErrPlainHTTP] or the cause of ctx.
func (c *Client) Resolve(ctx context.Context, ref name.Reference, platform v1.Platform) (*Image, error) {
	root, err := c.manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !root.MediaType.IsIndex() {
		return c.image(ctx, ref, root, nil)
	}
	return c.choose(ctx, ref, root, platform)
}

// manifest fetches what ref names, verified if ref is a digest.
func (c *Client) manifest(ctx context.Context, ref name.Reference) (*remote.Descriptor, error) {
	what := needPull
	if _, tag := ref.(name.Tag); tag {
		what = needResolve
	}
	var got *remote.Descriptor
	err := c.try(ctx, ref.Context(), what, func(s *session, patience time.Duration) (err error) {
		got, err = s.manifest(ctx, ref, patience)
		return err
	})
	return got, err
}

// manifest fetches what ref names in the repository of the session.
func (s *session) manifest(ctx context.Context, ref name.Reference, patience time.Duration) (*remote.Descriptor, error) {
	var here name.Reference = s.repo.Tag(ref.Identifier())
	if digest, ok := ref.(name.Digest); ok {
		here = s.repo.Digest(digest.DigestStr())
	}
	doing := "resolving " + here.String()
	ctx, cancel := within(ctx, patience)
	defer cancel()
	options, err := s.optionsFor(ctx, patience)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	got, err := remote.Get(here, options...)
	if err != nil {
		return nil, registryError(ctx, doing, err)
	}
	if !json.Valid(got.Manifest) {
		return nil, fmt.Errorf("%s: %w: the manifest is not JSON", doing, ErrInvalid)
	}
	// The header of the answer is not covered by the digest, the manifest is.
	var inside struct {
		MediaType types.MediaType `json:"mediaType"`
	}
	if err := json.Unmarshal(got.Manifest, &inside); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", doing, ErrInvalid, err)
	}
	if inside.MediaType != "" {
		got.MediaType = inside.MediaType
	}
	if got.MediaType.IsSchema1() {
		return nil, fmt.Errorf("%s: %w: the manifest has schema 1, which has no diffIDs; push the image again", doing, ErrInvalid)
	}
	return got, nil
}

// image reads the configuration that belongs to a manifest.
func (c *Client) image(ctx context.Context, ref name.Reference, manifest *remote.Descriptor, artifacts []v1.Descriptor) (*Image, error) {
	doing := fmt.Sprintf("resolving %s: manifest %s", ref, manifest.Digest)
	parsed, err := v1.ParseManifest(bytes.NewReader(manifest.Manifest))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", doing, ErrInvalid, err)
	}
	if !manifest.MediaType.IsImage() || !parsed.Config.MediaType.IsConfig() {
		return nil, fmt.Errorf("%s: %w: not a container image but %s with configuration %s",
			doing, ErrInvalid, manifest.MediaType, parsed.Config.MediaType)
	}
	digest, err := block.ParseDigest(manifest.Digest.String())
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", doing, ErrInvalid, err)
	}
	config, err := c.config(ctx, ref.Context(), parsed.Config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	layers, err := layersOf(parsed, config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", doing, ErrInvalid, err)
	}
	return &Image{
		Name: ref,
		Descriptor: v1.Descriptor{
			MediaType: manifest.MediaType, Size: int64(len(manifest.Manifest)), Digest: manifest.Digest, Platform: manifest.Platform,
		},
		Digest: digest, Config: config, ConfigBlob: parsed.Config, Annotations: parsed.Annotations,
		Layers: layers, root: digest, artifacts: artifacts,
	}, nil
}

func (c *Client) config(ctx context.Context, repo name.Repository, d v1.Descriptor) (*v1.ConfigFile, error) {
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil {
		return nil, fmt.Errorf("%w: configuration: %w", ErrInvalid, err)
	}
	content, err := c.ReadBlob(ctx, repo, digest, d.Size, MaxConfig)
	if err != nil {
		return nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%w: configuration: %w", ErrInvalid, err)
	}
	return config, nil
}

// layersOf pairs the layers of a manifest with the diffIDs of its configuration.
func layersOf(manifest *v1.Manifest, config *v1.ConfigFile) ([]Layer, error) {
	if len(manifest.Layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%d layers, but the configuration has %d diffIDs", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	layers := make([]Layer, len(manifest.Layers))
	for i, d := range manifest.Layers {
		digest, err := block.ParseDigest(d.Digest.String())
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		diffID, err := block.ParseDigest(config.RootFS.DiffIDs[i].String())
		if err != nil {
			return nil, fmt.Errorf("layer %d: diffID: %w", i, err)
		}
		if d.Size <= 0 {
			return nil, fmt.Errorf("layer %d: size of %d bytes", i, d.Size)
		}
		layers[i] = Layer{
			Digest: digest, DiffID: diffID, Size: d.Size, MediaType: d.MediaType,
			Foreign: len(d.URLs) > 0 || !d.MediaType.IsDistributable(),
		}
	}
	return layers, nil
}

// notFound reports whether err only says that something is not there.
func notFound(err error) bool { return errors.Is(err, block.ErrNotFound) }
