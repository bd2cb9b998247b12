package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

const (
	// stateMode keeps other users away from what is mounted below the state directory.
	stateMode = 0o700
	// stopTimeout is how long each mount that is still there when Run ends may be in
	// use before it is detached.
	stopTimeout = 2 * time.Second
)

// ErrStopped means that an FS does not run any more.
var ErrStopped = errors.New("lazyfs has stopped")

// FS mounts images. Create it with [New]; it works while [FS.Run] runs. It is safe
// for concurrent use.
type FS struct {
	cfg      Config
	reader   *stream.Reader
	ops      fusefs.Ops
	flat     *flatMount
	records  *records
	sessions *sessions
	restored *prometheus.CounterVec // nil without metrics
	meta     sync.Mutex             // held while a metadata image is built

	ready   chan struct{} // closed once mounts can be made
	stopped chan struct{} // closed when no more can be made
	spawn   chan func(context.Context)

	mu       sync.Mutex // guards what follows
	backend  Backend
	mounts   map[*Mount]struct{}
	layers   map[layerKey]*sharedLayer
	prepared map[block.Digest]*Preparation // by image, those that no mount has taken
	numbers  uint64                        // of the mount points made so far
	closing  bool                          // no mount may be added any more
}

// layerKey names a layer stream as mounts share it: images that have pages do not share
// theirs, since no block digest covers those.
type layerKey struct {
	stream, pages block.Digest
}

// file names the file that shows the stream.
func (k layerKey) file() block.Digest {
	if k.pages.IsZero() {
		return k.stream
	}
	return block.Sum(append(k.stream[:], k.pages[:]...))
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
		ExpandToFrames: cfg.ExpandToFrames, OnRead: cfg.OnRead, OnReadDone: cfg.OnReadDone, Streaming: cfg.Streaming, Logger: cfg.Logger, Registerer: cfg.Registerer,
	})
	if err != nil {
		return nil, err
	}
	fs := &FS{
		cfg: cfg, reader: reader,
		ready: make(chan struct{}), stopped: make(chan struct{}), spawn: make(chan func(context.Context)),
		mounts: make(map[*Mount]struct{}), layers: make(map[layerKey]*sharedLayer),
		prepared: make(map[block.Digest]*Preparation),
	}
	fs.records = &records{dir: filepath.Join(cfg.StateDir, "records")}
	fs.sessions = &sessions{store: cfg.Keeper, records: fs.records, logger: cfg.Logger}
	fs.flat = &flatMount{
		dir: filepath.Join(cfg.StateDir, "flat"), ops: &fs.ops, logger: cfg.Logger, sessions: fs.sessions,
	}
	if fs.restored, err = newRestored(cfg.Registerer); err != nil {
		return nil, err
	}
	if err := fs.ops.Register(cfg.Registerer); err != nil {
		return nil, err
	}
	return fs, nil
}

// Run makes the FS work until ctx ends. It begins by going on with the mounts of a process
// before this one, as far as they can be gone on with, and by removing the rest of them.
//
// In the end mounts that survive this process are left as they are, for the next one:
// those that need no process, and those that [Config.Keeper] keeps. A read of the latter
// that cannot be answered any more waits for the next process, so this one should end
// soon. Other mounts are unmounted; what of them is still in use after a moment is
// detached, and reads from it fail.
//
// Run must be called once. The error says that the state directory cannot be used,
// that no backend works, or what could not be unmounted.
func (fs *FS) Run(ctx context.Context) error {
	defer close(fs.stopped)
	lasting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	unlock, err := fs.possess()
	if err != nil {
		return fmt.Errorf("starting lazyfs: %w", err)
	}
	defer unlock()
	var g errgroup.Group
	if fs.cfg.Keeper != nil {
		g.Go(func() error { return fs.cfg.Keeper.Run(lasting) })
	}
	g.Go(func() error { return fs.reader.Run(ctx) })
	run := func(work func(context.Context)) error {
		g.Go(func() error {
			work(ctx)
			return nil
		})
		return nil
	}
	if err := fs.initMounts(ctx, run); err != nil {
		left := fs.leave(lasting)
		stop()
		if ctx.Err() != nil {
			return errors.Join(left, g.Wait()) // what was broken off says nothing about the machine
		}
		return errors.Join(fmt.Errorf("starting lazyfs: %w", err), left, g.Wait())
	}
	close(fs.ready)
	for running := true; running; {
		select {
		case <-ctx.Done():
			running = false
		case work := <-fs.spawn:
			_ = run(work) //nolint:errcheck // it is nil
		}
	}
	err = fs.leave(lasting)
	stop()
	return errors.Join(err, g.Wait())
}

// possess takes possession of the state directory.
func (fs *FS) possess() (unlock func(), err error) {
	if err := os.MkdirAll(fs.cfg.StateDir, stateMode); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	unlock, err = lock(filepath.Join(fs.cfg.StateDir, "lock"))
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"rootfs", "flat", "mnt", "records"} {
		if err := os.MkdirAll(filepath.Join(fs.cfg.StateDir, dir), stateMode); err != nil {
			unlock()
			return nil, fmt.Errorf("making the state directory: %w", err)
		}
	}
	if fs.records.boot, err = kernel.BootID(); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// initMounts restores mounts, cleans up the state directory and chooses the backend.
// Restored mounts come first: programs may be waiting for them.
func (fs *FS) initMounts(ctx context.Context, start func(func(context.Context)) error) error {
	kept, err := fs.restore(ctx, start)
	if err != nil {
		return err
	}
	if err := cleanStale(ctx, fs.cfg.StateDir, kept); err != nil {
		return err
	}
	backend := fs.cfg.Backend
	if backend == "" {
		if backend, err = choose(ctx, filepath.Join(fs.cfg.StateDir, "probe")); err != nil {
			return err
		}
	}
	fs.cfg.Logger.InfoContext(ctx, "mounts are ready", "backend", string(backend), "restored", len(kept.points))
	fs.mu.Lock()
	fs.backend = backend
	fs.mu.Unlock()
	return nil
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

// TakeTurn waits until background work that decodes a lot may go on, for a second at most: while the
// metadata of an image is built that starts, a processor is left for that. It returns what to call when the work has ended.
func (fs *FS) TakeTurn(ctx context.Context) (done func()) { return fs.reader.TakeTurn(ctx) }

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

// Mounts returns the mounts there are, in no order: those made by [FS.Mount], and those
// taken over from a process before this one, which are all there once Ready is
// closed. After Run they are the mounts that have been left for the next process.
func (fs *FS) Mounts() []*Mount {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return slices.Collect(maps.Keys(fs.mounts))
}

// leave leaves the mounts that survive this process, and unmounts the others.
func (fs *FS) leave(ctx context.Context) error {
	fs.mu.Lock()
	fs.closing = true
	fs.mu.Unlock()
	flatStays := fs.flat.stays(ctx)
	var errs []error
	for _, m := range fs.Mounts() {
		switch {
		case m.stays(ctx, flatStays):
			continue
		case m.direct() && fs.cfg.Keeper != nil:
			continue
		}
		patient, cancel := context.WithTimeout(ctx, stopTimeout)
		err := m.Unmount(patient)
		cancel()
		if err != nil && !m.direct() { // those that need no process may stay
			errs = append(errs, err, m.Detach(ctx))
		}
	}
	return errors.Join(errs...)
}

// stays reports whether a connection that the mount needs survives this process.
func (m *Mount) stays(ctx context.Context, flat bool) bool {
	switch {
	case m.direct():
		return false
	case m.backend != Tree:
		return flat
	case !m.fs.sessions.keeps(ctx, m.session, m.server):
		return false
	}
	m.server.Suspend()
	return true
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

// claim returns the mount of an image on a target that was taken over from a process
// before, and that nobody in this one has asked for; nil if there is none.
func (fs *FS) claim(image block.Digest, target string, cfg MountConfig) *Mount {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for m := range fs.mounts {
		if m.inherited && m.id == image && m.target == target && cfg.Overlay == nil {
			m.inherited = false
			return m
		}
	}
	return nil
}

// DropPages makes the kernel forget what it has cached of the file of a layer stream that is
// served by this process, so that the next read of a mount asks again. What the mounts
// themselves have cached of their files stays.
func (fs *FS) DropPages(layer block.Digest) error { return fs.flat.dropPages(layer) }

// hasPages reports whether there are parts of the image's layers beside blocks.
func (fs *FS) hasPages(image Image) bool { return fs.pagesOf(image.PagesID) != nil }

func (fs *FS) pagesOf(id block.Digest) stream.Pages {
	if fs.cfg.Pages == nil || id.IsZero() {
		return nil
	}
	return fs.cfg.Pages(id)
}

// acquire returns the stream of a layer, shared by all mounts that use it.
func (fs *FS) acquire(key layerKey, size int64) *stream.Layer {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s := fs.layers[key]
	if s == nil || s.layer.Size() != size {
		s = &sharedLayer{layer: fs.reader.Open(key.stream, size, fs.pagesOf(key.pages))}
		fs.layers[key] = s
	}
	s.users++
	return s.layer
}

func (fs *FS) release(key layerKey, l *stream.Layer) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s := fs.layers[key]
	if s == nil || s.layer != l {
		return
	}
	if s.users--; s.users == 0 {
		delete(fs.layers, key)
	}
}
