package fusefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/lazyfs/kernel"
)

const (
	// maxRead is the most one request may ask for, in bytes. Linux and go-fuse
	// allow no more.
	maxRead = 1 << 20
	// maxBackground is how many readahead requests the kernel may have in flight.
	maxBackground = 64
)

// Options configures a mount.
type Options struct {
	// Source is what the list of mounts shows as the mounted thing.
	Source string
	// Flags are flags of mount(2) besides MS_RDONLY.
	Flags uintptr
	// ACL makes the kernel ask for POSIX ACLs and obey them.
	ACL bool
	// ReadAhead is the readahead window in bytes.
	ReadAhead int
	// Logger receives the complaints of go-fuse; nil discards them.
	Logger *slog.Logger
}

// Server is a mounted FUSE filesystem.
type Server struct {
	dir      string
	reads    *Reads
	fd       int // a duplicate of what go-fuse uses, closed when the server has ended
	settings Settings
	served   chan struct{}
	closed   sync.Once
}

// Mount mounts a filesystem read-only on the directory dir and serves it until
// [Server.Unmount]. The reads of fs must use the given Reads, which the server
// closes when it ends.
func Mount(fs fuse.RawFileSystem, reads *Reads, dir string, opts Options) (*Server, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the FUSE device: %w", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=%o,user_id=%d,group_id=%d,allow_other,default_permissions,max_read=%d",
		fd, unix.S_IFDIR, os.Geteuid(), os.Getegid(), maxRead)
	if err := unix.Mount(opts.Source, dir, "fuse.brisk", unix.MS_RDONLY|opts.Flags, data); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("mounting FUSE on %s: %w", dir, err)
	}
	server, settings, err := negotiate(fs, fd, opts)
	if err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("serving FUSE on %s: %w", dir, firstOf(err, unix.Unmount(dir, unix.MNT_DETACH)))
	}
	s := serve(server, &Server{dir: dir, reads: reads, fd: fd, settings: settings})
	if err := s.configureMount(opts); err != nil {
		return nil, firstOf(err, s.Unmount(context.Background(), true)) //nolint:forbidigo // a failed mount is undone at once, waiting for nobody
	}
	return s, nil
}

// Resume serves a filesystem that another process has mounted on dir, with the same
// options, and whose connection fd belongs to. The descriptor belongs to the server from
// now on, after an error too. Requests that the other process had read and not
// answered are answered by this one, which takes Linux 6.9 (see [Settings.Resumable]).
func Resume(fs fuse.RawFileSystem, reads *Reads, dir string, fd int, settings Settings, opts Options) (*Server, error) {
	server, err := renegotiate(fs, fd, settings, opts)
	if err == nil {
		err = keeper.Resend(fd)
	}
	if err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("serving FUSE on %s again: %w", dir, err)
	}
	return serve(server, &Server{dir: dir, reads: reads, fd: fd, settings: settings}), nil
}

func serve(server *fuse.Server, s *Server) *Server {
	s.served = make(chan struct{})
	go func() {
		defer close(s.served)
		defer closeFD(s.fd)
		server.Serve()
	}()
	return s
}

// Settings returns what [Resume] needs to know in another process.
func (s *Server) Settings() Settings { return s.settings }

// FD returns a descriptor of the connection, which stays open as long as the filesystem
// is mounted.
func (s *Server) FD() int { return s.fd }

// Suspend prepares for the end of this process, after which another one resumes: from
// now on a read that fails is not answered, and left to that one. The server goes on
// answering what it can until the process ends.
func (s *Server) Suspend() { s.reads.suspend() }

// configureMount raises the readahead and makes poll(2) harmless.
func (s *Server) configureMount(opts Options) error {
	if err := kernel.SetReadAhead(s.dir, opts.ReadAhead); err != nil {
		return fmt.Errorf("raising the readahead of %s: %w", s.dir, err)
	}
	return s.refusePoll()
}

// refusePoll makes the kernel ask once whether the filesystem implements poll(2), so
// that it never asks again: the Go runtime polls files it opens while it holds a
// processor, and with few of those a process that opens a file of its own mount
// would stop for good. go-fuse knows the name and answers by itself.
func (s *Server) refusePoll() error {
	fd, err := unix.Open(filepath.Join(s.dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the poll file of %s: %w", s.dir, err)
	}
	defer closeFD(fd)
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("polling the poll file of %s: %w", s.dir, err)
	}
	return nil
}

// Unmount unmounts the filesystem, waiting until it is not used any more or ctx
// ends, and then for the server to end. With detach it does not wait for users: the
// filesystem leaves the tree at once and reads in progress fail; it goes away when
// its last user does.
func (s *Server) Unmount(ctx context.Context, detach bool) error {
	if err := kernel.Unmount(ctx, s.dir, detach); err != nil {
		return err
	}
	s.closed.Do(s.reads.Close)
	if detach {
		return nil
	}
	select {
	case <-s.served:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the end of FUSE on %s: %w", s.dir, context.Cause(ctx))
	}
}

// Served is closed when the kernel has released the filesystem.
func (s *Server) Served() <-chan struct{} { return s.served }

// firstOf returns the first error; the second happened while cleaning up after it.
func firstOf(err, cleanup error) error {
	if cleanup != nil {
		return fmt.Errorf("%w (and cleaning up: %w)", err, cleanup)
	}
	return err
}

func closeFD(fd int) {
	_ = unix.Close(fd) //nolint:errcheck // closing a descriptor that was only read cannot lose anything
}
