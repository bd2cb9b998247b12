package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

// PushStartup stores the start-up artifact of an image in place of previous, the one that
// [Client.FindArtifact] has found, nil if none. The blobs it lists must be there. It becomes a
// referrer of the image, and is listed under the accelerated tag where that has the image.
// Indexes are not touched. It is dated now, or after previous if that is later: the newest
// counts, since registries list in any order.
func (c *Client) PushStartup(ctx context.Context, image *Image, s Startup, previous *Startup, now time.Time) (Descriptor, error) {
	s.Created = now.UTC().Truncate(time.Second)
	if previous != nil && !s.Created.After(previous.Created) {
		s.Created = previous.Created.Add(time.Second)
	}
	manifest, err := EncodeStartup(image.Descriptor, &s)
	if err != nil {
		return Descriptor{}, err
	}
	pushed := Descriptor{Digest: block.Sum(manifest), Size: int64(len(manifest)), Subject: image.Digest, Startup: true, Created: s.Created}
	repo := image.Name.Context()
	if err := c.PushArtifact(ctx, repo, manifest); err != nil {
		return pushed, err
	}
	// Where the registry has no referrers API a tag stands in for it, which clients write.
	fallback := repo.Tag("sha256-" + image.Digest.Hex())
	if err := c.replaceStartup(ctx, fallback, pushed, pushed.Digest); err != nil {
		return pushed, err
	}
	tag, ok := image.Name.(name.Tag)
	if !ok {
		return pushed, nil
	}
	return pushed, c.replaceStartup(ctx, AcceleratedTag(tag), pushed, image.Digest)
}

// ListStartup lists an artifact that was pushed under another tag than that of its image, in place of
// the one before, if that tag lists the image.
func (c *Client) ListStartup(ctx context.Context, tag name.Tag, pushed Descriptor) error {
	return c.replaceStartup(ctx, tag, pushed, pushed.Subject)
}

// Startup returns a start-up artifact of a repository.
func (c *Client) Startup(ctx context.Context, repo name.Repository, digest block.Digest) (*Startup, error) {
	got, err := c.manifest(ctx, repo.Digest(digest.String()))
	if err != nil {
		return nil, err
	}
	s, err := ParseStartup(got.Manifest)
	if err != nil {
		return nil, fmt.Errorf("reading artifact %s of %s: %w", digest, repo, err)
	}
	return s, nil
}

// replaceStartup makes an artifact the only start-up artifact of its subject in the image index
// under a tag. It leaves alone what does not list wanted.
func (c *Client) replaceStartup(ctx context.Context, tag name.Tag, pushed Descriptor, wanted block.Digest) error {
	root, err := c.manifest(ctx, tag)
	if notFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !root.MediaType.IsIndex() {
		return nil
	}
	index, err := parseIndex(root.Manifest)
	if err != nil {
		return fmt.Errorf("reading %s: %w", tag, err)
	}
	if !slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == hash(wanted) }) {
		return nil
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
		subject, annotated := d.Annotations[AnnotationSubject]
		return d.ArtifactType == StartupType && (!annotated || subject == pushed.Subject.String())
	})
	index.Manifests = append(index.Manifests, pushed.entry())
	manifest, err := encodeManifest(index)
	if err != nil {
		return err
	}
	return c.putManifest(ctx, tag, manifest, types.OCIImageIndex)
}

// ListedUnder returns the artifacts that are listed under a tag, of all images; none when there
// is no such tag.
func (c *Client) ListedUnder(ctx context.Context, tag name.Tag) ([]Descriptor, error) {
	listed, err := c.listed(ctx, tag)
	if err != nil {
		return nil, err
	}
	var found []Descriptor
	for _, d := range listed {
		digest, err := parseBlob(d, MaxManifest)
		subject, subjectErr := block.ParseDigest(d.Annotations[AnnotationSubject])
		if err != nil || subjectErr != nil {
			continue
		}
		artifact := Descriptor{Digest: digest, Size: d.Size, Subject: subject}
		if d.ArtifactType == StartupType {
			artifact.Startup = true
			artifact.Created, _ = createdOf(d.Annotations)
		}
		found = append(found, artifact)
	}
	return found, nil
}
