package credential

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/authn"
)

// maxDockerConfig is the longest Docker configuration in bytes: a Secret of
// Kubernetes holds no more.
const maxDockerConfig = 1 << 20

// errNotDockerConfig does not wrap the error of the decoder, which may quote what
// it could not decode.
var errNotDockerConfig = errors.New("not a Docker configuration in JSON")

// dockerAuth is one entry of a Docker configuration. It is decoded as text only:
// authn.AuthConfig would refuse the whole file for one bad entry.
type dockerAuth struct {
	Username      word `json:"username"`
	Password      word `json:"password"`
	Auth          word `json:"auth"`
	IdentityToken word `json:"identitytoken"`
	RegistryToken word `json:"registrytoken"`
}

func (a dockerAuth) secret() (Secret, error) {
	return NewSecret(authn.AuthConfig{
		Username: string(a.Username), Password: string(a.Password), Auth: string(a.Auth),
		IdentityToken: string(a.IdentityToken), RegistryToken: string(a.RegistryToken),
	})
}

// parseDockerConfig reads a Docker configuration, in its present form or in that
// before 2015, into a keyring. Entries that cannot be used are left out and counted.
func parseDockerConfig(data []byte) (keys keyring, unusable int, err error) {
	if len(data) > maxDockerConfig {
		return nil, 0, fmt.Errorf("configuration of %d bytes, the limit is %d", len(data), maxDockerConfig)
	}
	var present struct {
		Auths map[string]dockerAuth `json:"auths"`
	}
	if err := json.Unmarshal(data, &present); err != nil {
		return nil, 0, errNotDockerConfig
	}
	auths := present.Auths
	if auths == nil {
		var entries map[string]json.RawMessage
		if err := json.Unmarshal(data, &entries); err != nil {
			return nil, 0, errNotDockerConfig
		}
		auths = make(map[string]dockerAuth, len(entries))
		for key, entry := range entries {
			var auth dockerAuth
			if err := json.Unmarshal(entry, &auth); err == nil && auth != (dockerAuth{}) {
				auths[key] = auth
			}
		}
	}
	if len(auths) > maxAuths {
		return nil, 0, fmt.Errorf("configuration for %d registries, the limit is %d", len(auths), maxAuths)
	}
	keys = make(keyring, len(auths))
	for key, auth := range auths {
		secret, err := auth.secret()
		switch {
		case err != nil || len(key) > maxPattern:
			unusable++
		case !secret.Anonymous():
			keys.add(key, secret)
		}
	}
	return keys, unusable, nil
}
