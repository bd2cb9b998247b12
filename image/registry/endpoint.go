package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// endpointPatience is how long an endpoint may keep a request waiting while there is
	// another one to ask.
	endpointPatience = 5 * time.Second
	// avoidFor is for how long an endpoint that failed is asked after the others only.
	avoidFor = 30 * time.Second
	// slow is how long an endpoint may keep somebody waiting who then gives up, without
	// that being its fault.
	slow = 500 * time.Millisecond
)

// Endpoint is a place that has the content of a registry: a mirror, or the registry itself
// under an address or with settings of its own. A client asks the endpoints of a registry
// in their order. It must not be copied once it is in use.
type Endpoint struct {
	// URL is that of the API: a scheme, a host, and a path, which is /v2 mostly.
	URL *url.URL
	// Mirror says that credentials for the endpoint are those for its own name: those
	// for the registry are not shown to it.
	Mirror bool
	// Namespace is the registry that the endpoint is told is meant, as mirrors of several
	// have to know. Empty tells nothing.
	Namespace string
	// Header is sent with every request to the host.
	Header http.Header
	// Transport makes the connections.
	Transport http.RoundTripper
	// What the endpoint may be asked: which digest a tag has, manifests and blobs by
	// their digest, and for referrers.
	Resolve, Pull, Referrers bool

	avoided atomic.Int64 // until then, in Unix nanoseconds
}

// need is what an endpoint is wanted for.
type need int

const (
	needResolve need = iota
	needPull
	needReferrers
)

func (e *Endpoint) serves(what need) bool {
	switch what {
	case needResolve:
		return e.Resolve
	case needReferrers:
		return e.Referrers
	default:
		return e.Pull
	}
}

func (e *Endpoint) suspect() bool { return e != nil && time.Now().UnixNano() < e.avoided.Load() }

// avoid puts the endpoint behind the others for a while.
func (e *Endpoint) avoid() {
	if e != nil {
		e.avoided.Store(time.Now().Add(avoidFor).UnixNano())
	}
}

// split divides the path into that of the API and the repositories that all those of the
// registry are below.
func (e *Endpoint) split() (api, above string) {
	path := strings.TrimSuffix(e.URL.Path, "/")
	if before, after, ok := strings.Cut(path+"/", "/v2/"); ok {
		return before + "/v2", strings.Trim(after, "/")
	}
	return path, ""
}

// ways returns the sessions through which a repository can be read, the best first.
func (c *Client) ways(ctx context.Context, repo name.Repository, what need) []*session {
	var endpoints []*Endpoint
	if c.cfg.Endpoints != nil {
		endpoints = c.cfg.Endpoints(ctx, repo.RegistryStr())
	}
	if len(endpoints) == 0 {
		return []*session{c.session(repo, false)}
	}
	var good, suspect []*session
	for _, e := range endpoints {
		if !e.serves(what) {
			continue
		}
		s, err := c.sessionVia(repo, e)
		if err != nil {
			c.log.WarnContext(ctx, "ignoring an endpoint of a registry", "registry", repo.RegistryStr(), "error", err)
			continue
		}
		if e.suspect() {
			suspect = append(suspect, s)
		} else {
			good = append(good, s)
		}
	}
	return slices.Concat(good, suspect)
}

// sessionVia returns the session with a repository as an endpoint has it.
func (c *Client) sessionVia(repo name.Repository, e *Endpoint) (*session, error) {
	host, err := name.NewRegistry(e.URL.Host)
	if err == nil && e.URL.Scheme == "http" {
		host, err = name.NewRegistry(e.URL.Host, name.Insecure)
	}
	if err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", e.URL.Redacted(), err)
	}
	api, above := e.split()
	there := host.Repo(above, repo.RepositoryStr())
	key := sessionKey{repository: repo.String(), via: e.URL.String()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.sessions[key]; s != nil && s.via == e {
		return s, nil
	}
	s := c.newSession(there, false)
	s.via = e
	if !e.Mirror {
		s.owner = repo
	}
	s.base = &userAgent{value: c.cfg.UserAgent, next: &hop{endpoint: e, host: host.RegistryStr(), api: api, next: e.Transport}}
	if e.URL.Scheme != "http" && !c.plainHTTP(host.RegistryStr()) {
		s.base = &tlsOnly{next: s.base}
	}
	c.sessions[key] = s
	return s, nil
}

// hop turns requests to the API of a registry into those that an endpoint wants. What goes
// to other hosts, where it redirects to or has tokens given out, stays as it is.
type hop struct {
	endpoint *Endpoint
	host     string
	api      string
	next     http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (h *hop) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != h.host {
		return h.next.RoundTrip(req)
	}
	req = req.Clone(req.Context())
	req.URL.Scheme = h.endpoint.URL.Scheme
	for key, values := range h.endpoint.Header {
		req.Header[http.CanonicalHeaderKey(key)] = values
	}
	if rest, ok := strings.CutPrefix(req.URL.Path, "/v2/"); ok {
		req.URL.Path = h.api + "/" + rest
		if h.endpoint.Namespace != "" {
			query := req.URL.Query()
			query.Set("ns", h.endpoint.Namespace)
			req.URL.RawQuery = query.Encode()
		}
	}
	return h.next.RoundTrip(req)
}

// errNothing says that an endpoint has none of what was asked for, and that another one
// may have. It wraps [block.ErrNotFound].
var errNothing = fmt.Errorf("it lists nothing: %w", block.ErrNotFound)

// try calls ask with one session after the other until it returns no error, with a
// patience that is zero for the last of them. The error is that of the last, and tells of
// those before.
func (c *Client) try(ctx context.Context, repo name.Repository, what need, ask func(s *session, patience time.Duration) error) error {
	ways := c.ways(ctx, repo, what)
	var before []string
	var last error
	rangeless := false // one would have sent the whole blob
	for i, s := range ways {
		if s.via.suspect() && notFound(last) {
			break // one that works has said what there is to say
		}
		patience := endpointPatience
		if i == len(ways)-1 {
			patience = 0
		}
		if last != nil {
			before = append(before, last.Error())
			rangeless = rangeless || errors.Is(last, ErrNoRanges)
		}
		asked := time.Now()
		if last = ask(s, patience); last == nil {
			return nil
		}
		if blamed(ctx, last, time.Since(asked)) {
			s.via.avoid()
		}
		if ctx.Err() != nil {
			break
		}
	}
	if last == nil {
		return fmt.Errorf("%w: none of the endpoints configured for %s may be asked for this", block.ErrUnavailable, repo.RegistryStr())
	}
	if rangeless && !errors.Is(last, ErrNoRanges) && ctx.Err() == nil {
		last = fmt.Errorf("%w: %w", ErrNoRanges, last)
	}
	if len(before) > 0 {
		return fmt.Errorf("%w (before that: %s)", last, strings.Join(before, "; "))
	}
	return last
}

// blamed reports whether an error is the fault of the endpoint, and not of what was asked
// for or of who was asking.
func blamed(ctx context.Context, err error, took time.Duration) bool {
	if ctx.Err() != nil {
		return took >= slow && errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	}
	for _, fault := range []error{block.ErrUnavailable, block.ErrCorrupt, ErrInvalid, ErrNoRanges, ErrPlainHTTP} {
		if errors.Is(err, fault) {
			return true
		}
	}
	return false
}

// within returns ctx with an end after a patience, which may be zero for none.
func within(ctx context.Context, patience time.Duration) (context.Context, context.CancelFunc) {
	if patience == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, patience, fmt.Errorf("%w (%s)", errStalled, patience))
}
