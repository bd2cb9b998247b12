package registry

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	// minUse is how long a credential is used at least before a newer one is asked
	// for.
	minUse = 5 * time.Second
	// maxCredentials is the most credentials tried for one request.
	maxCredentials = 16
	// maxDrain is how much of an unwanted body is read to keep its connection.
	maxDrain = 64 << 10
)

type sessionKey struct {
	repository string
	push       bool
	via        string // the URL of the endpoint, "" for none
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
	repo   name.Repository // as it is called where it is read
	owner  name.Repository // whose credentials are shown
	scope  string
	push   bool
	base   http.RoundTripper
	via    *Endpoint // nil for the registry without further settings

	renewal singleflight.Group

	mu    sync.Mutex
	login *login // nil before the first request
}

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

func (c *Client) session(repo name.Repository, push bool) *session {
	key := sessionKey{repository: repo.String(), push: push}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[key]; s != nil {
		return s
	}
	s := c.newSession(repo, push)
	if !c.plainHTTP(repo.RegistryStr()) {
		s.base = &tlsOnly{next: s.base}
	}
	c.sessions[key] = s
	return s
}

func (c *Client) newSession(repo name.Repository, push bool) *session {
	action := transport.PullScope
	if push {
		action = transport.PushScope
	}
	return &session{client: c, repo: repo, owner: repo, scope: repo.Scope(action), push: push, base: c.transport}
}

// options are those with which go-containerregistry uses the session. The
// wrapper tells it that authentication is taken care of; the retries are for
// requests without a body only, the pusher repeats the others itself.
func (s *session) options(ctx context.Context) ([]remote.Option, error) {
	return s.optionsFor(ctx, 0)
}

// optionsFor are options without retries if there is only so much patience, for then
// there is another place to ask.
func (s *session) optionsFor(ctx context.Context, patience time.Duration) ([]remote.Option, error) {
	var rt http.RoundTripper = &stalling{next: s, timeout: s.client.cfg.StallTimeout}
	if patience == 0 {
		rt = transport.NewRetry(rt, transport.WithRetryPredicate(worthRetrying), transport.WithRetryStatusCodes(
			http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout))
	}
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
	var tried []string
	for {
		resp, err := s.send(req, current)
		if err != nil {
			return nil, err
		}
		if !refused(resp.StatusCode) {
			s.settle(current, resp.StatusCode)
			return resp, nil
		}
		again, err := replay(req)
		if err != nil {
			return nil, errors.Join(err, resp.Body.Close())
		}
		tried = append(tried, current.authorization)
		if again == nil || len(tried) == maxCredentials {
			return resp, nil
		}
		next, err := s.renew(req.Context(), current, resp.StatusCode)
		if errors.Is(err, ErrNoCredential) {
			// Another request may have gone from one to the next for a reason of its own.
			if next = s.known(); next == nil || !next.accepted.Load() || slices.Contains(tried, next.authorization) {
				return s.denied(resp, err)
			}
			err = nil
		}
		if err = errors.Join(err, discard(resp.Body)); err != nil {
			return nil, err
		}
		req, current = again, next
	}
}

// refused reports whether another credential may get another answer.
func refused(status int) bool {
	return status == http.StatusUnauthorized || status == http.StatusForbidden
}

// settle tells of a login that works. Only what was found or stored proves it:
// some registries say "not found" of everything that strangers may not see.
func (s *session) settle(l *login, status int) {
	if status < http.StatusBadRequest && l.accepted.CompareAndSwap(false, true) {
		s.client.cfg.Credentials.Accepted(s.owner, l.credential)
	}
}

// denied ends a request whose credentials were all refused, for the reason none.
// What pushes decides by the status of an answer.
func (s *session) denied(resp *http.Response, none error) (*http.Response, error) {
	if s.push {
		return resp, nil
	}
	err := &StatusError{Code: resp.StatusCode, Err: fmt.Errorf("%w; %w", transport.CheckError(resp), none)}
	return nil, errors.Join(err, resp.Body.Close())
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
	return s.renew(ctx, l, 0)
}

func (s *session) known() *login {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.login
}

// renew logs in unless somebody has done so since stale was current. The status is
// the one with which stale was refused, 0 if it has only expired. All that wait
// share one attempt, which outlives each of them.
func (s *session) renew(ctx context.Context, stale *login, status int) (*login, error) {
	result := s.renewal.DoChan("login", func() (any, error) {
		if l := s.known(); l != nil && l != stale {
			return l, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.client.cfg.LoginTimeout)
		defer cancel()
		before := forbidden(stale, status)
		fresh, err := s.logInAnew(ctx, stale, status)
		if errors.Is(err, ErrNoCredential) && before != nil {
			// It may not do this one thing, and no other credential may.
			s.client.cfg.Credentials.Accepted(s.owner, before.credential)
			s.use(before)
		}
		if err != nil {
			return nil, networkError(ctx, "logging in to "+s.repo.RegistryStr(), err)
		}
		fresh.before = before
		fresh.spare = stale != nil && stale.accepted.Load()
		s.use(fresh)
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

func (s *session) use(l *login) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.login = l
}

// forbidden returns the login to go back to if no other may do what stale was
// refused for with a status, nil if there is none.
func forbidden(stale *login, status int) *login {
	switch {
	case stale == nil:
		return nil
	case !stale.accepted.Load():
		return stale.before
	case status == http.StatusForbidden:
		same := &login{
			scheme: stale.scheme, authorization: stale.authorization, token: stale.token,
			expires: stale.expires, credential: stale.credential,
		}
		same.accepted.Store(true)
		return same
	default:
		return nil
	}
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
	token, err := transport.Exchange(ctx, s.repo.Registry, into.credential.Auth, service, []string{s.scope}, challenge)
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
