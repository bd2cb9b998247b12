package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
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
	remove     bool   // may delete
	mount      string // the repository of the same registry that blobs are mounted from, "" for none
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
	scopes []string
	push   bool
	base   http.RoundTripper
	via    *Endpoint // nil for the registry without further settings

	renewal singleflight.Group

	mu    sync.Mutex
	login *login // nil before the first request
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
	return &session{client: c, repo: repo, owner: repo, scopes: []string{repo.Scope(action)}, push: push, base: c.transport}
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
