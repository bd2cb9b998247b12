package credential

import (
	"context"
	"errors"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// keychainLife is how long the answer of a keychain is used. It may come from a
// program, and says nothing of its end.
const keychainLife = 10 * time.Minute

// Keychain is a source of the credentials of a keychain.
type Keychain struct {
	keys authn.Keychain
}

// NewKeychain returns a source of what keys knows, [authn.DefaultKeychain] if it is
// nil: the configuration of Docker or Podman and the credential helpers named there.
func NewKeychain(keys authn.Keychain) *Keychain {
	if keys == nil {
		keys = authn.DefaultKeychain
	}
	return &Keychain{keys: keys}
}

// Name implements [Source].
func (*Keychain) Name() string { return "keychain" }

// Lookup implements [Source].
func (k *Keychain) Lookup(ctx context.Context, q Query) ([]Answer, error) {
	auth, err := authn.Resolve(ctx, k.keys, q.Repository)
	if err != nil {
		return nil, errKeychain
	}
	shown, err := authn.Authorization(ctx, auth)
	if err != nil {
		return nil, errKeychain
	}
	secret, err := NewSecret(*shown)
	if err != nil {
		return nil, err
	}
	if secret.Anonymous() {
		return nil, nil
	}
	return []Answer{{Secret: secret, Expires: time.Now().Add(keychainLife)}}, nil
}

// errKeychain stands for errors of keychains, which may quote what a helper or a
// file said.
var errKeychain = errors.New("the keychain or its credential helper failed")
