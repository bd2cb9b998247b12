package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// login is the outcome of a log-in. Only accepted changes once it is in use.
type login struct {
	scheme        string    // http or https
	authorization string    // the header, "" for none
	token         bool      // authorization is a token got for the credential
	expires       time.Time // zero: never
	credential    Credential
	accepted      atomic.Bool // the registry has answered a request made with it
	// spare is set for a token got in place of one that was accepted: that it is refused
	// may mean once that it was taken back, or that a registry of several servers does
	// not know it yet, and says nothing of the credential.
	spare bool
	// before was accepted, but may not do the thing that this one was made for.
	before *login
}

// logInAnew logs in with the current credential, or with the next ones if the one
// of stale was refused, until one is accepted.
func (s *session) logInAnew(ctx context.Context, stale *login, status int) (*login, error) {
	credentials := s.client.cfg.Credentials
	var c Credential
	var err error
	switch {
	case status == 0, status == http.StatusUnauthorized && stale.token && (stale.accepted.Load() || stale.spare):
		// Refused or not, this may only mean that the token has ended.
		c, err = credentials.Current(ctx, s.owner)
	default:
		c, err = credentials.Next(ctx, s.owner, stale.credential)
	}
	if err != nil {
		return nil, fmt.Errorf("looking up credentials: %w: %w", ErrDenied, err)
	}
	return s.tryAll(ctx, c)
}

// tryAll logs in with c or a credential after it. The error says why the last one
// was refused and why there is no other.
func (s *session) tryAll(ctx context.Context, c Credential) (*login, error) {
	challenge, err := s.ping(ctx)
	if err != nil {
		return nil, err
	}
	for range maxCredentials {
		fresh, err := s.logIn(ctx, c, challenge)
		if err == nil {
			return fresh, nil
		}
		if answer, ok := errors.AsType[*StatusError](err); !ok || !refused(answer.Code) {
			return nil, err
		}
		next, none := s.client.cfg.Credentials.Next(ctx, s.owner, c)
		if none != nil {
			return nil, fmt.Errorf("%w; %w", err, none)
		}
		c = next
	}
	return nil, fmt.Errorf("%w: %w of the first %d", ErrDenied, ErrNoCredential, maxCredentials)
}

// ping finds out how the registry wants to be spoken to.
func (s *session) ping(ctx context.Context) (*transport.Challenge, error) {
	reg := s.repo.Registry
	if s.via == nil && s.client.plainHTTP(reg.RegistryStr()) {
		insecure, err := name.NewRegistry(reg.RegistryStr(), name.Insecure)
		if err != nil {
			return nil, err
		}
		reg = insecure
	}
	challenge, err := transport.Ping(ctx, reg, s.base)
	if errors.Is(err, http.ErrSchemeMismatch) {
		return nil, fmt.Errorf("%w: %s; allow it by name if the network to it is trusted", ErrPlainHTTP, reg.RegistryStr())
	}
	if err = statusOf(err); err != nil {
		_, answered := errors.AsType[*StatusError](err)
		if s.via == nil || !answered {
			return nil, err
		}
		// A mirror may have nothing but the repositories.
		return &transport.Challenge{Insecure: reg.Scheme() == "http"}, nil
	}
	return challenge, nil
}

// logIn gets what the registry accepts for a credential.
func (s *session) logIn(ctx context.Context, c Credential, challenge *transport.Challenge) (*login, error) {
	shown, err := authn.Authorization(ctx, c.Auth)
	if err != nil {
		return nil, fmt.Errorf("looking up credentials: %w: %w", ErrDenied, err)
	}
	fresh := &login{scheme: "https", credential: c, expires: useUntil(c, time.Now())}
	if challenge.Insecure {
		fresh.scheme = "http"
	}
	switch {
	case !strings.EqualFold(challenge.Scheme, "bearer"):
		fresh.authorization = header(shown)
	case shown.RegistryToken != "":
		fresh.authorization = "Bearer " + shown.RegistryToken
	default:
		if err := s.exchange(ctx, fresh, challenge); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// useUntil is when a credential is to be asked for anew, zero for never. One that
// should have been replaced long ago, and was not, is used all the same.
func useUntil(c Credential, now time.Time) time.Time {
	left := c.Expires.Sub(now)
	if c.Expires.IsZero() || left <= 0 {
		return time.Time{}
	}
	return now.Add(max(left-min(tokenMargin, left/2), minUse))
}

// exchange gets a bearer token for the credential of a login.
func (s *session) exchange(ctx context.Context, into *login, challenge *transport.Challenge) error {
	asked := time.Now()
	service := &answering{next: s.base}
	token, err := transport.Exchange(ctx, s.repo.Registry, into.credential.Auth, service, s.scopes, challenge)
	if err != nil {
		return service.explain(err)
	}
	life := defaultTokenLife
	if token.ExpiresIn > 0 {
		life = time.Duration(token.ExpiresIn) * time.Second
	}
	into.token = true
	into.authorization = "Bearer " + cmp.Or(token.AccessToken, token.Token)
	if expires := asked.Add(life - min(tokenMargin, life/2)); into.expires.IsZero() || expires.Before(into.expires) {
		into.expires = expires
	}
	return nil
}

// header is the Authorization header of credentials without a token exchange.
func header(c *authn.AuthConfig) string {
	switch {
	case c.RegistryToken != "":
		return "Bearer " + c.RegistryToken
	case c.Username != "" && c.Password != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
	case c.Auth != "":
		return "Basic " + c.Auth
	default:
		return ""
	}
}

// statusOf turns the status errors of go-containerregistry into ours.
func statusOf(err error) error {
	if status, ok := errors.AsType[*transport.Error](err); ok {
		return &StatusError{Code: status.StatusCode, Err: status}
	}
	return err
}
