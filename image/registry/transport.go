package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

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

// watched is a context that ends with [errStalled] when nothing happens on a
// request for the timeout.
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

func (w *watched) alive() { w.timer.Reset(w.timeout) }

func (w *watched) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// watchedBody is a response body whose reads keep a request alive. Close ends the
// request.
type watchedBody struct {
	io.ReadCloser
	watch *watched
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.alive()
	}
	return n, err
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
	ctx, w := watch(req.Context(), t.timeout)
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		err = networkError(ctx, "asking "+req.URL.Host, err)
		w.end()
		return nil, err
	}
	resp.Body = &watchedBody{ReadCloser: resp.Body, watch: w}
	if isManifest(req) {
		resp.Body = &limitedBody{ReadCloser: resp.Body, left: MaxManifest}
	}
	return resp, nil
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
