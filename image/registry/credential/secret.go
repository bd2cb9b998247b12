package credential

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unique"

	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	// redacted is what a secret is printed as.
	redacted = "[secret]"
	// maxSecret is the longest part of a credential in bytes: the tokens of clouds
	// have a few thousand.
	maxSecret = 64 << 10
)

// Secret is a credential for a registry. It can be compared, and shows nothing of
// itself however it is printed, logged or marshalled. It implements
// [authn.Authenticator].
type Secret struct {
	auth unique.Handle[shade]
}

// shade keeps a credential, without Auth, from being seen by those who print a
// structure that has a secret in a field of its own: methods do not help there, but
// no verb follows two pointers. Handles are compared by what they stand for.
type shade struct {
	auth unique.Handle[authn.AuthConfig]
}

// NewSecret returns the credential in a, [Secret.Anonymous] if it is empty. The
// error says what is wrong with it, but not what it is.
func NewSecret(a authn.AuthConfig) (Secret, error) {
	for _, part := range []string{a.Username, a.Password, a.Auth, a.IdentityToken, a.RegistryToken} {
		if len(part) > maxSecret {
			return Secret{}, fmt.Errorf("credential of %d bytes, the limit is %d", len(part), maxSecret)
		}
	}
	if a.Auth != "" && a.Username == "" {
		decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(strings.TrimSpace(a.Auth), "="))
		if err != nil {
			return Secret{}, errors.New("credential: auth is not base64")
		}
		user, password, ok := strings.Cut(string(decoded), ":")
		if !ok {
			return Secret{}, errors.New("credential: auth is not a user name and a password")
		}
		a.Username, a.Password = user, strings.Trim(password, "\x00")
	}
	a.Auth = ""
	if a == (authn.AuthConfig{}) {
		return Secret{}, nil
	}
	return Secret{unique.Make(shade{unique.Make(a)})}, nil
}

// Anonymous reports whether there is nothing to show to a registry.
func (s Secret) Anonymous() bool { return s == Secret{} }

// Authorization implements [authn.Authenticator].
func (s Secret) Authorization() (*authn.AuthConfig, error) {
	shown := s.reveal()
	return &shown, nil
}

// reveal returns what the secret is.
func (s Secret) reveal() authn.AuthConfig {
	if s.Anonymous() {
		return authn.AuthConfig{}
	}
	return s.auth.Value().auth.Value()
}

// String implements [fmt.Stringer].
func (Secret) String() string { return redacted }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return redacted }

// Format implements [fmt.Formatter] for every verb.
func (Secret) Format(f fmt.State, _ rune) {
	if _, err := io.WriteString(f, redacted); err != nil {
		return // a fmt.State reports its own errors
	}
}

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements [encoding.TextMarshaler], and so stands in for JSON, XML
// and YAML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Answer is a credential that a source has for a repository.
type Answer struct {
	Secret Secret
	// Expires is when the source is to be asked again. Zero if it does not know.
	Expires time.Time
	// Ephemeral says that the credential is not to be kept, in memory or on disk, but
	// asked for whenever it is needed: because that costs nothing, or because it may
	// not be kept.
	Ephemeral bool

	found   time.Time
	renewAt time.Time // zero: never
}

// word is a part of a credential as it is read and written. It can be marshalled, as
// a Secret cannot, but not printed.
type word string

// Format implements [fmt.Formatter] for every verb.
func (word) Format(f fmt.State, verb rune) { Secret{}.Format(f, verb) }

// LogValue implements [slog.LogValuer].
func (word) LogValue() slog.Value { return Secret{}.LogValue() }
