package convert

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// Layer is what a conversion did for one layer. Sizes are in bytes.
type Layer struct {
	Digest    block.Digest `json:"digest"`
	DiffID    block.Digest `json:"diffID"`
	BlobSize  int64        `json:"blobSize"`
	IndexSize int64        `json:"indexSize"`
	// HeadSize is the length in bytes of what a mount needs of the index, zero for all.
	HeadSize int64 `json:"headSize,omitempty"`
	// FullDigest is the blob of the layer in full mode, of FullSize bytes.
	FullDigest block.Digest `json:"full,omitzero"`
	FullSize   int64        `json:"fullSize,omitempty"`
	// Reused is set when the index was there already. What follows is then not
	// known.
	Reused     bool  `json:"reused"`
	StreamSize int64 `json:"streamSize,omitempty"`
	Entries    int   `json:"entries,omitempty"`
	Frames     int   `json:"frames,omitempty"`
	// Streamed is set for a layer that can only be read from its start to its end, such as one in a
	// single zstd frame.
	Streamed bool          `json:"streamed,omitempty"`
	Elapsed  time.Duration `json:"elapsed,omitempty"` // in nanoseconds, from the first byte asked for to the index pushed
}

// indexLayers sees to it that every layer has an index in the repository. The
// largest layers come first: started last, one would be alone at the end.
func (c *conversion) indexLayers(ctx context.Context) error {
	bySize := slices.Clone(c.works)
	slices.SortStableFunc(bySize, func(a, b *work) int { return cmp.Compare(b.layer.Size, a.layer.Size) })
	parent := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.cfg.Parallel)
	for _, w := range bySize {
		group.Go(func() error {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			if err := c.indexLayer(ctx, w); err != nil {
				return fmt.Errorf("layer %s: %w", w.layer.Digest, err)
			}
			return nil
		})
	}
	err := group.Wait()
	if err != nil {
		c.interrupted(parent)
	}
	return err
}

func (c *conversion) indexLayer(ctx context.Context, w *work) error {
	w.done = Layer{Digest: w.layer.Digest, DiffID: w.layer.DiffID, BlobSize: w.layer.Size}
	if f, ok := c.reusable[w.layer.Digest]; ok {
		return c.reuse(ctx, w, f)
	}
	began := time.Now()
	read := c.build
	if c.compressor != nil {
		read = c.recompress
	}
	built, err := read(ctx, w)
	if err != nil {
		return c.skip(ctx, w, err)
	}
	if err := c.client.PushBlob(ctx, c.ref.Context(), built.Encoded, registry.LayerMediaType); err != nil {
		return err
	}
	w.index = registry.IndexBlob{
		Layer: w.target.Digest, DiffID: w.layer.DiffID, Digest: block.Sum(built.Encoded), Size: int64(len(built.Encoded)),
		Head: built.Head,
	}
	w.done.IndexSize, w.done.HeadSize, w.done.StreamSize = w.index.Size, w.index.Head.Size, built.StreamSize
	w.done.Entries, w.done.Frames, w.done.Streamed = built.Entries, built.Frames, !built.Seekable
	w.converted()
	w.done.Elapsed = time.Since(began)
	c.finish(ctx, w)
	c.report.event(Event{Kind: LayerIndexed, Layer: w.layer.Digest, ReadBytes: w.layer.Size, TotalBytes: w.layer.Size})
	return nil
}

// build reads the layer and checks that it is the one the image names.
func (c *conversion) build(ctx context.Context, w *work) (built *index.Result, err error) {
	blob, err := c.client.OpenBlob(ctx, c.ref.Context(), w.layer.Digest, w.layer.Size)
	if err != nil {
		return nil, err
	}
	defer func() {
		if closeErr := blob.Close(); err == nil && closeErr != nil {
			c.cfg.Logger.DebugContext(ctx, "closing a layer blob", "error", closeErr)
		}
	}()
	built, err = index.Build(ctx, &progressReader{from: blob, layer: w.layer, report: c.report}, c.cfg.Build)
	if err != nil {
		return nil, err
	}
	if built.BlobDigest != w.layer.Digest {
		return nil, fmt.Errorf("%w: the registry sent a blob with digest %s", ErrMismatch, built.BlobDigest)
	}
	if built.DiffID != w.layer.DiffID {
		return nil, fmt.Errorf("%w: its diffID is %s, the image configuration says %s", ErrMismatch, built.DiffID, w.layer.DiffID)
	}
	return built, nil
}

// reuse takes an index that is there. One of another repository is copied, with the blob if that
// is not in the image.
func (c *conversion) reuse(ctx context.Context, w *work, f found) error {
	w.target = f.layer
	if f.repo.String() != c.ref.Context().String() {
		if err := c.copyIndex(ctx, w, f); err != nil {
			return err
		}
	}
	w.index = f.index
	w.converted()
	w.done.Reused, w.done.IndexSize, w.done.HeadSize = true, f.index.Size, f.index.Head.Size
	c.report.event(Event{Kind: LayerReused, Layer: w.layer.Digest, TotalBytes: w.layer.Size})
	return nil
}

func (c *conversion) copyIndex(ctx context.Context, w *work, f found) error {
	content, err := c.client.ReadBlob(ctx, f.repo, f.index.Digest, f.index.Size, registry.MaxIndexBlob)
	if err != nil {
		return err
	}
	opened, err := index.Open(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		return fmt.Errorf("index %s of %s: %w", f.index.Digest, f.repo, err)
	}
	if opened.BlobDigest() != w.target.Digest || opened.DiffID() != w.layer.DiffID {
		return fmt.Errorf("index %s of %s: %w: it describes layer %s", f.index.Digest, f.repo, ErrMismatch, opened.BlobDigest())
	}
	if w.target.Digest != w.layer.Digest {
		if err := c.client.CopyBlob(ctx, f.repo, c.ref.Context(), w.target.Descriptor()); err != nil {
			return err
		}
	}
	return c.client.PushBlob(ctx, c.ref.Context(), content, registry.LayerMediaType)
}

// progressReader reports what is read.
type progressReader struct {
	from     io.Reader
	layer    registry.Layer
	report   *reporter
	read     int64
	reported int64
}

// Read implements io.Reader.
func (r *progressReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	r.read += int64(n)
	if r.read-r.reported >= reportStep || (r.reported == 0 && r.read > 0) {
		r.reported = r.read
		r.report.event(Event{Kind: LayerReading, Layer: r.layer.Digest, ReadBytes: r.read, TotalBytes: r.layer.Size})
	}
	return n, err
}
