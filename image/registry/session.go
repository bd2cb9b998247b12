package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// defaultTokenLife is how long a token without expiry lives, as the token
	// specification says.
	defaultTokenLife = 60 * time.Second
	// tokenMargin is how long before its end a token is renewed, at most half its
	// life: a request must not be on its way when it expires.
	tokenMargin = 20 * time.Second
	// maxDrain is how much of an unwanted body is read to keep its connection.
	maxDrain = 64 << 10
)

type sessionKey struct {
	repository string
	push       bool
}

// session is what the client knows of one repository: how the registry wants to
// be spoken to and what it accepts as credentials. It is the http.RoundTripper of
// everything sent to that registry.
//
// go-containerregistry has such a transport too. This one differs in what
// matters to a process that runs for weeks: the keychain is asked again when
// credentials are renewed, tokens are renewed before they expire and once for all
// requests that wait for them, and a login never blocks longer than its requests.
type session struct {
	client *Client
	repo   name.Repository
	scope  string
	base   http.RoundTripper

	renewal singleflight.Group

	mu    sync.Mutex
	login *login // nil before the first request
}

// login is the outcome of a log-in. It is not modified.
type login struct {
	scheme        string    // http or https
	authorization string    // the header, "" for none
	expires       time.Time // zero: never
}

func (c *Client) session(repo name.Repository, push bool) *session {
	key := sessionKey{repo.String(), push}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[key]; s != nil {
		return s
	}
	action := transport.PullScope
	if push {
		action = transport.PushScope
	}
	s := &session{client: c, repo: repo, scope: repo.Scope(action), base: c.transport}
	if !c.plainHTTP(repo.RegistryStr()) {
		s.base = &tlsOnly{next: s.base}
	}
	c.sessions[key] = s
	return s
}

// options are those with which go-containerregistry uses the session. The
// wrapper tells it that authentication is taken care of; the retries are for
// requests without a body only, the pusher repeats the others itself.
func (s *session) options(ctx context.Context) ([]remote.Option, error) {
	var rt http.RoundTripper = &stalling{next: s, timeout: s.client.cfg.StallTimeout}
	rt = transport.NewRetry(rt, transport.WithRetryPredicate(worthRetrying), transport.WithRetryStatusCodes(
		http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout))
	wrapped, err := transport.FromToken(s.repo.Registry, authn.Anonymous, rt, &transport.Challenge{}, nil)
	if err != nil {
		return nil, fmt.Errorf("using the session with %s: %w", s.repo, err)
	}
	return []remote.Option{remote.WithTransport(wrapped), remote.WithContext(ctx)}, nil
}

// worthRetrying is true for what may be over in half a second.
func worthRetrying(err error) bool {
	if status, ok := errors.AsType[*transport.Error](err); ok {
		return status.Temporary()
	}
	return errors.Is(err, block.ErrUnavailable) && !errors.Is(err, errStalled)
}

// RoundTrip implements http.RoundTripper. A request to another host, where a
// redirect led, gets no credentials.
func (s *session) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != s.repo.RegistryStr() {
		return s.base.RoundTrip(req)
	}
	current, err := s.current(req.Context())
	if err != nil {
		return nil, err
	}
	resp, err := s.send(req, current)
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	again, err := replay(req)
	if err != nil || again == nil {
		return resp, err
	}
	if err := discard(resp.Body); err != nil {
		return nil, err
	}
	current, err = s.renew(req.Context(), current)
	if err != nil {
		return nil, err
	}
	return s.send(again, current)
}

func (s *session) send(req *http.Request, with *login) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Scheme = with.scheme
	if with.authorization != "" {
		req.Header.Set("Authorization", with.authorization)
	}
	return s.base.RoundTrip(req)
}

// replay returns the request for a second attempt, nil when its body is gone.
func replay(req *http.Request) (*http.Request, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return req, nil
	}
	if req.GetBody == nil {
		return nil, nil
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, fmt.Errorf("repeating a request: %w", err)
	}
	req = req.Clone(req.Context())
	req.Body = body
	return req, nil
}

// discard closes a body after reading as much of it as lets its connection be
// used again.
func discard(body io.ReadCloser) error {
	if _, err := io.CopyN(io.Discard, body, maxDrain); err != nil && !errors.Is(err, io.EOF) {
		// The connection is lost, and with it the body: nothing left to do.
		return body.Close()
	}
	return body.Close()
}

// current returns a login that has not expired.
func (s *session) current(ctx context.Context) (*login, error) {
	l := s.known()
	if l != nil && (l.expires.IsZero() || time.Now().Before(l.expires)) {
		return l, nil
	}
	return s.renew(ctx, l)
}

func (s *session) known() *login {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.login
}

// renew logs in unless somebody has done so since stale was current. All that
// wait share one attempt, which outlives each of them.
func (s *session) renew(ctx context.Context, stale *login) (*login, error) {
	result := s.renewal.DoChan("login", func() (any, error) {
		if l := s.known(); l != nil && l != stale {
			return l, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.client.cfg.LoginTimeout)
		defer cancel()
		fresh, err := s.logIn(ctx)
		if err != nil {
			return nil, networkError(ctx, "logging in to "+s.repo.RegistryStr(), err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.login = fresh
		return fresh, nil
	})
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		fresh, ok := r.Val.(*login)
		if !ok {
			return nil, fmt.Errorf("logging in to %s: no result", s.repo.RegistryStr())
		}
		return fresh, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting to be logged in to %s: %w", s.repo.RegistryStr(), context.Cause(ctx))
	}
}

// logIn finds out how the registry wants to be spoken to and gets what it accepts.
func (s *session) logIn(ctx context.Context) (*login, error) {
	reg := s.repo.Registry
	if s.client.plainHTTP(reg.RegistryStr()) {
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
	if err != nil {
		return nil, statusOf(err)
	}
	fresh := &login{scheme: "https"}
	if challenge.Insecure {
		fresh.scheme = "http"
	}
	auth, err := authn.Resolve(ctx, s.client.cfg.Keychain, s.repo)
	if err != nil {
		return nil, fmt.Errorf("looking up credentials: %w: %w", ErrDenied, err)
	}
	credentials, err := authn.Authorization(ctx, auth)
	if err != nil {
		return nil, fmt.Errorf("looking up credentials: %w: %w", ErrDenied, err)
	}
	if strings.EqualFold(challenge.Scheme, "bearer") {
		return fresh, s.exchange(ctx, fresh, auth, credentials, challenge)
	}
	fresh.authorization = header(credentials)
	return fresh, nil
}

// exchange gets a bearer token for the credentials.
func (s *session) exchange(
	ctx context.Context, into *login, auth authn.Authenticator, credentials *authn.AuthConfig, challenge *transport.Challenge,
) error {
	if credentials.RegistryToken != "" {
		into.authorization = "Bearer " + credentials.RegistryToken
		return nil
	}
	asked := time.Now()
	token, err := transport.Exchange(ctx, s.repo.Registry, auth, s.base, []string{s.scope}, challenge)
	if err != nil {
		return statusOf(err)
	}
	life := defaultTokenLife
	if token.ExpiresIn > 0 {
		life = time.Duration(token.ExpiresIn) * time.Second
	}
	into.authorization = "Bearer " + cmp.Or(token.AccessToken, token.Token)
	into.expires = asked.Add(life - min(tokenMargin, life/2))
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
