// Package signaturetest makes keys for tests of signatures.
package signaturetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/brisk-project/brisk/image/signature"
)

// Pair is a new key and its files, as "cosign generate-key-pair" makes them.
type Pair struct {
	Signer *signature.Signer
	Key    *signature.Key
	// Private and Public are the paths of the files.
	Private, Public string
}

// NewPair makes a key without a password.
func NewPair(tb testing.TB) Pair {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := cryptoutils.MarshalPrivateKeyToPEM(key)
	if err != nil {
		tb.Fatal(err)
	}
	public, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	p := Pair{Private: filepath.Join(dir, "cosign.key"), Public: filepath.Join(dir, "cosign.pub")}
	Write(tb, p.Private, private)
	Write(tb, p.Public, public)
	p.Signer = Load(tb, p.Private, "")
	p.Key = p.Signer.Key
	return p
}

// Load loads a signer from a file, with a password if the file is encrypted.
func Load(tb testing.TB, path, password string) *signature.Signer {
	tb.Helper()
	signer, err := signature.LoadSigner(tb.Context(), path, func() ([]byte, error) {
		if password == "" {
			return nil, errors.New("there is no password")
		}
		return []byte(password), nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return signer
}

// Write writes a file.
func Write(tb testing.TB, path string, content []byte) {
	tb.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
}
