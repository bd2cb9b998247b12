package registry

import (
	"context"
	"fmt"
	"maps"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

// AnnotationSource names, on the manifest of an image in full mode, the platform manifest that the image
// was made from. No other image has it.
const AnnotationSource = "dev.brisk.source"

// Source returns the digest of the platform manifest that an image in full mode was made from,
// and false for any other image.
func (i *Image) Source() (block.Digest, bool) {
	digest, err := block.ParseDigest(i.Annotations[AnnotationSource])
	return digest, err == nil
}

// Full returns an image in full mode and its manifest: the image with other blobs for its layer
// streams. It is an OCI image whatever the source is, with the same configuration. Annotations of layers are
// left out: they describe the blobs of the source. The same arguments give the same image.
func (i *Image) Full(layers []Layer) (*Image, []byte, error) {
	manifest := v1.Manifest{
		SchemaVersion: 2,
		MediaType:     types.OCIManifestSchema1,
		Config:        v1.Descriptor{MediaType: types.OCIConfigJSON, Size: i.ConfigBlob.Size, Digest: i.ConfigBlob.Digest},
		Layers:        make([]v1.Descriptor, len(layers)),
		Annotations:   map[string]string{},
	}
	maps.Copy(manifest.Annotations, i.Annotations)
	manifest.Annotations[AnnotationSource] = i.Digest.String()
	for n, l := range layers {
		if n >= len(i.Layers) || l.DiffID != i.Layers[n].DiffID {
			return nil, nil, fmt.Errorf("manifest in full mode of %s: layer %d is another one", i.Digest, n)
		}
		manifest.Layers[n] = v1.Descriptor{MediaType: l.MediaType, Size: l.Size, Digest: hash(l.Digest)}
	}
	encoded, err := encodeManifest(manifest)
	if err != nil {
		return nil, nil, err
	}
	platform := i.Platform()
	full := &Image{
		Name: i.Name,
		Descriptor: v1.Descriptor{
			MediaType: types.OCIManifestSchema1, Size: int64(len(encoded)), Digest: hash(block.Sum(encoded)), Platform: &platform,
		},
		Digest: block.Sum(encoded), Config: i.Config, ConfigBlob: manifest.Config, Annotations: manifest.Annotations, Layers: layers,
	}
	return full, encoded, nil
}

// PushImage stores the manifest of an image by its digest. Its blobs must be there.
func (c *Client) PushImage(ctx context.Context, repo name.Repository, image *Image, manifest []byte) error {
	return c.putManifest(ctx, repo.Digest(image.Digest.String()), manifest, image.Descriptor.MediaType)
}
