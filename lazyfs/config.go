package lazyfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// Backend is a way to mount an image.
type Backend string

// The backends, in order of preference.
const (
	Erofs Backend = "erofs" // EROFS on plain files
	Loop  Backend = "loop"  // EROFS on loop devices
	Tree  Backend = "tree"  // a FUSE filesystem
)

// Backends returns all backends in order of preference.
func Backends() []Backend { return []Backend{Erofs, Loop, Tree} }

// Pinner is implemented by local caches that keep each layer stream in one plain file.
//
// If the layer is complete, Pin returns the path of its file and what to call when the
// file is not used any more; until then the cache evicts nothing of the layer. If the
// layer is incomplete it returns an error wrapping [block.ErrNotFound].
type Pinner interface {
	Pin(layer block.Digest) (path string, release func(), err error)
}

// Repinner is implemented by a [Pinner] whose pins survive the process.
//
// Repin takes back a pin that a process before this one held when it ended. It looks at
// no block, since a mount that reads the file does neither. If the cache does not know
// the layer the error wraps [block.ErrNotFound].
type Repinner interface {
	Repin(layer block.Digest) (release func(), err error)
}

// Config configures an [FS].
type Config struct {
	// StateDir is the absolute path of the directory for metadata images and mount
	// points. It is created if it does not exist, and must not be on an overlay
	// filesystem.
	StateDir string
	// Source delivers blocks that are not local. It must cache them, otherwise
	// read-ahead and fill have no effect.
	Source block.Source
	// Local reads the local cache; nil if there is none. If it is a [Pinner], complete
	// layers are mounted as plain files.
	Local stream.Local
	// Backend is the backend to use; empty means the first that [Probe] finds.
	Backend Backend
	// ReadTimeout is the time after which a read that waits for blocks fails with EIO;
	// zero means 30 s.
	ReadTimeout time.Duration
	// Streaming reports whether a layer is being streamed from start to end, because it
	// cannot be read in parts, and makes progress. Its readers then wait longer. Nil means
	// that no layer is.
	Streaming func(layer block.Digest) bool
	// ReadAhead is the maximum number of bytes fetched ahead of a sequential reader; zero
	// means 16 MiB, a negative value none.
	ReadAhead int64
	// ExpandToFrames returns the range of all blocks in the frames of a range, which arrive at no
	// extra cost; nil means the range itself.
	ExpandToFrames func(block.Range) block.Range
	// ExactReads limits the read-ahead of the kernel to that of a local filesystem, so that
	// OnRead shows what programs read. It makes reads of incomplete layers slower.
	ExactReads bool
	// Keeper keeps the FUSE connections of mounts for the next process. If it is nil, mounts
	// that need this process end with it.
	Keeper keeper.Store
	// OnRead, if set, is called with the range of every read of the kernel, in their order.
	// It is not called for layers that are mounted as plain files. It must not block.
	OnRead func(layer block.Digest, offset, length int64)
	// OnReadDone, if set, is called when such a read has ended. It must not block.
	OnReadDone func(stream.ReadResult)
	// OnMetadata, if set, is called when the rootfs metadata of an image was built, with the
	// time at which this began.
	OnMetadata func(image Image, began time.Time)
	// Reopen opens the layers of a mount of a previous process, the bottom one first, and
	// registers them with Source and Local. Run calls it for one mount after the other,
	// while programs may wait for it, so it must not use the network. It may use Name,
	// Target, ID and Note of the mount. After an error the mount is removed, unless it
	// needs no process. If it is nil, layers need no registration, and mounts of the
	// backend [Tree] are removed.
	Reopen func(ctx context.Context, m *Mount) ([]*index.Layer, error)
	// Pages returns the pages of the bundle of an image, nil if it has none. It is called
	// while a mount is created or restored, and must not block.
	Pages func(id block.Digest) stream.Pages
	// PagesReadAhead is the readahead window in bytes of the layer files of images that have Pages,
	// a multiple of 4 KiB; zero means 4 KiB: no more than EROFS asks for.
	PagesReadAhead int
	// Logger may be nil.
	Logger *slog.Logger
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
}

// longestName is the length of the longest path below a state directory.
const longestName = len("/rootfs/.00.erofs") + 64 + 16

func (c *Config) validate() error {
	switch {
	case !filepath.IsAbs(c.StateDir):
		return fmt.Errorf("state directory %q is not an absolute path", c.StateDir)
	case len(c.StateDir)+longestName > kernel.MaxPath:
		return fmt.Errorf("state directory %q is too long: mounts cannot refer to paths of more than %d bytes",
			c.StateDir, kernel.MaxPath)
	case c.Source == nil:
		return errors.New("no source of blocks")
	}
	switch c.Backend {
	case "", Erofs, Loop, Tree:
		return nil
	default:
		return fmt.Errorf("backend %q is not one of %v", c.Backend, Backends())
	}
}

// Image is what [FS.Mount] mounts.
type Image struct {
	// Name is what logs call the image. It may be empty.
	Name string
	// ID names the chain of layer indexes, as [ImageID] makes it. The metadata of the
	// image is kept under it.
	ID block.Digest
	// Layers are the layers of the image, the bottom one first.
	Layers []*index.Layer
	// PagesID names what [Config.Pages] has of the image, zero for nothing.
	PagesID block.Digest
}

// Overlay puts a writable layer on top of a mount. Both directories must exist, on
// the same filesystem, which must not be an overlay.
type Overlay struct {
	Upper string // what has been changed
	Work  string // scratch space of the kernel, empty
}

// MountConfig configures one mount. The zero value mounts read-only and fills.
type MountConfig struct {
	// Overlay, if set, makes the mount writable.
	Overlay *Overlay
	// NoFill turns off the background fill: only the trace and what is read are fetched.
	NoFill bool
	// Fill configures the background fill.
	Fill stream.FillConfig
	// CallerData is returned by [Mount.CallerData], also in later processes: JSON of at most [MaxCallerData]
	// bytes, or nil.
	CallerData json.RawMessage
}
