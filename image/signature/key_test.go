package signature_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/secure-systems-lab/go-securesystemslib/encrypted"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/internal/block"
)

func TestKeyAlgorithms(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := block.Sum([]byte("artifact"))
	for what, key := range map[string]crypto.Signer{"ed25519": ed, "rsa": long, "p384": p384} {
		path := filepath.Join(t.TempDir(), "key")
		content, err := cryptoutils.MarshalPrivateKeyToPEM(key)
		if err != nil {
			t.Fatal(err)
		}
		signaturetest.Write(t, path, content)
		signer := signaturetest.Load(t, path, "")
		if got, err := verify(t, signed(t, digest, signer), digest, signer.Key); err != nil || got.Name != path {
			t.Errorf("%s: %v", what, err)
		}
	}
	small, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signature.NewKey("small", small.Public()); !errors.Is(err, signature.ErrInvalid) {
		t.Errorf("a small curve: %v", err)
	}
	short := &rsa.PublicKey{N: new(big.Int).Rsh(long.N, 1024), E: 65537}
	if _, err := signature.NewKey("short", short); !errors.Is(err, signature.ErrInvalid) {
		t.Errorf("a short RSA key: %v", err)
	}
}

func TestEncryptedKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := encrypted.Encrypt(der, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"} {
		path := filepath.Join(t.TempDir(), "cosign.key")
		signaturetest.Write(t, path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: sealed}))
		digest := block.Sum([]byte("artifact"))
		signer := signaturetest.Load(t, path, "secret")
		if _, err := verify(t, signed(t, digest, signer), digest, signer.Key); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		for _, password := range []func() ([]byte, error){
			func() ([]byte, error) { return []byte("wrong"), nil },
			func() ([]byte, error) { return nil, os.ErrPermission },
		} {
			if _, err := signature.LoadSigner(t.Context(), path, password); err == nil {
				t.Errorf("%s is read with a wrong password", kind)
			}
		}
	}
}

func TestKeyFiles(t *testing.T) {
	a, b := signaturetest.NewPair(t), signaturetest.NewPair(t)
	first, err := os.ReadFile(a.Public)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(b.Public)
	if err != nil {
		t.Fatal(err)
	}
	both := append(slices.Clone(first), second...)
	if keys, err := signature.ParseKeys("file", both); err != nil || len(keys) != 2 || keys[0].ID != a.Key.ID || keys[1].ID != b.Key.ID {
		t.Errorf("two keys in a file: %v, %v", keys, err)
	}
	private, err := os.ReadFile(a.Private)
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{
		"empty": nil, "text": []byte("key"), "private": private, "many": []byte(strings.Repeat(string(first), signature.MaxKeys+1)),
		"damaged": []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
		"huge":    append(slices.Clone(first), make([]byte, 1<<20)...),
	} {
		if _, err := signature.ParseKeys("file", content); !errors.Is(err, signature.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := signature.LoadSigner(t.Context(), a.Public, nil); err == nil {
		t.Error("a public key signs")
	}
	if _, err := signature.LoadSigner(t.Context(), "nokms://key", nil); err == nil || !strings.Contains(err.Error(), "nokms") {
		t.Errorf("a key management service without a plugin: %v", err)
	}
}
