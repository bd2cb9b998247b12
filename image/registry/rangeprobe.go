package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// rangesFor is for how long it is remembered that a repository serves ranges, and
	// noRangesFor that it does not.
	rangesFor   = time.Hour
	noRangesFor = 10 * time.Minute
)

// rangesKnown is what was found out of a repository.
type rangesKnown struct {
	err   error // nil if it serves ranges
	until time.Time
}

// CheckRanges asks for a byte in the middle of a blob. It returns an error that wraps
// [ErrNoRanges] if no endpoint of the registry serves ranges of it, and nil if one does. Both are
// remembered for a while for the whole repository; other errors say that it is not known.
func (c *Client) CheckRanges(ctx context.Context, repo name.Repository, digest block.Digest, size int64) error {
	if known, ok := c.ranges.Get(repo.String()); ok && time.Now().Before(known.until) {
		return known.err
	}
	if size < 2 {
		return nil // nothing can be read in parts
	}
	err := c.probe(ctx, repo, digest, size)
	if errors.Is(err, ErrInvalid) {
		// Once may be a mistake.
		if err = c.probe(ctx, repo, digest, size); errors.Is(err, ErrInvalid) {
			err = fmt.Errorf("%w: %w", ErrNoRanges, err)
		}
	}
	switch {
	case err == nil:
		c.ranges.Add(repo.String(), rangesKnown{until: time.Now().Add(rangesFor)})
	case errors.Is(err, ErrNoRanges):
		c.ranges.Add(repo.String(), rangesKnown{err: err, until: time.Now().Add(noRangesFor)})
	}
	return err
}

// probe reads one byte of a blob.
func (c *Client) probe(ctx context.Context, repo name.Repository, digest block.Digest, size int64) error {
	body, err := c.getBlob(ctx, repo, digest, span{off: size / 2, n: 1, size: size})
	if err != nil {
		return err
	}
	_, err = io.ReadFull(body, make([]byte, 1))
	return errors.Join(err, body.Close())
}

// servesRanges reports whether a repository is known to serve ranges.
func (c *Client) servesRanges(repo name.Repository) bool {
	known, ok := c.ranges.Get(repo.String())
	return ok && known.err == nil && time.Now().Before(known.until)
}

// forgetRanges makes CheckRanges look again.
func (c *Client) forgetRanges(repo name.Repository) { c.ranges.Remove(repo.String()) }
