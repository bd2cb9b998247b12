package artifact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/bundle"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/source"
)

// BundleConfig says how a bundle is built; zero means the defaults of package bundle.
type BundleConfig struct {
	FrameSize int64
	Level     int
}

// PushBundle builds the bundle of a trace and pushes it, for [Config.Bundle]. Layers are those
// of the image, whose blocks are read from its repository and verified. The bytes of the
// trace are in memory meanwhile, at most [bundle.MaxBytes].
func PushBundle(ctx context.Context, client *registry.Client, image *registry.Image, layers []*index.Layer, trace startup.Trace, cfg BundleConfig) (*registry.BundleBlob, error) {
	sizes := make(map[block.Digest]int64, len(layers))
	for _, l := range layers {
		sizes[l.StreamID()] = l.StreamSize()
	}
	trace = trace.Clip(sizes)
	build := bundle.BuildConfig{FrameSize: cfg.FrameSize, Level: cfg.Level}
	for id, size := range sizes {
		build.Layers = append(build.Layers, bundle.Layer{ID: id, Size: size})
	}
	content, err := readTrace(ctx, client, image, layers, trace)
	if err != nil {
		return nil, fmt.Errorf("reading the start-up set of %s: %w", image.Name, err)
	}
	build.Stream = content
	built, err := bundle.Build(ctx, trace, build)
	if err != nil {
		return nil, err
	}
	if err := client.PushBlob(ctx, image.Name.Context(), built.Blob, registry.BundleMediaType); err != nil {
		return nil, err
	}
	return &registry.BundleBlob{Digest: block.Sum(built.Blob), Size: int64(len(built.Blob)), Annotations: built.Annotations()}, nil
}

// part is a span of the trace and where it begins in the content.
type part struct {
	startup.Span

	position int64
}

// content is the bytes of a trace, read once, in the order of the trace.
type content struct {
	parts map[block.Digest][]part // by layer, in the order of offsets

	mu    sync.Mutex // guards what follows
	bytes []byte
	read  int
}

// ReadStream implements bundle.Reader.
func (c *content) ReadStream(_ context.Context, _ block.Digest, p []byte, _ int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := copy(p, c.bytes[c.read:])
	c.read += n
	if n < len(p) {
		return errors.New("the trace is longer than it was")
	}
	return nil
}

// put takes what the trace has of a block.
func (c *content) put(k block.Key, data []byte) error {
	parts := c.parts[k.Layer]
	from, to := k.Offset(), k.Offset()+int64(len(data))
	i, _ := slices.BinarySearchFunc(parts, from, func(p part, off int64) int {
		if p.End() <= off {
			return -1
		}
		return 1
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; i < len(parts) && parts[i].Offset < to; i++ {
		p := parts[i]
		first, last := max(p.Offset, from), min(p.End(), to)
		copy(c.bytes[p.position+first-p.Offset:], data[first-from:last-from])
	}
	return nil
}

// readTrace reads what a trace has of the layers.
func readTrace(ctx context.Context, client *registry.Client, image *registry.Image, layers []*index.Layer, trace startup.Trace) (*content, error) {
	c := &content{parts: make(map[block.Digest][]part), bytes: make([]byte, trace.Bytes())}
	position := int64(0)
	for _, s := range trace {
		c.parts[s.Layer] = append(c.parts[s.Layer], part{s, position})
		position += s.Length
	}
	src, err := registry.NewSource(client, registry.SourceConfig{})
	if err != nil {
		return nil, err
	}
	defer src.Close()
	known := make(index.Layout, len(layers))
	for _, l := range layers {
		src.Add(image.Name.Context(), l)
		known[l.StreamID()] = l
	}
	verified := source.Retry(source.Verify(src, known, source.VerifyConfig{Name: "registry"}), source.RetryConfig{Name: "registry"})
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fetches)
	for layer, parts := range c.parts {
		slices.SortFunc(parts, func(a, b part) int { return int(max(-1, min(1, a.Offset-b.Offset))) })
		for _, r := range extents(layer, parts) {
			group.Go(func() error { return verified.Fetch(ctx, block.Request{Range: r, Class: block.ClassTail}, c.put) })
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return c, nil
}

// extents returns the blocks of parts of a layer, those of an extent in one range, so that a
// frame is read once.
func extents(layer block.Digest, parts []part) []block.Range {
	var ranges []block.Range
	for _, p := range parts {
		r := block.Covering(layer, p.Offset, p.Length)
		if last := len(ranges) - 1; last >= 0 && r.First/block.ExtentBlocks == ranges[last].First/block.ExtentBlocks {
			ranges[last].Count = max(ranges[last].End(), r.End()) - ranges[last].First
			continue
		}
		ranges = append(ranges, r)
	}
	return ranges
}
