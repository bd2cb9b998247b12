// Package signing signs what nodes use of an image: its index artifacts and start-up artifacts. The
// image itself is left to cosign.
package signing

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/internal/block"
)

// The kinds of artifacts.
const (
	Index   = "index"
	Startup = "startup"
)

// Artifact is an artifact of an image.
type Artifact struct {
	Kind     string       `json:"kind"`
	Platform string       `json:"platform"`
	Digest   block.Digest `json:"digest"`
	// Keys are the keys that [Sign] was called with, whose signatures the artifact has.
	Keys []SignedBy `json:"keys"`
}

// SignedBy is a signature by a key.
type SignedBy struct {
	Key string       `json:"key"`
	ID  block.Digest `json:"id"`
	// Added is false if the signature was there already.
	Added bool `json:"added"`
}

// Find returns the artifacts that nodes use of the images that references name, each once. A
// reference that is not there is skipped, unless it is the first. Errors wrap
// [registry.ErrNoArtifact] if there are none.
func Find(ctx context.Context, client *registry.Client, refs ...name.Reference) ([]*Artifact, error) {
	var all []*Artifact
	var none error
	seen := make(map[block.Digest]bool)
	add := func(kind string, image *registry.Image, digest block.Digest) {
		if !seen[digest] {
			seen[digest] = true
			all = append(all, &Artifact{Kind: kind, Platform: registry.FormatPlatform(image.Platform()), Digest: digest, Keys: []SignedBy{}})
		}
	}
	for i, ref := range refs {
		listing, err := client.ResolveAll(ctx, ref)
		if i > 0 && errors.Is(err, block.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, image := range listing.Images {
			found, err := client.FindArtifact(ctx, image)
			if errors.Is(err, registry.ErrNoArtifact) {
				none = err
				continue
			}
			if err != nil {
				return nil, err
			}
			add(Index, image, found.Digest)
			if found.Startup != nil {
				add(Startup, image, found.Startup.Digest)
			}
		}
	}
	if len(all) == 0 {
		return nil, none
	}
	return all, nil
}

// Sign adds to each artifact the signatures by all signers that it does not have.
func Sign(ctx context.Context, client *registry.Client, repo name.Repository, artifacts []*Artifact, signers []*signature.Signer) error {
	for _, a := range artifacts {
		for _, signer := range signers {
			added, err := client.Sign(ctx, repo, a.Digest, signer)
			if err != nil {
				return fmt.Errorf("signing the %s artifact for %s: %w", a.Kind, a.Platform, err)
			}
			a.Keys = append(a.Keys, SignedBy{Key: signer.Key.Name, ID: signer.Key.ID, Added: added})
		}
	}
	return nil
}
