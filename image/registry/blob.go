package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

// maxDiscard is how much of a blob is read and thrown away to get at a range that
// the registry did not serve as such: one extent, a moment's work.
const maxDiscard = block.ExtentSize

// blobName names a blob the way it is asked for.
type blobName struct {
	repository string
	digest     block.Digest
}

// span is a range of bytes of a blob of size bytes.
type span struct {
	off, n, size int64
}

func (s span) whole() bool { return s.off == 0 && s.n == s.size }

// getBlob asks for a range of a blob and returns a body of exactly that many
// bytes: reading less than that from it is an error, never an early end. Errors
// of the body wrap [block.ErrUnavailable] or the cause of ctx.
//
// Where the registry redirected to is remembered and asked directly next time,
// until it refuses.
func (c *Client) getBlob(ctx context.Context, repo name.Repository, digest block.Digest, want span) (body *exactBody, err error) {
	err = c.try(ctx, repo, needPull, func(s *session, patience time.Duration) error {
		body, err = s.getBlob(ctx, digest, want, patience)
		return err
	})
	return body, err
}

func (s *session) getBlob(ctx context.Context, digest block.Digest, want span, patience time.Duration) (*exactBody, error) {
	doing := fmt.Sprintf("reading blob %s from %s", digest.Short(), s.repo)
	stall := s.client.cfg.StallTimeout
	if patience > 0 {
		patience = min(patience, stall)
	} else {
		patience = stall
	}
	reqCtx, w := watch(ctx, patience)
	resp, err := s.askBlob(reqCtx, digest, want) //nolint:bodyclose // the exactBody closes it
	if err != nil {
		err = networkError(reqCtx, doing, err)
		w.end()
		return nil, err
	}
	w.resting()
	w.timeout = stall
	body := &watchedBody{ReadCloser: resp.Body, watch: w}
	if err := position(resp, body, want); err != nil {
		err = networkError(reqCtx, doing, err)
		return nil, errors.Join(err, body.Close())
	}
	return &exactBody{body: body, ctx: reqCtx, doing: doing, left: want.n, from: s.via}, nil
}

// askBlob returns an answer with status 200 or 206.
func (s *session) askBlob(ctx context.Context, digest block.Digest, want span) (*http.Response, error) {
	targets := s.client.targets
	key := blobName{s.repo.String(), digest}
	if target, ok := targets.Get(key); ok {
		resp, err := s.askTarget(ctx, target, want)
		if resp != nil {
			return resp, nil
		}
		// Also after an error: the registry may redirect to another place by now.
		targets.Remove(key)
		if err != nil {
			return nil, err
		}
	}
	u := &url.URL{
		Scheme: "https", Host: s.repo.RegistryStr(),
		Path: fmt.Sprintf("/v2/%s/blobs/%s", s.repo.RepositoryStr(), digest),
	}
	resp, err := s.follow(ctx, u, want)
	if err != nil {
		return nil, err
	}
	if final := resp.Request.URL; final.Host != s.repo.RegistryStr() {
		targets.Add(key, final.String())
	}
	return resp, nil
}

// askTarget asks where an earlier redirect led. It returns no answer and no error
// when that place does not serve the blob any more, which is how signed URLs end.
func (s *session) askTarget(ctx context.Context, target string, want span) (*http.Response, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("%w: redirect: %w", ErrInvalid, err)
	}
	resp, err := s.get(ctx, u, want)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusPartialContent:
		return resp, nil
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= 500:
		err := checkStatus(resp)
		return nil, errors.Join(err, resp.Body.Close())
	default:
		return nil, discard(resp.Body)
	}
}

// follow asks the registry and follows its redirects.
func (s *session) follow(ctx context.Context, u *url.URL, want span) (*http.Response, error) {
	for range maxRedirects {
		resp, err := s.get(ctx, u, want)
		if err != nil {
			return nil, err
		}
		switch resp.StatusCode {
		case http.StatusOK, http.StatusPartialContent:
			return resp, nil
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
			http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
			next, err := resp.Location()
			if err != nil {
				err = fmt.Errorf("%w: redirect: %w", ErrInvalid, err)
				return nil, errors.Join(err, discard(resp.Body))
			}
			if err := discard(resp.Body); err != nil {
				return nil, err
			}
			u = next
		default:
			err := checkStatus(resp)
			return nil, errors.Join(err, resp.Body.Close())
		}
	}
	return nil, fmt.Errorf("%w: more than %d redirects", ErrInvalid, maxRedirects)
}

func (s *session) get(ctx context.Context, u *url.URL, want span) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	if !want.whole() {
		// The end is always given: some registries do not know open ranges.
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", want.off, want.off+want.n-1))
	}
	resp, err := s.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.Request == nil || resp.Request.URL.Host != u.Host {
		resp.Request = req
	}
	return resp, nil
}

// position checks that the answer holds the range, and reads body up to its first
// byte when it holds more.
func position(resp *http.Response, body io.Reader, want span) error {
	if resp.StatusCode == http.StatusPartialContent {
		got, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return err
		}
		if got.first != want.off || got.last != want.off+want.n-1 || (got.total >= 0 && got.total != want.size) {
			return fmt.Errorf("%w: asked for bytes %d-%d of %d, got Content-Range %q", ErrInvalid,
				want.off, want.off+want.n-1, want.size, resp.Header.Get("Content-Range"))
		}
		if resp.ContentLength >= 0 && resp.ContentLength != want.n {
			return fmt.Errorf("%w: asked for %d bytes, got %d", ErrInvalid, want.n, resp.ContentLength)
		}
		return nil
	}
	if resp.ContentLength >= 0 && resp.ContentLength != want.size {
		return fmt.Errorf("%w: blob of %d bytes has %d in the registry", ErrInvalid, want.size, resp.ContentLength)
	}
	if want.off > maxDiscard {
		return fmt.Errorf("%w: %s sent a whole blob of %d bytes for bytes %d-%d",
			ErrNoRanges, resp.Request.URL.Host, want.size, want.off, want.off+want.n-1)
	}
	if _, err := io.CopyN(io.Discard, body, want.off); err != nil {
		return err
	}
	return nil
}

// exactBody is a body that ends after exactly the bytes asked for.
type exactBody struct {
	body  io.ReadCloser
	ctx   context.Context //nolint:containedctx // the context of the request that the body belongs to, to tell why it ended
	doing string
	left  int64
	err   error     // the first error of body
	from  *Endpoint // nil for the registry without further settings
	// counter, if not nil, is told how many bytes each read brought.
	counter func(n int)
}

// Read implements io.Reader.
func (b *exactBody) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.counter != nil {
		defer func() { b.counter(n) }()
	}
	n, err = b.body.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case err == nil, b.left == 0:
		return n, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	b.err = networkError(b.ctx, b.doing, fmt.Errorf("%d bytes missing: %w", b.left, err))
	if errors.Is(b.err, block.ErrUnavailable) {
		b.from.avoid()
	}
	return n, b.err
}

// Close implements io.Closer. A body that was read to its end, or nearly so, leaves
// its connection for the next request.
func (b *exactBody) Close() error {
	if b.left <= maxDrain && b.err == nil {
		return discard(b.body)
	}
	return b.body.Close()
}
