package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

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
	if part.IndexSize > MaxIndexBlob || part.Length < 0 || part.Offset < 0 || part.Length > part.IndexSize-part.Offset {
		return nil, fmt.Errorf("reading %d bytes from %d on of index %s from %s: %w: it has %d bytes, the limit is %d",
			part.Length, part.Offset, part.Index.Short(), repo, ErrInvalid, part.IndexSize, MaxIndexBlob)
	}
	r := &blobReader{
		ctx: ctx, client: c, repo: repo, digest: part.Index, size: part.IndexSize,
		off: part.Offset, behind: part.IndexSize - part.Offset - part.Length,
	}
	content, err := r.verified(part.Digest)
	if !errors.Is(err, ErrNoRanges) && !errors.Is(err, ErrInvalid) {
		return content, err
	}
	// Ranges of it are not served, or are wrong.
	whole, err := c.ReadBlob(ctx, repo, part.Index, part.IndexSize, MaxIndexBlob)
	if err != nil {
		return nil, err
	}
	if content = whole[part.Offset : part.Offset+part.Length]; block.Sum(content) != part.Digest {
		return nil, fmt.Errorf("reading a part of index %s from %s: %w: it does not have the digest %s",
			part.Index.Short(), repo, ErrInvalid, part.Digest)
	}
	return content, nil
}
