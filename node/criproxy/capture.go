package criproxy

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"google.golang.org/protobuf/encoding/protowire"
)

// maxReference is the longest name of an image in bytes that is looked at.
const maxReference = 4096

// The fields of the messages that matter, which are the same in every version of the
// interface. Reading them off the wire needs no version of it.
const (
	requestImage = 1
	requestAuth  = 2
	imageName    = 1

	authUsername      = 1
	authPassword      = 2
	authAuth          = 3
	authServerAddress = 4
	authIdentityToken = 5
	authRegistryToken = 6
)

// pull is what a PullImage request says about credentials.
type pull struct {
	repo name.Repository
	auth authn.AuthConfig
}

var (
	errNotPull = errors.New("not a PullImage request")
	// errOtherServer says that a credential is for another registry than that of the
	// image. The runtime does not use it either.
	errOtherServer = errors.New("the credential is for another server")
)

// fields calls visit with every field of a message that holds bytes, and passes over
// the others.
func fields(message []byte, visit func(number protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return errNotPull
		}
		message = message[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, message); n < 0 {
				return errNotPull
			}
			message = message[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(message)
		if n < 0 {
			return errNotPull
		}
		message = message[n:]
		if err := visit(number, value); err != nil {
			return err
		}
	}
	return nil
}

// parsePull reads a PullImage request. It returns nil if there is no credential in it.
// The error holds nothing of that.
func parsePull(message []byte) (*pull, error) {
	var auth authn.AuthConfig
	var image, server string
	err := fields(message, func(number protowire.Number, value []byte) error {
		switch number {
		case requestImage:
			return fields(value, func(number protowire.Number, value []byte) error {
				if number == imageName {
					image = string(value)
				}
				return nil
			})
		case requestAuth:
			return fields(value, func(number protowire.Number, value []byte) error {
				if into := part(&auth, &server, number); into != nil {
					*into = string(value)
				}
				return nil
			})
		default:
			return nil
		}
	})
	if err != nil || auth == (authn.AuthConfig{}) {
		return nil, err
	}
	if len(image) > maxReference {
		return nil, fmt.Errorf("name of an image of %d bytes, the limit is %d", len(image), maxReference)
	}
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, errors.New("the name of the image is not a reference")
	}
	if !serves(server, ref.Context().RegistryStr()) {
		return nil, fmt.Errorf("%s: %w", ref.Context(), errOtherServer)
	}
	return &pull{repo: ref.Context(), auth: auth}, nil
}

// part returns where a field of the credential belongs.
func part(auth *authn.AuthConfig, server *string, number protowire.Number) *string {
	switch number {
	case authUsername:
		return &auth.Username
	case authPassword:
		return &auth.Password
	case authAuth:
		return &auth.Auth
	case authServerAddress:
		return server
	case authIdentityToken:
		return &auth.IdentityToken
	case authRegistryToken:
		return &auth.RegistryToken
	default:
		return nil
	}
}

// serves reports whether a server address, which may be a URL or missing, is that of
// a registry.
func serves(address, registry string) bool {
	if address == "" {
		return true
	}
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	switch strings.ToLower(host) {
	case "docker.io", "registry-1.docker.io":
		host = name.DefaultRegistry
	}
	return strings.EqualFold(host, registry)
}
