package signature

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/sigstore/sigstore/pkg/signature/payload"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxPayload is the longest payload in bytes that is read. That of cosign without annotations
	// has about 250.
	MaxPayload = 16 << 10
	// maxSigned is the longest signature in bytes: that of an RSA key of 16,384 bits.
	maxSigned = 2 << 10
)

// The errors of this package, tested with [errors.Is].
var (
	// ErrInvalid says that something is not in the format, or beyond a limit.
	ErrInvalid = errors.New("invalid signature data")
	// ErrUnsigned says that no signature is by one of the keys.
	ErrUnsigned = errors.New("not signed by a trusted key")
)

// Signature is a payload and its signature by some key.
type Signature struct {
	Payload []byte `json:"payload"`
	Signed  []byte `json:"signature"`
}

// newPayload returns what is signed to sign a manifest in a repository. The same arguments give
// the same bytes, which are those that cosign signs when it adds no annotations.
func newPayload(repo name.Repository, digest block.Digest) ([]byte, error) {
	encoded, err := json.Marshal(payload.Cosign{Image: repo.Digest(digest.String())})
	if err != nil {
		return nil, fmt.Errorf("encoding the payload of a signature: %w", err)
	}
	return encoded, nil
}

// checkPayload returns an error, which wraps [ErrInvalid], unless a payload names the digest. The
// repository that it names does not matter: the digest is the same in every copy.
func checkPayload(encoded []byte, digest block.Digest) error {
	if len(encoded) > MaxPayload {
		return fmt.Errorf("%w: payload of %d bytes, the limit is %d", ErrInvalid, len(encoded), MaxPayload)
	}
	var parsed payload.SimpleContainerImage
	if err := json.Unmarshal(encoded, &parsed); err != nil {
		return fmt.Errorf("%w: payload: %w", ErrInvalid, err)
	}
	if kind := parsed.Critical.Type; kind != payload.CosignSignatureType {
		return fmt.Errorf("%w: payload: type %.100q, not %q", ErrInvalid, kind, payload.CosignSignatureType)
	}
	if named := parsed.Critical.Image.DockerManifestDigest; named != digest.String() {
		return fmt.Errorf("%w: payload: it is the signature of %.100q, not of %s", ErrInvalid, named, digest)
	}
	return nil
}
