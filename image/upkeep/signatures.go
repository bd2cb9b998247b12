package upkeep

import (
	"context"
	"errors"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// Signatures counts the signatures of a manifest that a registry has: among its referrers, and under the tag that cosign makes of its
// digest. It does not verify them.
func Signatures(ctx context.Context, reader Reader, repo name.Repository, digest block.Digest) (int, error) {
	listed, err := reader.Referrers(ctx, repo, digest)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, d := range listed {
		signs, err := signature(ctx, reader, repo, d)
		if err != nil {
			return 0, err
		}
		if signs {
			n++
		}
	}
	_, err = reader.ReadManifest(ctx, repo.Tag("sha256-"+digest.Hex()+".sig"))
	if errors.Is(err, block.ErrNotFound) {
		return n, nil
	}
	return n + 1, err
}

// signature reports whether a referrer is a signature. Some registries list the media type of its configuration as its type: then its
// manifest has to tell.
func signature(ctx context.Context, reader Reader, repo name.Repository, d v1.Descriptor) (bool, error) {
	if d.ArtifactType != "" && d.ArtifactType != emptyType {
		return isSignature(d.ArtifactType), nil
	}
	m, err := reader.ReadManifest(ctx, repo.Digest(d.Digest.String()))
	if errors.Is(err, block.ErrNotFound) || errors.Is(err, registry.ErrInvalid) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	parsed, err := parse(m)
	return err == nil && parsed.signs, nil
}

// emptyType is the media type of the configuration of artifacts that have none.
const emptyType = "application/vnd.oci.empty.v1+json"
