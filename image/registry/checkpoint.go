package registry

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

// CheckpointType is the artifact type of a checkpoint.
const CheckpointType = "application/vnd.brisk.checkpoint.v1"

// maxCheckpoints is the most checkpoints of one image that are read. A conversion of a day makes 13.
const maxCheckpoints = 16

// Checkpoint is what an unfinished conversion of an image has made so far, so that the next one need
// not make it again. It belongs to one of the platform manifests of the image. Nodes ignore it.
type Checkpoint struct {
	// Digest is that of the manifest of the checkpoint.
	Digest block.Digest
	// Indexes are those of finished layers, of all platforms.
	Indexes []IndexBlob
	// Layers are the finished layers in full mode, whose indexes are among Indexes.
	Layers []Layer
}

// EncodeCheckpoint returns the manifest of a checkpoint for a subject. The digest of the checkpoint
// does not matter.
func EncodeCheckpoint(subject v1.Descriptor, c *Checkpoint) ([]byte, error) {
	manifest, err := artifactManifest(CheckpointType, subject)
	if err != nil {
		return nil, err
	}
	for _, b := range c.Indexes {
		manifest.Layers = append(manifest.Layers, indexDescriptor(b))
	}
	for _, l := range c.Layers {
		d := l.Descriptor()
		d.Annotations = map[string]string{AnnotationDiffID: l.DiffID.String()}
		manifest.Layers = append(manifest.Layers, d)
	}
	return encodeManifest(manifest)
}

// ParseCheckpoint reads the manifest of a checkpoint. Errors wrap [ErrInvalid].
func ParseCheckpoint(manifest []byte) (*Checkpoint, error) {
	m, _, err := parseArtifactManifest(manifest, CheckpointType, 2*maxIndexes)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{Digest: block.Sum(manifest)}
	for i, d := range m.Layers {
		switch d.MediaType {
		case LayerMediaType:
			b, err := parseIndexBlob(d)
			if err != nil {
				return nil, fmt.Errorf("%w: checkpoint: blob %d: %w", ErrInvalid, i, err)
			}
			c.Indexes = append(c.Indexes, b)
		case types.OCILayerZStd:
			digest, err := block.ParseDigest(d.Digest.String())
			if err != nil {
				return nil, fmt.Errorf("%w: checkpoint: blob %d: %w", ErrInvalid, i, err)
			}
			diffID, err := block.ParseDigest(d.Annotations[AnnotationDiffID])
			if err != nil || d.Size <= 0 {
				return nil, fmt.Errorf("%w: checkpoint: blob %d has %d bytes, annotation %s: %w", ErrInvalid, i, d.Size, AnnotationDiffID, err)
			}
			c.Layers = append(c.Layers, Layer{Digest: digest, DiffID: diffID, Size: d.Size, MediaType: d.MediaType})
		default: // of a later version
		}
	}
	return c, nil
}

// PushCheckpoint stores a checkpoint that belongs to the manifest of an image.
func (c *Client) PushCheckpoint(ctx context.Context, image *Image, checkpoint *Checkpoint) error {
	manifest, err := EncodeCheckpoint(image.Descriptor, checkpoint)
	if err != nil {
		return err
	}
	return c.PushArtifact(ctx, image.Name.Context(), manifest)
}

// Checkpoints returns the checkpoints that belong to the manifest of an image. Those that cannot be
// read are left out. Errors are those of [Client.Resolve].
func (c *Client) Checkpoints(ctx context.Context, image *Image) ([]*Checkpoint, error) {
	listed, err := c.Referrers(ctx, image.Name.Context(), image.Digest)
	if err != nil {
		return nil, err
	}
	listed = slices.DeleteFunc(listed, func(d v1.Descriptor) bool { return !candidate(d, image, CheckpointType) })
	var found []*Checkpoint
	for _, d := range listed[max(0, len(listed)-maxCheckpoints):] {
		checkpoint, err := c.checkpoint(ctx, image.Name.Context(), d)
		if err == nil {
			found = append(found, checkpoint)
			continue
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		c.log.InfoContext(ctx, "skipping a checkpoint", "image", image.Name.String(), "digest", d.Digest.String(), "error", err)
	}
	return found, nil
}

func (c *Client) checkpoint(ctx context.Context, repo name.Repository, d v1.Descriptor) (*Checkpoint, error) {
	got, err := c.manifest(ctx, repo.Digest(d.Digest.String()))
	if err != nil {
		return nil, err
	}
	return ParseCheckpoint(got.Manifest)
}
