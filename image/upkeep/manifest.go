package upkeep

import (
	"bytes"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// Kind says what a manifest is, or that something is a tag.
type Kind string

// The kinds.
const (
	KindTag         Kind = "tag"
	KindImage       Kind = "image"
	KindFull        Kind = "image in full mode"
	KindImageIndex  Kind = "image index"
	KindAccelerated Kind = "accelerated image index"
	KindIndex       Kind = "index"
	KindStartup     Kind = "start-up artifact"
	KindOther       Kind = "referrer" // signatures, attestations, SBOMs
	KindEntry       Kind = "entries of a referrers tag"
	KindUnknown     Kind = "unknown" // what cannot be parsed
)

// manifest is what is known of a manifest or image index.
type manifest struct {
	digest  block.Digest
	kind    Kind
	size    int64           // of the manifest itself, in bytes
	members []v1.Descriptor // of an image index
	blobs   []v1.Descriptor // configuration and layers
	subject block.Digest    // what it refers to, zero for nothing
	base    block.Digest    // what an accelerated image index was made from, zero if it does not say
	source  block.Digest    // what an image in full mode was made from
	signs   bool            // whether it is a signature

	artifact *registry.Artifact // of KindIndex
	startup  *registry.Startup  // of KindStartup
}

// parse reads a manifest. With an error, which wraps [registry.ErrInvalid], it returns one of
// [KindUnknown].
func parse(m *registry.Manifest) (*manifest, error) {
	parsed := &manifest{digest: m.Digest, size: int64(len(m.Content))}
	var err error
	if m.MediaType.IsIndex() {
		err = parsed.readIndex(m.Content)
	} else {
		err = parsed.readImage(m.Content)
	}
	if err != nil {
		err = fmt.Errorf("manifest %s: %w: %w", m.Digest, registry.ErrInvalid, err)
		return &manifest{digest: m.Digest, size: parsed.size, kind: KindUnknown}, err
	}
	return parsed, nil
}

// readImage reads the manifest of an image or artifact.
func (m *manifest) readImage(encoded []byte) error {
	content, err := v1.ParseManifest(bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	m.blobs = append([]v1.Descriptor{content.Config}, content.Layers...)
	if content.Subject != nil {
		if m.subject, err = block.ParseDigest(content.Subject.Digest.String()); err != nil {
			return fmt.Errorf("subject: %w", err)
		}
	}
	artifactType := content.ArtifactType
	if artifactType == "" && !content.Config.MediaType.IsConfig() {
		artifactType = string(content.Config.MediaType)
	}
	switch {
	case artifactType == registry.ArtifactType:
		m.kind = KindIndex
		m.artifact, err = registry.ParseArtifact(encoded)
	case artifactType == registry.StartupType:
		m.kind = KindStartup
		m.startup, err = registry.ParseStartup(encoded)
	case !m.subject.IsZero() || !content.Config.MediaType.IsConfig():
		m.kind = KindOther
		m.signs = isSignature(artifactType)
	default:
		m.kind = KindImage
		if m.source, err = block.ParseDigest(content.Annotations[registry.AnnotationSource]); err == nil {
			m.kind = KindFull
		}
		err = nil
	}
	return err
}

func (m *manifest) readIndex(content []byte) error {
	listing, err := v1.ParseIndexManifest(bytes.NewReader(content))
	if err != nil {
		return err
	}
	m.kind, m.members = KindImageIndex, listing.Manifests
	for _, d := range listing.Manifests {
		if isOurs(d) {
			m.kind = KindAccelerated
		}
	}
	if m.kind == KindAccelerated {
		if base, err := block.ParseDigest(listing.Annotations[registry.AnnotationBase]); err == nil {
			m.base = base
		}
	}
	return nil
}

// isOurs reports whether an image index lists an artifact that a conversion has made.
func isOurs(d v1.Descriptor) bool {
	return d.ArtifactType == registry.ArtifactType || d.ArtifactType == registry.StartupType
}

// isSignature reports whether an artifact type is one that signatures have: of cosign, of notation, and sigstore bundles.
func isSignature(artifactType string) bool {
	return strings.Contains(artifactType, "signature") || strings.Contains(artifactType, ".sig.") || strings.Contains(artifactType, "sigstore.bundle")
}

// isAttestation reports whether an entry of an image index is for no platform: attestations, and
// artifacts of ours.
func isAttestation(d v1.Descriptor) bool {
	return d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}
