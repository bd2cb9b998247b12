package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// writeTimeout is how long a registry may take at least to store what it has been
// sent: some copy a blob to its final place before they answer.
const writeTimeout = 2 * time.Minute

// errStalled is the cause with which a stalled request is cancelled.
var errStalled = errors.New("no bytes arrived in time")

// userAgent names us in every request, and asks for bytes as they are stored.
type userAgent struct {
	next  http.RoundTripper
	value string
}

// RoundTrip implements http.RoundTripper.
func (t *userAgent) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", t.value)
	req.Header.Set("Accept-Encoding", "identity")
	return t.next.RoundTrip(req)
}

// answering notes whether a token service gave what should be a token.
type answering struct {
	next http.RoundTripper
	ok   atomic.Bool
}

// RoundTrip implements http.RoundTripper.
func (t *answering) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.next.RoundTrip(req)
	t.ok.Store(err == nil && resp.StatusCode == http.StatusOK)
	return resp, err
}

// explain returns the error of a log-in. One about an answer that should have been a
// token would quote it, and there may be a secret in it.
func (t *answering) explain(err error) error {
	_, network := errors.AsType[net.Error](err)
	if !t.ok.Load() || network || errors.Is(err, io.ErrUnexpectedEOF) {
		return statusOf(err)
	}
	return fmt.Errorf("%w: the token service answered without a token", ErrInvalid)
}

// tlsOnly refuses plain HTTP. It stands below everything that talks to a registry
// for which plain HTTP is not allowed, so that neither a redirect nor a token
// service can lead there.
type tlsOnly struct {
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *tlsOnly) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme == "https" {
		return t.next.RoundTrip(req)
	}
	if req.Body != nil {
		if err := req.Body.Close(); err != nil {
			return nil, fmt.Errorf("closing a request body: %w", err)
		}
	}
	return nil, fmt.Errorf("%w: %s; allow it by name if the network to it is trusted", ErrPlainHTTP, req.URL.Host)
}

// watched is a context that ends with [errStalled] when the other side lets a
// request wait for the timeout. Time that we take between two reads does not
// count.
type watched struct {
	timer   *time.Timer
	timeout time.Duration
	cancel  context.CancelCauseFunc
}

func watch(ctx context.Context, timeout time.Duration) (context.Context, *watched) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watched{timeout: timeout, cancel: cancel}
	w.timer = time.AfterFunc(timeout, func() { cancel(fmt.Errorf("%w (%s)", errStalled, timeout)) })
	return ctx, w
}

// waiting starts the time anew, resting stops it.
func (w *watched) waiting() { w.timer.Reset(w.timeout) }
func (w *watched) resting() { w.timer.Stop() }

func (w *watched) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// watchedBody is a response body each of whose reads may take the timeout. Close
// ends the request.
type watchedBody struct {
	io.ReadCloser
	watch *watched
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.watch.waiting()
	defer b.watch.resting()
	return b.ReadCloser.Read(p)
}

// sentBody is a request body: as long as it is being read, the request does not
// stall.
type sentBody struct {
	io.ReadCloser
	watch *watched
}

// Read implements io.Reader.
func (b *sentBody) Read(p []byte) (int, error) {
	b.watch.waiting()
	return b.ReadCloser.Read(p)
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.watch.end()
	return err
}

// stalling ends requests that stall, from the first byte sent to the last one
// received. It also bounds what is read of manifests, which
// go-containerregistry reads into memory.
type stalling struct {
	next    http.RoundTripper
	timeout time.Duration
}

// RoundTrip implements http.RoundTripper.
func (t *stalling) RoundTrip(req *http.Request) (*http.Response, error) {
	timeout := t.timeout
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		timeout = max(timeout, writeTimeout)
	}
	ctx, w := watch(req.Context(), timeout)
	resp, err := t.next.RoundTrip(sending(req.WithContext(ctx), w))
	w.resting()
	if err != nil {
		err = networkError(ctx, "asking "+req.URL.Host, err)
		w.end()
		return nil, err
	}
	resp.Body = &watchedBody{ReadCloser: resp.Body, watch: w}
	if isManifest(req) {
		if err := decodeManifest(resp); err != nil {
			err = networkError(ctx, "asking "+req.URL.Host, err)
			return nil, errors.Join(err, resp.Body.Close())
		}
		resp.Body = &limitedBody{ReadCloser: resp.Body, left: MaxManifest}
	}
	return resp, nil
}

// decodeManifest undoes the compression of a proxy.
func decodeManifest(resp *http.Response) error {
	names := encodings(resp)
	if names == nil {
		return nil
	}
	decoded, err := decodeContent(resp.Body, names)
	if err != nil {
		return err
	}
	resp.Body, resp.ContentLength = decoded, -1
	resp.Header.Del("Content-Encoding")
	resp.Header.Del("Content-Length")
	return nil
}

// sending makes the bodies of a request keep it from stalling.
func sending(req *http.Request, w *watched) *http.Request {
	if req.Body == nil || req.Body == http.NoBody {
		return req
	}
	req.Body = &sentBody{ReadCloser: req.Body, watch: w}
	if again := req.GetBody; again != nil {
		req.GetBody = func() (io.ReadCloser, error) {
			body, err := again()
			if err != nil {
				return nil, err
			}
			return &sentBody{ReadCloser: body, watch: w}, nil
		}
	}
	return req
}

func isManifest(req *http.Request) bool {
	path := req.URL.Path
	return req.Method == http.MethodGet && (strings.Contains(path, "/manifests/") || strings.Contains(path, "/referrers/"))
}

// limitedBody fails, instead of ending, where a body becomes too long.
type limitedBody struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *limitedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return 0, fmt.Errorf("%w: manifest longer than %d bytes", ErrInvalid, MaxManifest)
	}
	return n, err
}
