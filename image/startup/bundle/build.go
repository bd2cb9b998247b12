package bundle

import (
	"context"
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// DefaultFrameSize is the content of a frame where nobody says otherwise; why is in
	// decision 19.
	DefaultFrameSize = 512 << 10
	// DefaultLevel is the level of zstd where nobody says otherwise.
	DefaultLevel = 9
)

// Reader reads verified bytes of layer streams: it fills p with those from off on.
type Reader interface {
	ReadStream(ctx context.Context, layer block.Digest, p []byte, off int64) error
}

// BuildConfig configures [Build].
type BuildConfig struct {
	// FrameSize is the content of a frame in bytes, a multiple of [PageSize]; zero means
	// [DefaultFrameSize].
	FrameSize int64
	// Level is that of zstd, from 1 to 22; zero means [DefaultLevel].
	Level int
	// Layers are the layer streams that there are. Spans of others are left out.
	Layers []Layer
	// Stream reads them.
	Stream Reader
}

// Bundle is a bundle as it is stored.
type Bundle struct {
	Table *Table
	// Blob is the whole of it, and TableSize the length of its beginning that holds the
	// table.
	Blob      []byte
	TableSize int64
}

// TableDigest returns the digest of the encoded table.
func (b *Bundle) TableDigest() block.Digest { return block.Sum(b.Blob[:b.TableSize]) }

// Build makes the bundle of a trace. The same arguments give the same bytes. Spans past
// [MaxBytes] in total are left out, and so is what reaches beyond the end of a layer.
// Two frames for each processor are in memory beside the result.
func Build(ctx context.Context, trace []Span, cfg BuildConfig) (*Bundle, error) {
	if cfg.FrameSize == 0 {
		cfg.FrameSize = DefaultFrameSize
	}
	if cfg.Level == 0 {
		cfg.Level = DefaultLevel
	}
	if cfg.FrameSize < MinFrameSize || cfg.FrameSize > MaxFrameSize || cfg.FrameSize%PageSize != 0 {
		return nil, fmt.Errorf("building a bundle: frames of %d bytes", cfg.FrameSize)
	}
	t := &Table{FrameSize: cfg.FrameSize}
	t.take(trace, cfg.Layers)
	t.Frames = make([]Frame, (t.Bytes()+cfg.FrameSize-1)/cfg.FrameSize)
	stored, err := t.fill(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("building a bundle: %w", err)
	}
	head, err := t.Encode()
	if err != nil {
		return nil, err
	}
	b := &Bundle{Table: t, TableSize: int64(len(head)), Blob: make([]byte, 0, int64(len(head))+t.Stored())}
	b.Blob = append(b.Blob, head...)
	for _, frame := range stored {
		b.Blob = append(b.Blob, frame...)
	}
	return b, nil
}

// take makes the spans and the layers of the table.
func (t *Table) take(trace []Span, layers []Layer) {
	sizes := make(map[block.Digest]int64, len(layers))
	for _, l := range layers {
		sizes[l.ID] = l.Size
	}
	used := make(map[block.Digest]bool, len(layers))
	left := int64(MaxBytes)
	for _, s := range trace {
		size, known := sizes[s.Layer]
		if !known || s.Offset < 0 || s.Offset >= size || s.Length <= 0 {
			continue
		}
		s.Length = min(s.Length, size-s.Offset)
		if s.Length > left {
			break
		}
		left -= s.Length
		if !used[s.Layer] {
			used[s.Layer] = true
			t.Layers = append(t.Layers, Layer{ID: s.Layer, Size: size})
		}
		t.Spans = append(t.Spans, s)
	}
}

// fill reads the content, sets the frames and returns them compressed.
func (t *Table) fill(ctx context.Context, cfg BuildConfig) ([][]byte, error) {
	workers := runtime.GOMAXPROCS(0)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(workers), zstd.WithEncoderCRC(false),
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(cfg.Level)), zstd.WithWindowSize(windowSize(cfg.FrameSize)))
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	stored := make([][]byte, len(t.Frames))
	source := content{table: t, stream: cfg.Stream}
	for i := range t.Frames {
		raw := make([]byte, t.FrameLength(i))
		if err := source.read(ctx, raw); err != nil {
			return nil, joinWait(group, err)
		}
		group.Go(func() error {
			stored[i] = enc.EncodeAll(raw, make([]byte, 0, len(raw)/2))
			t.Frames[i] = Frame{Stored: int64(len(stored[i])), Digest: block.Sum(raw)}
			return nil
		})
	}
	return stored, group.Wait()
}

func joinWait(group *errgroup.Group, err error) error {
	if other := group.Wait(); other != nil {
		return fmt.Errorf("%w, then: %w", err, other)
	}
	return err
}

// windowSize returns the smallest window that spans a whole frame.
func windowSize(frame int64) int {
	size := zstd.MinWindowSize
	for int64(size) < frame {
		size *= 2
	}
	return size
}

// content reads the spans one after the other.
type content struct {
	table  *Table
	stream Reader
	span   int
	done   int64 // bytes of the span
}

func (c *content) read(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		s := c.table.Spans[c.span]
		n := min(int64(len(p)), s.Length-c.done)
		if err := c.stream.ReadStream(ctx, s.Layer, p[:n], s.Offset+c.done); err != nil {
			return fmt.Errorf("reading %d bytes at %d of layer %s: %w", n, s.Offset+c.done, s.Layer.Short(), err)
		}
		p = p[n:]
		if c.done += n; c.done == s.Length {
			c.span, c.done = c.span+1, 0
		}
	}
	return nil
}
