package credential

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// NewDockerConfig returns a source of what the Docker configuration in a file holds and
// of the credential helpers that are named there. The file may come, change and go at any
// time. It is called as the source of [NewKeychain] is: one of the two is enough.
func NewDockerConfig(path string) *Keychain {
	return NewKeychain(dockerFile(path))
}

// dockerFile is the keychain of a Docker configuration.
type dockerFile string

// Resolve implements [authn.Keychain].
func (d dockerFile) Resolve(of authn.Resource) (authn.Authenticator, error) {
	data, err := readFile(string(d), maxDockerConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", string(d), err)
	}
	file, err := config.LoadFromReader(bytes.NewReader(data))
	if err != nil {
		return nil, errNotDockerConfig
	}
	for _, key := range []string{of.String(), of.RegistryStr()} {
		if key == name.DefaultRegistry {
			key = authn.DefaultAuthKey // as Docker calls it in its files
		}
		auth, err := file.GetAuthConfig(key)
		if err != nil {
			return nil, errKeychain
		}
		auth.ServerAddress = ""
		if auth == (types.AuthConfig{}) {
			continue
		}
		return authn.FromConfig(authn.AuthConfig{
			Username: auth.Username, Password: auth.Password, Auth: auth.Auth,
			IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
		}), nil
	}
	return authn.Anonymous, nil
}
