package signature_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sigstore "github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"

	"github.com/brisk-project/brisk/image/signature"
	"github.com/brisk-project/brisk/image/signature/signaturetest"
	"github.com/brisk-project/brisk/internal/block"
)

// pluginName is the name under which this test is the plugin of a key management service.
const pluginName = "sigstore-kms-brisktest"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == pluginName {
		if err := plugin(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// service is a key management service whose keys are files.
type service struct{ sigstore.SignerVerifier }

func (service) CreateKey(context.Context, string) (crypto.PublicKey, error) {
	return nil, errors.New("keys are files")
}

func (service) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	return nil, nil, errors.New("keys stay here")
}

func (service) SupportedAlgorithms() []string { return []string{"ecdsa-p256"} }
func (service) DefaultAlgorithm() string      { return "ecdsa-p256" }

// plugin answers one call of the sigstore library.
func plugin() error {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(strings.TrimPrefix(args.InitOptions.KeyResourceID, "brisktest://"))
	if err != nil {
		return handler.WriteErrorResponse(os.Stdout, err)
	}
	key, err := cryptoutils.UnmarshalPEMToPrivateKey(content, nil)
	if err != nil {
		return handler.WriteErrorResponse(os.Stdout, err)
	}
	both, err := sigstore.LoadSignerVerifier(key, args.InitOptions.HashFunc)
	if err != nil {
		return handler.WriteErrorResponse(os.Stdout, err)
	}
	_, err = handler.Dispatch(os.Stdout, os.Stdin, args, service{both})
	return err
}

// A key that never leaves its service signs through the plugin of sigstore for it.
func TestKeyManagementService(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	if err := os.Symlink(self, filepath.Join(bin, pluginName)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	pair := signaturetest.NewPair(t)
	digest := block.Sum([]byte("artifact"))
	signer := signaturetest.Load(t, "brisktest://"+pair.Private, "")
	if signer.Key.ID != pair.Key.ID {
		t.Error("the public key is another one")
	}
	if _, err := verify(t, signed(t, digest, signer), digest, pair.Key); err != nil {
		t.Error(err)
	}
	if _, err := signature.LoadSigner(t.Context(), "brisktest:///none", nil); err == nil || !strings.Contains(err.Error(), "/none") {
		t.Errorf("a key that is not there: %v", err)
	}
}
