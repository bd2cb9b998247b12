package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

// blobName names a blob the way it is asked for.
type blobName struct {
	repository string
	digest     block.Digest
}

// span is a range of bytes of a blob of size bytes.
type span struct {
	off, n, size int64
	// unranged reads the blob from its start, and throws away what lies before off.
	unranged bool
}

// whole reports whether the blob is asked for without a range, as any client does that
// pulls it.
func (s span) whole() bool { return s.unranged || s.off == 0 && s.n == s.size }

// getBlob asks for a range of a blob and returns a body of exactly that many
// bytes: reading less than that from it is an error, never an early end. Errors
// of the body wrap [block.ErrUnavailable], [ErrNoRanges], [ErrInvalid] or the cause of ctx.
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
