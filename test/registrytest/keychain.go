package registrytest

import "github.com/google/go-containerregistry/pkg/authn"

// Keychain has the password of a user, [User] or [Pusher], for every registry. It is safe for concurrent use.
type Keychain string

// Resolve implements [authn.Keychain].
func (k Keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return &authn.Basic{Username: string(k), Password: Password}, nil
}
