package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// OpenIndexHead is [OpenIndex] with the head of an index, which r holds. The index has the given
// digest and length in bytes.
func OpenIndexHead(layer Layer, r io.ReaderAt, head index.Head, digest block.Digest, length int64) (*index.Layer, error) {
	return openIndex(layer, func() (*index.Layer, error) { return index.OpenHead(r, head, digest, length) })
}

// ReadIndexPart returns a part of a layer index, whose digest has been verified. Where ranges are
// not served, the whole index is read for it. Errors are those of [Client.ReadBlob].
func (c *Client) ReadIndexPart(ctx context.Context, repo name.Repository, part index.Part) ([]byte, error) {
	doing := fmt.Sprintf("reading bytes %d-%d of index %s from %s", part.Offset, part.Offset+part.Length, part.Index.Short(), repo)
	if part.IndexSize > MaxIndexBlob || part.Length < 0 || part.Offset < 0 || part.Length > part.IndexSize-part.Offset {
		return nil, fmt.Errorf("%s: %w: it has %d bytes, the limit is %d", doing, ErrInvalid, part.IndexSize, MaxIndexBlob)
	}
	delay := resumeDelay
	for attempt := 0; ; attempt++ {
		content, from, err := c.readPart(ctx, repo, part)
		switch {
		case err == nil && block.Sum(content) == part.Digest:
			return content, nil
		case err == nil && !from.suspect():
			from.avoid() // another endpoint may have the right bytes
			err = fmt.Errorf("%w: digest is %s, not %s", ErrInvalid, block.Sum(content), part.Digest)
		case err == nil, errors.Is(err, ErrNoRanges):
			return c.cutIndexPart(ctx, repo, part)
		case !errors.Is(err, block.ErrUnavailable):
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
		if attempt == maxResumes {
			return nil, fmt.Errorf("%s: %w", doing, err)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("%s: %w, then: %w", doing, err, context.Cause(ctx))
		}
		delay *= 2
	}
}

// readPart reads a part with one request.
func (c *Client) readPart(ctx context.Context, repo name.Repository, part index.Part) ([]byte, *Endpoint, error) {
	body, err := c.getBlob(ctx, repo, part.Index, span{off: part.Offset, n: part.Length, size: part.IndexSize})
	if err != nil {
		return nil, nil, err
	}
	content := make([]byte, part.Length)
	_, err = io.ReadFull(body, content)
	return content, body.from, errors.Join(err, body.Close())
}

// cutIndexPart reads a whole index for a part of it.
func (c *Client) cutIndexPart(ctx context.Context, repo name.Repository, part index.Part) ([]byte, error) {
	whole, err := c.ReadBlob(ctx, repo, part.Index, part.IndexSize, MaxIndexBlob)
	if err != nil {
		return nil, err
	}
	content := whole[part.Offset : part.Offset+part.Length]
	if got := block.Sum(content); got != part.Digest {
		return nil, fmt.Errorf("bytes %d-%d of index %s: %w: digest is %s, not %s",
			part.Offset, part.Offset+part.Length, part.Index.Short(), ErrInvalid, got, part.Digest)
	}
	return content, nil
}
