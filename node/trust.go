package node

import (
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

// CheckTrust returns an error that wraps registry.ErrUntrusted if an image that was found before has
// to be signed now, and its index is not signed by a key that is trusted now. It does not wait.
func (n *Node) CheckTrust(image *Image) error {
	if image.Local {
		return nil
	}
	ref, err := n.cfg.Registry.ParseReference(image.Name)
	if err != nil {
		return nil //nolint:nilerr // mounting it says so
	}
	return n.checkArtifact(ref.Context(), image.Artifact)
}

func (n *Node) checkArtifact(repo name.Repository, a *ImageArtifact) error {
	if a == nil { // of a version that did not note it
		return n.cfg.Registry.CheckSignature(repo, block.Digest{}, nil)
	}
	return n.cfg.Registry.CheckSignature(repo, a.Digest, a.Signature)
}

// withTrustedTraces returns an image without the traces and the bundle of a start-up artifact that
// is not trusted now, and as it is if there is none.
func (n *Node) withTrustedTraces(image *Image) *Image {
	ref, err := n.cfg.Registry.ParseReference(image.Name)
	if err != nil || image.Local || image.Startup == nil {
		return image // mounting it says what is wrong with the name
	}
	if err = n.checkArtifact(ref.Context(), image.Startup); err == nil {
		return image
	}
	n.log.Warn("the start-up artifact of an image is not used", "image", image.Name, "error", err)
	trusted := *image
	trusted.Traces, trusted.Bundle = nil, nil
	return &trusted
}
