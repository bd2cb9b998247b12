package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/pem"
	"fmt"
	"io"
	"os"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sigstore "github.com/sigstore/sigstore/pkg/signature"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxKeys is the most public keys in one file.
	MaxKeys = 16
	// maxKeyFile is the longest file with public keys in bytes.
	maxKeyFile = 256 << 10
	// minRSA is the shortest RSA key in bits: those below can be broken.
	minRSA = 2048
	// minCurve is the smallest curve of an ECDSA key in bits.
	minCurve = 256
)

// Key is a public key that signatures are verified with. It is safe for concurrent use.
type Key struct {
	// Name is where the key is from, for people.
	Name string
	// ID is the digest of the key, as in "sha256sum" of its DER encoding.
	ID block.Digest

	verifier sigstore.Verifier
}

// NewKey returns a public key under a name: ECDSA, Ed25519 or RSA. Errors wrap [ErrInvalid].
func NewKey(label string, public crypto.PublicKey) (*Key, error) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return nil, fmt.Errorf("%w: key %s: RSA with %d bits, the least is %d", ErrInvalid, label, k.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey:
		if bits := k.Curve.Params().BitSize; bits < minCurve {
			return nil, fmt.Errorf("%w: key %s: ECDSA with %d bits, the least is %d", ErrInvalid, label, bits, minCurve)
		}
	}
	verifier, err := sigstore.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("%w: key %s: %w", ErrInvalid, label, err)
	}
	der, err := cryptoutils.MarshalPublicKeyToDER(public)
	if err != nil {
		return nil, fmt.Errorf("%w: key %s: %w", ErrInvalid, label, err)
	}
	return &Key{Name: label, ID: block.Sum(der), verifier: verifier}, nil
}

// ReadKeys reads the public keys in a PEM file. Errors wrap [ErrInvalid], or are those of the file.
func ReadKeys(path string) ([]*Key, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading public keys: %w", err)
	}
	defer file.Close() //nolint:errcheck // read only
	content, err := io.ReadAll(io.LimitReader(file, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading public keys: %w", err)
	}
	return ParseKeys(path, content)
}

// ParseKeys reads the public keys in a PEM file, at least one, such as cosign.pub. Errors wrap
// [ErrInvalid].
func ParseKeys(label string, file []byte) ([]*Key, error) {
	if len(file) > maxKeyFile {
		return nil, fmt.Errorf("%w: keys in %s: %d bytes, the limit is %d", ErrInvalid, label, len(file), maxKeyFile)
	}
	var keys []*Key
	for rest := file; ; {
		var part *pem.Block
		if part, rest = pem.Decode(rest); part == nil {
			break
		}
		if part.Type != string(cryptoutils.PublicKeyPEMType) {
			return nil, fmt.Errorf("%w: keys in %s: %.100q is not a public key", ErrInvalid, label, part.Type)
		}
		if len(keys) == MaxKeys {
			return nil, fmt.Errorf("%w: keys in %s: more than %d", ErrInvalid, label, MaxKeys)
		}
		public, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(part))
		if err != nil {
			return nil, fmt.Errorf("%w: keys in %s: %w", ErrInvalid, label, err)
		}
		key, err := NewKey(label, public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%w: keys in %s: there is no public key in PEM", ErrInvalid, label)
	}
	return keys, nil
}

// verify returns nil if the signature is by the key, of a payload that names the digest.
func (k *Key) verify(s Signature, digest block.Digest) error {
	if len(s.Signed) > maxSigned {
		return fmt.Errorf("%w: signature of %d bytes, the limit is %d", ErrInvalid, len(s.Signed), maxSigned)
	}
	// The signature first: nothing else is known of who has made the payload.
	if len(s.Payload) > MaxPayload {
		return fmt.Errorf("%w: payload of %d bytes, the limit is %d", ErrInvalid, len(s.Payload), MaxPayload)
	}
	if err := k.verifier.VerifySignature(bytes.NewReader(s.Signed), bytes.NewReader(s.Payload)); err != nil {
		return fmt.Errorf("%w: key %s: %w", ErrUnsigned, k.Name, err)
	}
	return checkPayload(s.Payload, digest)
}

// Verify returns the first of the keys that has made the signature of a digest. Errors wrap
// [ErrUnsigned] if none has.
func (s Signature) Verify(keys []*Key, digest block.Digest) (*Key, error) {
	for _, key := range keys {
		if key.verify(s, digest) == nil {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", digest, ErrUnsigned)
}
