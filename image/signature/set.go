package signature

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/internal/block"
)

// The names under which cosign stores signatures.
const (
	// ArtifactType is the type of an artifact with signatures among the referrers of what is signed.
	ArtifactType = "application/vnd.dev.cosign.artifact.sig.v1+json"
	// PayloadMediaType is the media type of a payload.
	PayloadMediaType types.MediaType = "application/vnd.dev.cosign.simplesigning.v1+json"
	// Annotation has the signature of a payload, in base64.
	Annotation = "dev.cosignproject.cosign/signature"
)

const (
	// MaxManifest is the longest manifest in bytes: the limit that the OCI distribution
	// specification asks registries to accept.
	MaxManifest = 4 << 20
	// MaxSignatures is the most signatures of one manifest that are verified, the newest ones.
	MaxSignatures = 256
	// MaxFetched is the most payloads of one manifest that have to be fetched.
	MaxFetched = 16
	// maxStored is the most signatures of a manifest that another one is added to: cosign reads no
	// more.
	maxStored = 1000
)

// Tag returns the tag under which the signatures of a manifest are stored.
func Tag(repo name.Repository, digest block.Digest) name.Tag {
	return repo.Tag("sha256-" + digest.Hex() + ".sig")
}

// Set is the signatures of one manifest, as a manifest of their own lists them.
type Set struct {
	repo    name.Repository
	digest  block.Digest
	layers  []v1.Descriptor
	payload map[block.Digest][]byte // those that are known, by digest
}

// NewSet returns the empty set of a manifest in a repository.
func NewSet(repo name.Repository, digest block.Digest) (*Set, error) {
	own, err := newPayload(repo, digest)
	if err != nil {
		return nil, err
	}
	return &Set{repo: repo, digest: digest, payload: map[block.Digest][]byte{block.Sum(own): own}}, nil
}

// ParseSet reads the signatures of a manifest in a repository from the manifest that lists them.
// Most payloads are known without being fetched: they are in the manifest, or follow from what is
// signed. Errors wrap [ErrInvalid].
func ParseSet(repo name.Repository, digest block.Digest, manifest []byte) (*Set, error) {
	if len(manifest) > MaxManifest {
		return nil, fmt.Errorf("%w: manifest of %d bytes, the limit is %d", ErrInvalid, len(manifest), MaxManifest)
	}
	s, err := NewSet(repo, digest)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	decoder := json.NewDecoder(bytes.NewReader(manifest))
	if err := decoder.Decode(&m); err != nil {
		return nil, fmt.Errorf("%w: manifest: %w", ErrInvalid, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: manifest: more than one JSON value", ErrInvalid)
	}
	s.layers = m.Layers
	for _, d := range s.candidates() {
		if len(d.Data) == 0 {
			continue
		}
		if named, err := block.ParseDigest(d.Digest.String()); err == nil && len(d.Data) <= MaxPayload && block.Sum(d.Data) == named {
			s.payload[named] = d.Data
		}
	}
	return s, nil
}

// candidates returns the newest entries that may be signatures, the newest first.
func (s *Set) candidates() []v1.Descriptor {
	var found []v1.Descriptor
	for _, d := range slices.Backward(s.layers) {
		if len(found) < MaxSignatures && d.MediaType == PayloadMediaType && d.Annotations[Annotation] != "" && d.Size > 0 && d.Size <= MaxPayload {
			found = append(found, d)
		}
	}
	return found
}

// Len returns the number of signatures, valid or not.
func (s *Set) Len() int { return len(s.layers) }

// Missing returns the payloads that have to be fetched for all signatures to be verified, at most
// [MaxFetched].
func (s *Set) Missing() []v1.Descriptor {
	var missing []v1.Descriptor
	seen := make(map[block.Digest]bool)
	for _, d := range s.candidates() {
		digest, err := block.ParseDigest(d.Digest.String())
		if err != nil || seen[digest] || s.payload[digest] != nil || len(missing) == MaxFetched {
			continue
		}
		seen[digest] = true
		missing = append(missing, d)
	}
	return missing
}

// AddPayload adds a payload that was fetched, whose digest was verified.
func (s *Set) AddPayload(content []byte) { s.payload[block.Sum(content)] = content }

// Verify returns the newest signature by one of the keys, and the key. Errors wrap [ErrUnsigned]
// if there is none among the signatures whose payload is known.
func (s *Set) Verify(keys []*Key) (Signature, *Key, error) {
	for _, d := range s.candidates() {
		signature, ok := s.signature(d)
		if !ok {
			continue
		}
		if key, err := signature.Verify(keys, s.digest); err == nil {
			return signature, key, nil
		}
	}
	return Signature{}, nil, fmt.Errorf("%s has %d signatures: %w", s.digest, len(s.layers), ErrUnsigned)
}

func (s *Set) signature(d v1.Descriptor) (Signature, bool) {
	digest, err := block.ParseDigest(d.Digest.String())
	if err != nil || s.payload[digest] == nil {
		return Signature{}, false
	}
	encoded := d.Annotations[Annotation]
	if len(encoded) > base64.StdEncoding.EncodedLen(maxSigned) {
		return Signature{}, false
	}
	signed, err := base64.StdEncoding.DecodeString(encoded)
	return Signature{Payload: s.payload[digest], Signed: signed}, err == nil
}
