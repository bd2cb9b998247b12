package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// ErrNoCredential means that every credential there is for a repository has been
// refused, or that there is none. It is tested with [errors.Is].
var ErrNoCredential = errors.New("no credential left to try")

// Credential is what a client may show to a registry for one repository.
type Credential struct {
	// Auth says what to show: [authn.Anonymous] for nothing.
	Auth authn.Authenticator
	// Expires is when the credential is to be replaced by a newer one. Zero if
	// nobody knows. A login made with it is renewed in time.
	Expires time.Time
	// Name says in errors where the credential comes from. It is no secret.
	Name string
}

// Credentials knows the credentials for repositories, several for one if there
// are several. A client uses the current one until it is refused, and then asks
// for the next until one is accepted or none is left. It is safe for concurrent
// use, and its errors never tell a secret.
type Credentials interface {
	// Current returns the credential to use, the one accepted last if it lasts.
	// The error wraps [ErrNoCredential] if all have been refused a moment ago.
	Current(ctx context.Context, repo name.Repository) (Credential, error)
	// Next returns a credential to use after one was refused. The error wraps
	// [ErrNoCredential] if none is left.
	Next(ctx context.Context, repo name.Repository, refused Credential) (Credential, error)
	// Accepted says that a registry has answered a request made with a credential
	// that Current or Next returned.
	Accepted(repo name.Repository, accepted Credential)
}

// keychain makes credentials of a keychain, which knows one for a repository.
type keychain struct {
	authn.Keychain
}

// Current implements [Credentials].
func (k keychain) Current(ctx context.Context, repo name.Repository) (Credential, error) {
	auth, err := authn.Resolve(ctx, k.Keychain, repo)
	if err != nil {
		return Credential{}, err
	}
	return Credential{Auth: auth, Name: "keychain"}, nil
}

// Next implements [Credentials]: the keychain may know another one by now.
func (k keychain) Next(ctx context.Context, repo name.Repository, refused Credential) (Credential, error) {
	before, err := authn.Authorization(ctx, refused.Auth)
	if err != nil {
		return Credential{}, err
	}
	next, err := k.Current(ctx, repo)
	if err != nil {
		return Credential{}, err
	}
	now, err := authn.Authorization(ctx, next.Auth)
	if err != nil {
		return Credential{}, err
	}
	if *now == *before {
		return Credential{}, fmt.Errorf("%w: the one of the keychain was refused", ErrNoCredential)
	}
	return next, nil
}

// Accepted implements [Credentials].
func (keychain) Accepted(name.Repository, Credential) {}
