package convert

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/zframes"
	"github.com/brisk-project/brisk/internal/block"
)

// Mode is what a conversion makes of an image.
type Mode string

// The modes.
const (
	// ModeIndex makes indexes only: the image stays as it is.
	ModeIndex Mode = "index"
	// ModeFull makes another image, of the same layer streams in blobs that can be read from any
	// block on.
	ModeFull Mode = "full"
	// ModeAuto makes indexes only, unless at least a tenth of an image, in bytes as it is stored, cannot be
	// read lazily for it: zstd layers that begin with a frame of more than 8 MiB of their
	// stream.
	ModeAuto Mode = "auto"
)

// unseekableShare is the part of an image, as one part in so many, that makes [ModeAuto] full.
const unseekableShare = 10

func (m Mode) check() error {
	switch m {
	case "", ModeIndex, ModeFull, ModeAuto:
		return nil
	default:
		return fmt.Errorf("unknown mode %.40q: it is %s, %s or %s", string(m), ModeIndex, ModeFull, ModeAuto)
	}
}

// chooseMode settles the mode and prepares for it.
func (c *conversion) chooseMode(ctx context.Context) error {
	c.result.Mode = ModeIndex
	switch c.cfg.Mode {
	case ModeFull:
		c.result.Mode = ModeFull
	case ModeAuto:
		var err error
		if c.result.Mode, c.result.Reason, err = c.suitableMode(ctx); err != nil {
			return err
		}
	default:
	}
	if c.result.Mode == ModeIndex {
		return nil
	}
	var err error
	c.compressor, err = zframes.NewCompressor(zframes.Config{})
	return err
}

// suitableMode applies the rule of [ModeAuto].
func (c *conversion) suitableMode(ctx context.Context) (Mode, string, error) {
	unseekable := make(map[block.Digest]bool)
	for _, w := range c.works {
		if !strings.Contains(string(w.layer.MediaType), "zstd") {
			continue
		}
		one, err := c.unseekable(ctx, w.layer)
		if err != nil {
			return "", "", fmt.Errorf("layer %s: %w", w.layer.Digest, err)
		}
		unseekable[w.layer.Digest] = one
	}
	for i, image := range c.images {
		if c.skipped[i] != "" {
			continue
		}
		var all, streamed int64
		for _, layer := range image.Layers {
			all += layer.Size
			if unseekable[layer.Digest] {
				streamed += layer.Size
			}
		}
		if streamed > 0 && streamed >= all/unseekableShare {
			return ModeFull, fmt.Sprintf("%d of %d bytes of %s are zstd layers that cannot be read in parts",
				streamed, all, registry.FormatPlatform(image.Platform())), nil
		}
	}
	return ModeIndex, "the layers can be read in parts as they are", nil
}

// unseekable reads the beginning of a zstd layer.
func (c *conversion) unseekable(ctx context.Context, layer registry.Layer) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // the rest of the blob is not wanted
	blob, err := c.client.OpenBlob(ctx, c.ref.Context(), layer.Digest, layer.Size)
	if err != nil {
		if layer.Foreign && errors.Is(err, block.ErrNotFound) {
			return false, nil
		}
		return false, err
	}
	long, err := index.LongZstdFrame(blob)
	if closeErr := blob.Close(); closeErr != nil {
		c.cfg.Logger.DebugContext(ctx, "closing a layer blob", "error", closeErr)
	}
	return long, err
}
