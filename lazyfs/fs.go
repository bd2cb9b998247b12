package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

const (
	// stateMode keeps other users away from what is mounted below the state directory.
	stateMode = 0o700
	// stopTimeout is how long each mount that is still there when Run ends may be in
	// use before it is detached.
	stopTimeout = 2 * time.Second
)

// ErrStopped says that an FS does not run any more.
var ErrStopped = errors.New("lazyfs has stopped")

// FS mounts images. Create it with [New]; it works while [FS.Run] runs. It is safe
// for concurrent use.
type FS struct {
	cfg    Config
	reader *stream.Reader
	ops    fusefs.Ops
	flat   *flatMount
	meta   sync.Mutex // held while a metadata image is built

	ready   chan struct{} // closed once mounts can be made
	stopped chan struct{} // closed when no more can be made
	spawn   chan func(context.Context)

	mu      sync.Mutex // guards what follows
	backend Backend
	mounts  map[*Mount]struct{}
	layers  map[block.Digest]*sharedLayer
	numbers uint64 // of the mount points made so far
	closing bool   // no mount may be added any more
}

// sharedLayer is a layer stream and the number of mounts that use it.
type sharedLayer struct {
	layer *stream.Layer
	users int
}

// New returns an FS. It neither starts nor mounts anything.
func New(cfg Config) (*FS, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring lazyfs: %w", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	reader, err := stream.New(stream.Config{
		Source: cfg.Source, Local: cfg.Local, Timeout: cfg.ReadTimeout, ReadAhead: cfg.ReadAhead,
		Logger: cfg.Logger, Registerer: cfg.Registerer,
	})
	if err != nil {
		return nil, err
	}
	fs := &FS{
		cfg: cfg, reader: reader,
		ready: make(chan struct{}), stopped: make(chan struct{}), spawn: make(chan func(context.Context)),
		mounts: make(map[*Mount]struct{}), layers: make(map[block.Digest]*sharedLayer),
	}
	fs.flat = &flatMount{dir: filepath.Join(cfg.StateDir, "flat"), ops: &fs.ops, logger: cfg.Logger}
	if err := fs.ops.Register(cfg.Registerer); err != nil {
		return nil, err
	}
	return fs, nil
}

// Run makes the FS work until ctx ends, then unmounts what is still mounted; what is
// still in use after a moment is detached, and reads from it fail. It must be called
// once. The error says that the state directory cannot be used, that no backend
// works, or what could not be unmounted.
func (fs *FS) Run(ctx context.Context) error {
	defer close(fs.stopped)
	unlock, err := fs.prepare(ctx)
	if err != nil && ctx.Err() != nil {
		return nil // what was broken off says nothing about the machine
	}
	if err != nil {
		return fmt.Errorf("starting lazyfs: %w", err)
	}
	defer unlock()
	var g errgroup.Group
	g.Go(func() error { return fs.reader.Run(ctx) })
	close(fs.ready)
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case work := <-fs.spawn:
			g.Go(func() error {
				work(ctx)
				return nil
			})
		}
	}
	return errors.Join(fs.unmountAll(context.WithoutCancel(ctx)), g.Wait())
}

// prepare takes possession of the state directory and chooses the backend.
func (fs *FS) prepare(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(fs.cfg.StateDir, stateMode); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	unlock, err = lock(filepath.Join(fs.cfg.StateDir, "lock"))
	if err != nil {
		return nil, err
	}
	backend, err := fs.settle(ctx)
	if err != nil {
		unlock()
		return nil, err
	}
	fs.cfg.Logger.InfoContext(ctx, "mounts are ready", "backend", string(backend))
	fs.mu.Lock()
	fs.backend = backend
	fs.mu.Unlock()
	return unlock, nil
}

// settle cleans the state directory up and chooses the backend.
func (fs *FS) settle(ctx context.Context) (Backend, error) {
	if err := cleanStale(ctx, fs.cfg.StateDir); err != nil {
		return "", err
	}
	for _, dir := range []string{"rootfs", "flat", "mnt"} {
		if err := os.MkdirAll(filepath.Join(fs.cfg.StateDir, dir), stateMode); err != nil {
			return "", fmt.Errorf("making the state directory: %w", err)
		}
	}
	if fs.cfg.Backend != "" {
		return fs.cfg.Backend, nil
	}
	return choose(ctx, filepath.Join(fs.cfg.StateDir, "probe"))
}

// lock takes a lock that ends with the process at the latest.
func lock(path string) (unlock func(), err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock %s: %w", path, err)
	}
	unlock = func() {
		_ = unix.Close(fd) //nolint:errcheck // the file is empty
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unlock()
		return nil, fmt.Errorf("locking %s, which another process seems to use: %w", path, err)
	}
	return unlock, nil
}

// Backend returns the backend in use, empty before Run has chosen it.
func (fs *FS) Backend() Backend {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.backend
}

// Ready is closed when mounts can be made.
func (fs *FS) Ready() <-chan struct{} { return fs.ready }

// Requests returns how many requests of each kind the kernel has sent to user space.
func (fs *FS) Requests() map[string]int64 {
	all := make(map[string]int64)
	for op, n := range fs.ops.All() {
		all[op.String()] = n
	}
	return all
}

// wait returns when mounts can be made.
func (fs *FS) wait(ctx context.Context) error {
	select {
	case <-fs.stopped:
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-fs.ready:
		return nil
	}
}

// start hands work to Run.
func (fs *FS) start(work func(context.Context)) error {
	select {
	case fs.spawn <- work:
		return nil
	case <-fs.stopped:
		return ErrStopped
	}
}

func (fs *FS) unmountAll(ctx context.Context) error {
	fs.mu.Lock()
	fs.closing = true
	left := make([]*Mount, 0, len(fs.mounts))
	for m := range fs.mounts {
		left = append(left, m)
	}
	fs.mu.Unlock()
	var errs []error
	for _, m := range left {
		patient, cancel := context.WithTimeout(ctx, stopTimeout)
		if err := m.Unmount(patient); err != nil {
			errs = append(errs, err, m.Detach(ctx))
		}
		cancel()
	}
	return errors.Join(errs...)
}

// adopt adds a finished mount, and reports whether that was still possible.
func (fs *FS) adopt(m *Mount) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closing {
		return false
	}
	fs.mounts[m] = struct{}{}
	return true
}

// acquire returns the stream of a layer, shared by all mounts that use it.
func (fs *FS) acquire(id block.Digest, size int64) *stream.Layer {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s := fs.layers[id]
	if s == nil || s.layer.Size() != size {
		s = &sharedLayer{layer: fs.reader.Open(id, size)}
		fs.layers[id] = s
	}
	s.users++
	return s.layer
}

func (fs *FS) release(l *stream.Layer) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s := fs.layers[l.ID()]
	if s == nil || s.layer != l {
		return
	}
	if s.users--; s.users == 0 {
		delete(fs.layers, l.ID())
	}
}
