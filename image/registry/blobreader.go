package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// maxResumes is how many times in a row the reading of a blob is taken up
	// again without minSegment bytes having arrived in between.
	maxResumes = 4
	// resumeDelay is the wait before the first of them. It doubles.
	resumeDelay = 250 * time.Millisecond
)

// OpenBlob returns a reader of a whole blob of size bytes, as it is stored. When
// the connection breaks, the reader goes on from where it was, a bounded number
// of times. What it delivers is not verified.
//
// Errors wrap [block.ErrNotFound], [block.ErrUnavailable], [ErrDenied],
// [ErrInvalid] or the cause of ctx, which is in force until the reader is closed.
func (c *Client) OpenBlob(ctx context.Context, repo name.Repository, digest block.Digest, size int64) (io.ReadCloser, error) {
	r := &blobReader{ctx: ctx, client: c, repo: repo, digest: digest, size: size}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// ReadBlob returns a blob of at most limit bytes whose digest has been verified.
func (c *Client) ReadBlob(ctx context.Context, repo name.Repository, digest block.Digest, size, limit int64) ([]byte, error) {
	if size < 0 || size > limit {
		return nil, fmt.Errorf("reading blob %s from %s: %w: %d bytes, the limit is %d", digest.Short(), repo, ErrInvalid, size, limit)
	}
	return (&blobReader{ctx: ctx, client: c, repo: repo, digest: digest, size: size}).verified(digest)
}

// verified reads to the end what has a digest, again from another endpoint if it has another one.
func (r *blobReader) verified(want block.Digest) ([]byte, error) {
	start := r.off
	for {
		content, err := r.all()
		if err != nil {
			return nil, err
		}
		got := block.Sum(content)
		if got == want {
			return content, nil
		}
		if r.from == nil || r.from.suspect() {
			return nil, fmt.Errorf("reading blob %s from %s: %w: digest is %s", r.digest.Short(), r.repo, ErrInvalid, got)
		}
		// Another endpoint may have the right one.
		r.from.avoid()
		r.off = start
	}
}

// all reads to the end.
func (r *blobReader) all() ([]byte, error) {
	if err := r.open(); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	_, err := buf.ReadFrom(io.LimitReader(r, r.end()-r.off))
	err = errors.Join(err, r.Close())
	r.body = nil
	return buf.Bytes(), err
}

type blobReader struct {
	ctx    context.Context //nolint:containedctx // of the request in flight and of those that resume it
	client *Client
	repo   name.Repository
	digest block.Digest
	size   int64
	behind int64 // bytes at the end of the blob that are not read

	body     io.ReadCloser // nil between requests
	from     *Endpoint     // where it comes from
	off      int64
	arrived  int64 // bytes since the last request
	failed   int   // resumes without enough bytes in between
	unranged bool  // to go on, the blob is read from its start
	err      error // the first error that has no further attempt
	counter  func(int)
}

// end returns where reading ends.
func (r *blobReader) end() int64 { return r.size - r.behind }

// skip reads up to a byte.
func (r *blobReader) skip(n int64) error {
	_, err := io.CopyN(io.Discard, r, n)
	return err
}

// decodeError tells bytes that did not come from bytes that are wrong.
func (r *blobReader) decodeError(err error) error {
	if r.err != nil {
		return r.err
	}
	r.from.avoid()
	return fmt.Errorf("%w: %w", block.ErrCorrupt, err)
}

// openWhole returns a reader of a whole blob which gives up when the first attempt to open it
// fails.
func (c *Client) openWhole(ctx context.Context, repo name.Repository, digest block.Digest, size int64) (*blobReader, error) {
	r := &blobReader{ctx: ctx, client: c, repo: repo, digest: digest, size: size, failed: maxResumes}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// open asks for what is left, again while the registry cannot be reached.
func (r *blobReader) open() error {
	for {
		if r.off == r.end() && r.size > 0 {
			return nil
		}
		want := span{off: r.off, n: r.end() - r.off, size: r.size, unranged: r.unranged}
		body, err := r.client.getBlob(r.ctx, r.repo, r.digest, want)
		if err == nil {
			r.body, r.from, r.arrived = body, body.from, 0
			return nil
		}
		if !r.unranged && r.off > 0 && (errors.Is(err, ErrNoRanges) || errors.Is(err, ErrInvalid)) {
			r.unranged = true
			continue
		}
		if err := r.wait(err); err != nil {
			return err
		}
	}
}

// wait waits before the next attempt. It returns the error when there is none.
func (r *blobReader) wait(err error) error {
	if !errors.Is(err, block.ErrUnavailable) || r.failed >= maxResumes {
		r.err = err
		return err
	}
	delay := resumeDelay << r.failed
	var after interface{ RetryAfter() time.Duration }
	if errors.As(err, &after) {
		delay = max(delay, min(after.RetryAfter(), 30*time.Second))
	}
	r.failed++
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-r.ctx.Done():
		r.err = fmt.Errorf("%w, then: %w", err, context.Cause(r.ctx))
		return r.err
	}
}

// Read implements io.Reader.
func (r *blobReader) Read(p []byte) (int, error) {
	for {
		if r.err != nil {
			return 0, r.err
		}
		if r.off == r.end() {
			return 0, io.EOF
		}
		if r.body == nil {
			if err := r.open(); err != nil {
				return 0, err
			}
		}
		n, err := r.body.Read(p)
		if n > 0 {
			r.advance(n)
			return n, nil
		}
		if err == nil {
			continue
		}
		body := r.body
		r.body = nil
		if err := r.wait(errors.Join(err, body.Close())); err != nil {
			return 0, err
		}
	}
}

// advance counts bytes that have arrived.
func (r *blobReader) advance(n int) {
	r.off += int64(n)
	if r.arrived += int64(n); r.arrived >= minSegment {
		r.failed = 0
	}
	if r.counter != nil {
		r.counter(n)
	}
}

// Close implements io.Closer.
func (r *blobReader) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}
