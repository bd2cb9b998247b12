// Package throttle limits how many bytes of content a program exchanges with servers in a second.
package throttle

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"golang.org/x/time/rate"
)

const (
	// MinRate is the lowest limit in bytes a second. With less, a server would take a request for
	// one that has stalled.
	MinRate = 16 << 10
	// stepsPerSecond is how many reads a second are waited for: short waits, so that neither side
	// takes a request for one that has stalled.
	stepsPerSecond = 16
	minStep        = 1 << 10
	maxStep        = 64 << 10
)

// Transport limits the bodies of requests and answers of another transport, all together. Headers
// do not count.
type Transport struct {
	next  http.RoundTripper
	limit *rate.Limiter
	step  int
}

// NewTransport returns a transport that exchanges bytesPerSecond bytes in a second at most, which
// are at least [MinRate].
func NewTransport(next http.RoundTripper, bytesPerSecond int64) (*Transport, error) {
	if bytesPerSecond < MinRate {
		return nil, fmt.Errorf("a limit of %d bytes a second is below %d", bytesPerSecond, MinRate)
	}
	step := int(min(max(bytesPerSecond/stepsPerSecond, minStep), maxStep))
	return &Transport{next: next, limit: rate.NewLimiter(rate.Limit(bytesPerSecond), step), step: step}, nil
}

// CloseIdleConnections is for those who close clients.
func (t *Transport) CloseIdleConnections() {
	if next, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if req.Body != nil && req.Body != http.NoBody {
		req = req.Clone(ctx)
		req.Body = t.body(ctx, req.Body)
		if again := req.GetBody; again != nil {
			req.GetBody = func() (io.ReadCloser, error) {
				content, err := again()
				if err != nil {
					return nil, err
				}
				return t.body(ctx, content), nil
			}
		}
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = t.body(ctx, resp.Body)
	return resp, nil
}

func (t *Transport) body(ctx context.Context, content io.ReadCloser) io.ReadCloser {
	return &body{ReadCloser: content, ctx: ctx, limit: t.limit, step: t.step}
}

// body waits after each read until the next one is due.
type body struct {
	io.ReadCloser
	ctx   context.Context //nolint:containedctx // of the request
	limit *rate.Limiter
	step  int
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.step)])
	if n > 0 {
		if waitErr := b.limit.WaitN(b.ctx, n); waitErr != nil && err == nil {
			err = fmt.Errorf("waiting for the rate limit: %w", waitErr)
		}
	}
	return n, err
}
