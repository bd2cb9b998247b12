package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/flat"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// readAheadWindow is the readahead window of the FUSE filesystems in bytes, the most
// one request can carry. Only the page cache of FUSE reads ahead without making the
// reader wait. Random reads are not widened by it: the kernel opens the window only
// where reads follow one another.
const readAheadWindow = 1 << 20

// pagesReadAhead is the same window for images whose pages are there before their blocks
// (see [Config.Pages]): none. EROFS asks for what it wants to have of a file; whatever else
// came with that would have to wait for blocks that the start does not read.
const pagesReadAhead = 4 << 10

// exactReadAhead is the same window for [Config.ExactReads]: without one the kernel asks for one
// page after the other, which is slow. With one of a page it asks for as much again as EROFS.
const exactReadAhead = 0

// localWindow is the readahead window in bytes that Linux has for local filesystems, EROFS
// being one.
const localWindow = 128 << 10

// treeWindow is the readahead window in bytes of a tree.
func (c *Config) treeWindow() int {
	if c.ExactReads {
		return localWindow
	}
	return readAheadWindow
}

// flatMount keeps the filesystem of layer files mounted while it has any.
type flatMount struct {
	dir      string
	ops      *fusefs.Ops
	logger   *slog.Logger
	sessions *sessions

	mu      sync.Mutex // held while mounting and unmounting; guards what follows
	fs      *flat.FS
	reads   *fusefs.Reads
	server  *fusefs.Server
	session string
}

func (f *flatMount) options() fusefs.Options {
	return fusefs.Options{
		Source: "brisk", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC,
		ReadAhead: readAheadWindow, Logger: f.logger,
	}
}

// add shows a layer, and returns the path of its file and the name of the session.
func (f *flatMount) add(ctx context.Context, l mountedLayer) (path, session string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil {
		reads := fusefs.NewReads()
		fs := flat.New(reads, f.ops)
		server, err := fusefs.Mount(fs, reads, f.dir, f.options())
		if err != nil {
			return "", "", err
		}
		f.fs, f.reads, f.server = fs, reads, server
		f.session = f.sessions.begin(ctx, server, f.dir)
	}
	name, err := f.fs.Add(l.key.file(), l.stream)
	if err != nil {
		return "", "", err
	}
	return filepath.Join(f.dir, name), f.session, nil
}

// open calls mount, which opens files of the filesystem for the kernel, with a readahead window: a
// file keeps the window that the filesystem had when it was opened.
func (f *flatMount) open(window int, mount func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil || window == readAheadWindow {
		return mount()
	}
	if err := kernel.SetReadAhead(f.dir, window); err != nil {
		return err
	}
	err := mount()
	return errors.Join(err, kernel.SetReadAhead(f.dir, readAheadWindow))
}

// prepare adds a layer that is to be shown once the filesystem is served again.
func (f *flatMount) prepare(l mountedLayer) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fs == nil {
		f.reads = fusefs.NewReads()
		f.fs = flat.New(f.reads, f.ops)
	}
	_, err := f.fs.Add(l.key.file(), l.stream)
	return err
}

// resume serves the filesystem that another process has mounted, with the layers that
// have been prepared. The descriptor belongs to it from now on.
func (f *flatMount) resume(name string, fd int, settings fusefs.Settings) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	server, err := fusefs.Resume(f.fs, f.reads, f.dir, fd, settings, f.options())
	if err != nil {
		return err
	}
	f.server, f.session = server, name
	return nil
}

// stays reports whether the filesystem survives this process. If so, what this process
// cannot answer any more is left to the next.
func (f *flatMount) stays(ctx context.Context) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.sessions.keeps(ctx, f.session, f.server) {
		return false
	}
	f.server.Suspend()
	return true
}

// unmounted forgets a filesystem that has been unmounted.
func (f *flatMount) unmounted(ctx context.Context) error {
	session := f.session
	f.fs, f.reads, f.server, f.session = nil, nil, nil, ""
	return f.sessions.end(ctx, session)
}

// dropPages makes the kernel forget what it has cached of the files of a layer.
func (f *flatMount) dropPages(id block.Digest) error {
	f.mu.Lock()
	var names []string
	if f.fs != nil {
		names = f.fs.Names(id)
	}
	f.mu.Unlock()
	var errs []error
	for _, name := range names {
		errs = append(errs, f.dropFile(name, id))
	}
	return errors.Join(errs...)
}

func (f *flatMount) dropFile(name string, id block.Digest) error {
	fd, err := unix.Open(filepath.Join(f.dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the file of layer %s: %w", id.Short(), err)
	}
	defer closeFD(fd)
	// The whole file: a large folio is kept if only a part of it is to go.
	if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("dropping pages of layer %s: %w", id.Short(), err)
	}
	return nil
}

// remove takes back one add. With the last one the filesystem is unmounted, even if
// something that has been detached still uses it.
func (f *flatMount) remove(ctx context.Context, file block.Digest, detach bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fs.Remove(file)
	if f.fs.Len() > 0 {
		return nil
	}
	if f.server == nil { // it was never served again
		f.fs, f.reads = nil, nil
		return nil
	}
	if !detach {
		// The root has been unmounted, but another mount namespace may hold a copy.
		patient, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		err := f.server.Unmount(patient, false)
		if err == nil {
			return f.unmounted(ctx)
		}
		f.logger.WarnContext(ctx, "layer files are still in use; detaching them", "error", err)
	}
	if err := f.server.Unmount(ctx, true); err != nil {
		return err
	}
	return f.unmounted(ctx)
}
