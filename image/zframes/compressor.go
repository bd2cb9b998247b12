package zframes

import (
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// DefaultFrameSize is one block: a block can be verified, and is read, as a whole only, so
	// that frames which end where blocks end cost a cold read the least bytes. It and
	// DefaultLevel were chosen by a sweep, see docs/decisions/0027-full-mode.md.
	DefaultFrameSize = block.Size
	// DefaultLevel is the compression level.
	DefaultLevel = 3
	// MinFrameSize is the least number of bytes of the stream in a frame.
	MinFrameSize = 64 << 10
	// MaxFrameSize is the largest number of bytes of the stream in a frame.
	MaxFrameSize = 4 << 20
)

// Config configures a [Compressor]. The zero value has the defaults.
type Config struct {
	// FrameSize is how many bytes of the stream a frame holds.
	FrameSize int
	// Level is the compression level in numbers of the zstd tool, of which the encoder knows
	// four steps: 1, 3, 7 and 11.
	Level int
	// Parallel is how many frames are compressed at a time by all writers together. Default
	// GOMAXPROCS. It does not change what is written.
	Parallel int
}

// Compressor compresses frames for any number of writers. It is safe for concurrent use, and
// takes some 5 MB for each frame that is compressed at a time.
type Compressor struct {
	encoder   *zstd.Encoder
	frameSize int
	parallel  int
}

// NewCompressor returns a compressor. It fails when the configuration is out of range.
func NewCompressor(cfg Config) (*Compressor, error) {
	if cfg.FrameSize == 0 {
		cfg.FrameSize = DefaultFrameSize
	}
	if cfg.Level == 0 {
		cfg.Level = DefaultLevel
	}
	if cfg.Parallel <= 0 {
		cfg.Parallel = runtime.GOMAXPROCS(0)
	}
	if cfg.FrameSize < MinFrameSize || cfg.FrameSize > MaxFrameSize {
		return nil, fmt.Errorf("zstd frames of %d bytes: the limits are %d and %d", cfg.FrameSize, MinFrameSize, MaxFrameSize)
	}
	window := zstd.MinWindowSize
	for window < cfg.FrameSize {
		window *= 2
	}
	// No checksum: block digests and the diffID cover every byte.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(cfg.Level)),
		zstd.WithEncoderConcurrency(cfg.Parallel), zstd.WithWindowSize(window), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("starting to compress zstd: %w", err)
	}
	return &Compressor{encoder: encoder, frameSize: cfg.FrameSize, parallel: cfg.Parallel}, nil
}
