package convert

import (
	"context"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/predict"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/source"
)

const (
	// predictTime is how long a prediction may take. It is a hint, and a conversion is not to wait
	// for it.
	predictTime = 2 * time.Minute
	// predictCache is how many blocks are in memory meanwhile: 48 MiB.
	predictCache = 192
	// predictReads is how much of the layers is read once more for a prediction, in bytes of the
	// streams, and predictShare the part of an image that may be read besides.
	predictReads = 96 << 20
	predictShare = 10
)

// predictions returns the traces for the index artifact of an image, and how many bytes they have. Those
// of the artifact that exists stay. That nothing can be predicted is logged, and no error.
func (c *conversion) predictions(
	ctx context.Context, image *registry.Image, existing *registry.Artifact, indexes []registry.IndexBlob,
) ([]registry.TraceBlob, int64) {
	if existing != nil && len(existing.Traces) > 0 && !c.cfg.Reindex && sameIndexes(existing.Indexes, indexes) {
		return existing.Traces, 0
	}
	if c.cfg.NoPrediction {
		return nil, 0
	}
	ctx, cancel := context.WithTimeout(ctx, predictTime)
	defer cancel()
	began := time.Now()
	trace, bytes, err := c.predict(ctx, image, indexes)
	if err != nil {
		c.cfg.Logger.InfoContext(ctx, "what a start reads is not predicted", "platform", registry.FormatPlatform(image.Platform()), "error", err)
		return nil, 0
	}
	c.cfg.Logger.InfoContext(ctx, "predicted what a start reads", "platform", registry.FormatPlatform(image.Platform()), "bytes", bytes, "took", time.Since(began))
	return []registry.TraceBlob{trace}, bytes
}

// sameIndexes reports whether an artifact has the indexes of all layers, and no others.
func sameIndexes(existing, indexes []registry.IndexBlob) bool {
	has := func(in []registry.IndexBlob, b registry.IndexBlob) bool {
		return slices.ContainsFunc(in, func(o registry.IndexBlob) bool { return o.Layer == b.Layer && o.Digest == b.Digest })
	}
	for _, b := range indexes {
		if !has(existing, b) {
			return false
		}
	}
	for _, b := range existing {
		if !has(indexes, b) {
			return false
		}
	}
	return true
}

// predict makes and pushes the predicted trace of an image.
func (c *conversion) predict(ctx context.Context, image *registry.Image, indexes []registry.IndexBlob) (t registry.TraceBlob, bytes int64, err error) {
	layers, err := c.client.LayerIndexes(ctx, image, &registry.Artifact{Indexes: indexes})
	if err != nil {
		return t, 0, err
	}
	reader, err := newStreamReader(c.client, image, layers)
	if err != nil {
		return t, 0, err
	}
	defer reader.close()
	file, err := predict.Run(ctx, predict.Config{
		Layers: layers, Image: image.Config.Config, Stream: reader,
		Note: func(reason string) { c.cfg.Logger.DebugContext(ctx, "left out of a prediction", "reason", reason) },
	})
	c.cfg.Logger.DebugContext(ctx, "read for the prediction", "fetches", reader.fetches, "bytes", reader.fetched)
	if err != nil {
		return t, 0, err
	}
	encoded, err := file.Encode()
	if err != nil {
		return t, 0, err
	}
	if err := c.client.PushBlob(ctx, c.ref.Context(), encoded, registry.TraceMediaType); err != nil {
		return t, 0, err
	}
	return registry.TraceBlob{Digest: block.Sum(encoded), Size: int64(len(encoded)), Predicted: true}, file.Trace.Bytes(), nil
}

// streamReader reads verified bytes of the layers of an image from its repository. It is not safe for
// concurrent use.
type streamReader struct {
	from     *registry.Source
	verified block.Source
	sizes    index.Layout
	blocks   *lru.Cache[block.Key, []byte]
	limit    int64 // of fetched
	fetched  int64 // bytes
	fetches  int
	free     [][]byte // memory of blocks that were dropped
}

func newStreamReader(client *registry.Client, image *registry.Image, layers []*index.Layer) (*streamReader, error) {
	src, err := registry.NewSource(client, registry.SourceConfig{RangesOnly: true})
	if err != nil {
		return nil, err
	}
	r := &streamReader{from: src, sizes: make(index.Layout, len(layers)), limit: predictReads}
	if err := r.open(); err != nil {
		return nil, err
	}
	for _, l := range layers {
		src.Add(image.Name.Context(), l)
		if r.sizes[l.StreamID()] == nil {
			r.limit += l.StreamSize() / predictShare
		}
		r.sizes[l.StreamID()] = l
	}
	r.verified = source.Retry(source.Verify(src, r.sizes, source.VerifyConfig{Name: "registry"}), source.RetryConfig{Name: "registry"})
	return r, nil
}

// open makes the cache of blocks.
func (r *streamReader) open() (err error) {
	r.blocks, err = lru.NewWithEvict(predictCache, func(_ block.Key, data []byte) { r.free = append(r.free, data[:0]) })
	if err != nil {
		return fmt.Errorf("making a cache: %w", err)
	}
	return nil
}

func (r *streamReader) close() { r.from.Close() }

// ReadStream implements [predict.Reader].
func (r *streamReader) ReadStream(ctx context.Context, layer block.Digest, p []byte, off int64) error {
	wanted := block.Covering(layer, off, int64(len(p)))
	for i := range wanted.Count {
		k := wanted.Key(i)
		from := max(off, k.Offset())
		found := -1 // bytes of the block from there on
		take := func(data []byte) {
			if found = len(data) - int(from-k.Offset()); found >= 0 {
				copy(p[from-off:], data[from-k.Offset():])
			}
		}
		if data, ok := r.blocks.Get(k); ok {
			take(data)
		} else if err := r.fetch(ctx, k, take); err != nil {
			return err
		}
		if found < 0 {
			return fmt.Errorf("byte %d of layer %s: %w", from, layer.Short(), block.ErrNotFound)
		}
	}
	return nil
}

// fetch fetches a block, which it passes to take, and keeps it with those that come along.
func (r *streamReader) fetch(ctx context.Context, k block.Key, take func(data []byte)) error {
	if r.fetched >= r.limit {
		return fmt.Errorf("%w: %d bytes", predict.ErrBudget, r.fetched)
	}
	r.fetches++
	request := block.Request{Range: block.Range{Layer: k.Layer, First: k.Index, Count: 1}, Class: block.ClassTail}
	err := r.verified.Fetch(ctx, request, func(arrived block.Key, data []byte) error {
		r.fetched += int64(len(data))
		if arrived == k {
			take(data)
		}
		r.keep(arrived, data)
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading layer %s: %w", k.Layer.Short(), err)
	}
	return nil
}

// keep copies a block into the memory of one that is dropped for it.
func (r *streamReader) keep(k block.Key, data []byte) {
	if _, kept := r.blocks.Get(k); kept {
		return
	}
	if r.blocks.Len() >= predictCache {
		r.blocks.RemoveOldest()
	}
	var memory []byte
	if n := len(r.free); n > 0 {
		memory, r.free = r.free[n-1], r.free[:n-1]
	} else {
		memory = make([]byte, 0, block.Size)
	}
	r.blocks.Add(k, append(memory, data...))
}
