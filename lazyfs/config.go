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
	// StateDir is an absolute path of the directory for metadata images and mount
	// points. It is made if it does not exist, and must be on a filesystem that
	// is not itself an overlay.
	StateDir string
	// Source delivers blocks that are not local. It must keep what it delivers,
	// or else read-ahead and fill are in vain.
	Source block.Source
	// Local reads what the local cache holds; nil if there is none. If it is a
	// [Pinner], complete layers are mounted as plain files.
	Local stream.Local
	// Backend is the backend to use; empty means the first that [Probe] finds.
	Backend Backend
	// ReadTimeout is how long a reader may wait for its blocks before it gets EIO;
	// zero means 30 s.
	ReadTimeout time.Duration
	// Streaming reports whether a layer is on its way from start to end, because it cannot
	// be read in parts, and gets on: then its readers wait longer. Nil means that none is.
	Streaming func(layer block.Digest) bool
	// ReadAhead is the most bytes fetched ahead of a sequential reader; zero means
	// 16 MiB, a negative value none.
	ReadAhead int64
	// Along returns which blocks come along at no cost when those of a range are fetched, such
	// as the rest of their frames; nil means that none do.
	Along func(block.Range) block.Range
	// Free returns how many processors this process may take without taking them from others; nil
	// means that there are always some.
	Free func() float64
	// ExactReads makes the kernel read ahead no more than it does for a local filesystem, so
	// that OnRead shows what programs read. Reads of incomplete layers are slower with it.
	ExactReads bool
	// Keeper keeps mounts that need this process for the next one; nil if there is
	// nothing that could. Then they end with the process.
	Keeper keeper.Store
	// OnRead is called with the bytes of every read that the kernel asks for, in that order;
	// nil if nobody wants to know. It is not called for layers that are mounted as plain
	// files. It must not wait.
	OnRead func(layer block.Digest, offset, length int64)
	// OnReadDone is called when such a read has ended; nil if nobody wants to know. It must not wait.
	OnReadDone func(stream.ReadResult)
	// OnMetadata is called when the metadata of an image has been built, which began at the given time;
	// nil if nobody wants to know.
	OnMetadata func(image Image, began time.Time)
	// Reopen opens the layers of a mount that a process before this one has made,
	// the bottom one first, for Source and Local to know them again. It is called by
	// Run, for one mount after the other, while programs may wait for the answer: so
	// it must do with what is on this machine. Name, Target, ID and Note of the mount
	// may be used. After an error the mount is given up, unless it needs no process.
	// Nil means that nothing has to be told of layers; then trees are given up.
	Reopen func(ctx context.Context, m *Mount) ([]*index.Layer, error)
	// Pages returns parts of layers that an image has beside blocks, nil if it has none any
	// more. It is called while a mount is made or restored, and must not wait.
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
	// Pages names what [Config.Pages] has of the image, zero for nothing.
	Pages block.Digest
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
	// NoFill leaves out the background fill: only what is read is fetched, and what is
	// to be fetched first.
	NoFill bool
	// Fill configures the background fill.
	Fill stream.FillConfig
	// Note is what [Mount.Note] says of the mount, in this process and in those after
	// it: JSON of at most [MaxNote] bytes, or nil.
	Note json.RawMessage
}
