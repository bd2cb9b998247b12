package lazyfs

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/flat"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// readAheadWindow is the readahead window of the FUSE filesystems in bytes, the most
// one request can carry. Only the page cache of FUSE reads ahead without making the
// reader wait. Random reads are not widened by it: the kernel opens the window only
// where reads follow one another.
const readAheadWindow = 1 << 20

// flatMount keeps the filesystem of layer files mounted while it has any.
type flatMount struct {
	dir    string
	ops    *fusefs.Ops
	logger *slog.Logger

	mu     sync.Mutex // held while mounting and unmounting; guards what follows
	fs     *flat.FS
	server *fusefs.Server
}

// add shows a layer and returns the path of its file.
func (f *flatMount) add(l *stream.Layer) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil {
		reads := fusefs.NewReads()
		fs := flat.New(reads, f.ops)
		server, err := fusefs.Mount(fs, reads, f.dir, fusefs.Options{
			Source: "brisk", Flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC,
			ReadAhead: readAheadWindow, Logger: f.logger,
		})
		if err != nil {
			return "", err
		}
		f.fs, f.server = fs, server
	}
	name, err := f.fs.Add(l)
	if err != nil {
		return "", err
	}
	return filepath.Join(f.dir, name), nil
}

// remove takes back one add. With the last one the filesystem is unmounted, even if
// something that has been detached still uses it.
func (f *flatMount) remove(ctx context.Context, id block.Digest, detach bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fs.Remove(id)
	if f.fs.Len() > 0 {
		return nil
	}
	if !detach {
		// The root has been unmounted, but another mount namespace may hold a copy.
		patient, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		err := f.server.Unmount(patient, false)
		if err == nil {
			f.fs, f.server = nil, nil
			return nil
		}
		f.logger.WarnContext(ctx, "layer files are still in use; detaching them", "error", err)
	}
	if err := f.server.Unmount(ctx, true); err != nil {
		return err
	}
	f.fs, f.server = nil, nil
	return nil
}
