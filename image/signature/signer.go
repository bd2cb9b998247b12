package signature

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sigstore "github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms"
	"github.com/sigstore/sigstore/pkg/signature/options"

	"github.com/brisk-project/brisk/internal/block"
)

// maxPrivateKey is the longest file with a private key in bytes.
const maxPrivateKey = 64 << 10

// Signer signs with a private key.
type Signer struct {
	// Key is the public key.
	Key *Key

	signer sigstore.Signer
}

// LoadSigner returns the signer of a private key: a file in PEM, such as cosign.key, or the URI of
// a key in a key management service, such as awskms:///alias/release. Such a key is used by the
// plugin sigstore-kms-SCHEME in $PATH. password is asked only for an encrypted file.
func LoadSigner(ctx context.Context, reference string, password func() ([]byte, error)) (*Signer, error) {
	signer, err := loadSigner(ctx, reference, password)
	if err != nil {
		return nil, fmt.Errorf("loading the key %s: %w", reference, err)
	}
	public, err := signer.PublicKey(options.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("loading the key %s: its public key: %w", reference, err)
	}
	key, err := NewKey(reference, public)
	if err != nil {
		return nil, err
	}
	return &Signer{Key: key, signer: signer}, nil
}

func loadSigner(ctx context.Context, reference string, password func() ([]byte, error)) (sigstore.Signer, error) {
	if strings.Contains(reference, "://") {
		return kms.Get(ctx, reference, crypto.SHA256)
	}
	file, err := os.Open(reference)
	if err != nil {
		return nil, err
	}
	defer file.Close() //nolint:errcheck // read only
	content, err := io.ReadAll(io.LimitReader(file, maxPrivateKey+1))
	if err != nil {
		return nil, err
	}
	private, err := parsePrivateKey(content, password)
	if err != nil {
		return nil, err
	}
	return sigstore.LoadSigner(private, crypto.SHA256)
}

// parsePrivateKey reads a private key in PEM, encrypted as cosign does it or not at all.
func parsePrivateKey(content []byte, password func() ([]byte, error)) (crypto.PrivateKey, error) {
	if len(content) > maxPrivateKey {
		return nil, fmt.Errorf("%w: private key of more than %d bytes", ErrInvalid, maxPrivateKey)
	}
	part, _ := pem.Decode(content)
	if part == nil {
		return nil, fmt.Errorf("%w: private key: not PEM", ErrInvalid)
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(pem.EncodeToMemory(part), func(bool) ([]byte, error) { return password() })
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return private, nil
}

// Sign adds a signature to a set.
func (s *Signer) Sign(ctx context.Context, set *Set) error {
	if len(set.layers) >= maxStored {
		return fmt.Errorf("signing %s: it has %d signatures, the limit is %d", set.digest, len(set.layers), maxStored)
	}
	content, err := newPayload(set.repo, set.digest)
	if err != nil {
		return err
	}
	signed, err := s.signer.SignMessage(bytes.NewReader(content), options.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("signing %s with %s: %w", set.digest, s.Key.Name, err)
	}
	digest := v1.Hash{Algorithm: "sha256", Hex: block.Sum(content).Hex()}
	set.layers = append(set.layers, v1.Descriptor{
		MediaType: PayloadMediaType, Size: int64(len(content)), Digest: digest, Data: content,
		Annotations: map[string]string{Annotation: base64.StdEncoding.EncodeToString(signed)},
	})
	return nil
}

// Encode returns the manifest of a set, and the blobs that it lists and that this package has made:
// the configuration and the payload. The subject is what is signed.
func (s *Set) Encode(subject v1.Descriptor) (manifest, config, content []byte, err error) {
	if content, err = newPayload(s.repo, s.digest); err != nil {
		return nil, nil, nil, err
	}
	// cosign adds signatures as layers of an image, and reads the configuration for that.
	about := v1.ConfigFile{RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}}}
	for _, d := range s.layers {
		about.RootFS.DiffIDs = append(about.RootFS.DiffIDs, d.Digest)
	}
	if config, err = json.Marshal(about); err != nil {
		return nil, nil, nil, fmt.Errorf("encoding the signatures of %s: %w", s.digest, err)
	}
	m := v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: ArtifactType,
		Config: v1.Descriptor{
			MediaType: types.OCIConfigJSON, Size: int64(len(config)),
			Digest: v1.Hash{Algorithm: "sha256", Hex: block.Sum(config).Hex()},
		},
		Layers:  s.layers,
		Subject: &v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest},
	}
	if manifest, err = json.Marshal(m); err != nil {
		return nil, nil, nil, fmt.Errorf("encoding the signatures of %s: %w", s.digest, err)
	}
	if len(manifest) > MaxManifest {
		return nil, nil, nil, fmt.Errorf("encoding the signatures of %s: %d bytes, the limit is %d", s.digest, len(manifest), MaxManifest)
	}
	return manifest, config, content, nil
}
