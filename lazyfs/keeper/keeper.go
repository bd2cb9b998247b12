package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DefaultWaitTimeout is the default time that readers wait for a worker.
	DefaultWaitTimeout = time.Minute
	// DefaultMaxSessions is how many connections are kept unless told otherwise.
	DefaultMaxSessions = 1024
	// handTimeout is how long a client may take to receive what it asked for.
	handTimeout = 5 * time.Second
	// maxSocket is the longest path of a socket, in bytes.
	maxSocket = 107
)

// Config configures a [Keeper].
type Config struct {
	// Socket is the absolute path of the socket, of at most 107 bytes. A file with
	// the suffix ".lock" beside it keeps two keepers apart.
	Socket string
	// WaitTimeout is how long readers of a connection without a worker wait before they
	// get EIO. Zero means [DefaultWaitTimeout].
	WaitTimeout time.Duration
	// MaxSessions bounds the connections kept. Zero means [DefaultMaxSessions].
	MaxSessions int
	// Logger may be nil.
	Logger *slog.Logger
}

// Keeper keeps descriptors of FUSE connections. Create it with [New].
type Keeper struct {
	cfg Config

	mu       sync.Mutex // guards the fields below
	sessions map[string]*session
	ended    bool
}

// session is one connection. It is guarded by Keeper.mu.
type session struct {
	name      string
	fd        int
	patience  *time.Timer // runs while no worker serves it, else nil
	answering *answerer   // works once patience has come to an end, else nil
}

// New returns a keeper that does nothing yet.
func New(cfg Config) (*Keeper, error) {
	switch {
	case !filepath.IsAbs(cfg.Socket) || len(cfg.Socket) > maxSocket:
		return nil, fmt.Errorf("configuring keeper: socket %q is not an absolute path of at most %d bytes", cfg.Socket, maxSocket)
	case cfg.WaitTimeout < 0 || cfg.MaxSessions < 0:
		return nil, errors.New("configuring keeper: negative patience or number of sessions")
	}
	if cfg.WaitTimeout == 0 {
		cfg.WaitTimeout = DefaultWaitTimeout
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = DefaultMaxSessions
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Keeper{cfg: cfg, sessions: make(map[string]*session)}, nil
}

// Run keeps the descriptors of workers until ctx ends, and then closes them. It must
// be called once. The error says that the socket cannot be used.
func (k *Keeper) Run(ctx context.Context) error {
	unlock, err := lock(k.cfg.Socket + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := k.listen()
	if err != nil {
		return err
	}
	defer k.close(ctx)
	stop := context.AfterFunc(ctx, func() { k.complain(ctx, listener.Close()) })
	defer stop()
	k.cfg.Logger.InfoContext(ctx, "keeping mounts", "socket", k.cfg.Socket, "patience", k.cfg.WaitTimeout)
	for {
		conn, err := listener.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				k.complain(ctx, conn.Close())
			}
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("waiting for workers: %w", err), listener.Close())
		}
		if err := k.serve(ctx, conn); err != nil {
			k.cfg.Logger.WarnContext(ctx, "connection of a worker ended", "error", err)
		}
	}
}

// lock takes a lock that ends with the process at the latest.
func lock(path string) (unlock func(), err error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock %s: %w", path, err)
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("locking %s, which another keeper seems to use: %w", path, err)
	}
	return func() { closeFD(fd) }, nil
}

func (k *Keeper) listen() (*net.UnixListener, error) {
	// This process has the lock, so a socket that is there is a dead one's.
	if err := os.Remove(k.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing a stale socket: %w", err)
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: k.cfg.Socket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listening for workers: %w", err)
	}
	if err := os.Chmod(k.cfg.Socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for workers: %w", err), listener.Close())
	}
	return listener, nil
}

// serve talks to one client until it goes. From then on nobody serves its sessions.
func (k *Keeper) serve(ctx context.Context, conn *net.UnixConn) error {
	defer context.AfterFunc(ctx, func() { k.complain(ctx, conn.SetDeadline(time.Unix(1, 0))) })()
	defer conn.Close() //nolint:errcheck // whatever was to be said has been said
	if err := checkPeer(conn); err != nil {
		return err
	}
	defer k.deserted()
	for {
		m, fd, err := receive(conn)
		switch {
		case errors.Is(err, net.ErrClosed), ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if err := k.handle(ctx, conn, m, fd); err != nil {
			return err
		}
	}
}

// checkPeer admits only processes of the same user.
func checkPeer(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("asking who connects: %w", err)
	}
	var peer *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) {
		peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(controlErr, err); err != nil {
		return fmt.Errorf("asking who connects: %w", err)
	}
	if int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("process %d of user %d may not use the keeper of user %d", peer.Pid, peer.Uid, os.Geteuid())
	}
	return nil
}

// handle does what one request says and answers it. It owns fd. The error is that of
// the connection.
func (k *Keeper) handle(ctx context.Context, conn *net.UnixConn, m message, fd int) error {
	var err error
	switch m.kind {
	case kindPut:
		err = k.put(m.text, fd)
		fd = -1
	case kindRemove:
		k.remove(ctx, m.text)
	case kindTake:
		if err := k.hand(ctx, conn); err != nil {
			return err
		}
	case kindPing:
	default:
		err = fmt.Errorf("%w: kind %d is no request", errMessage, m.kind)
	}
	if fd >= 0 {
		closeFD(fd)
	}
	answer := message{kind: kindDone}
	if err != nil {
		k.cfg.Logger.WarnContext(ctx, "request of a worker failed", "error", err)
		answer = message{kind: kindFailed, text: err.Error()}
	}
	return send(conn, answer, -1)
}

// put keeps a descriptor, which it owns.
func (k *Keeper) put(name string, fd int) (err error) {
	if fd < 0 {
		return fmt.Errorf("keeping %s: there is no descriptor", name)
	}
	if err := checkFUSE(fd); err != nil {
		closeFD(fd)
		return fmt.Errorf("keeping %s: %w", name, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.sessions[name]
	if s == nil {
		if len(k.sessions) >= k.cfg.MaxSessions {
			closeFD(fd)
			return fmt.Errorf("keeping %s: there are %d sessions already", name, len(k.sessions))
		}
		k.sessions[name] = &session{name: name, fd: fd}
		return nil
	}
	err = s.rest()
	closeFD(s.fd)
	s.fd = fd
	return err
}

// rest ends all waiting and answering for a session.
func (s *session) rest() error {
	if s.patience != nil {
		s.patience.Stop()
		s.patience = nil
	}
	if s.answering == nil {
		return nil
	}
	err := s.answering.stop()
	s.answering = nil
	return err
}

func (k *Keeper) remove(ctx context.Context, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.sessions[name]; s != nil {
		k.drop(ctx, s)
	}
}

// drop closes the descriptor of a session.
func (k *Keeper) drop(ctx context.Context, s *session) {
	k.complain(ctx, s.rest())
	closeFD(s.fd)
	delete(k.sessions, s.name)
}

// hand sends all descriptors to a client. Nothing is answered for them any more, but
// until the client puts them again their readers are not in good hands.
func (k *Keeper) hand(ctx context.Context, conn *net.UnixConn) error {
	if err := conn.SetWriteDeadline(time.Now().Add(handTimeout)); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.sessions {
		if s.answering != nil {
			k.complain(ctx, s.rest())
			k.wait(s)
		}
		if err := send(conn, message{kind: kindSession, text: s.name}, s.fd); err != nil {
			return err
		}
	}
	return conn.SetWriteDeadline(time.Time{})
}

// deserted starts the clock of all sessions.
func (k *Keeper) deserted() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.sessions {
		if s.patience == nil && s.answering == nil {
			k.wait(s)
		}
	}
}

// wait starts the clock of a session. It is called with mu held.
func (k *Keeper) wait(s *session) {
	s.patience = time.AfterFunc(k.cfg.WaitTimeout, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.ended || k.sessions[s.name] != s || s.patience == nil {
			return
		}
		s.patience = nil
		k.answer(s)
	})
}

// answer starts to answer for a session. It is called with mu held.
func (k *Keeper) answer(s *session) {
	k.cfg.Logger.Warn("no process has connected: reads fail until one does", "session", s.name, "patience", k.cfg.WaitTimeout)
	a, err := startAnswering(s.fd, func(err error) {
		k.cfg.Logger.Debug("a session has ended", "session", s.name, "reason", err)
	})
	if err != nil {
		// Without a descriptor the kernel answers, once for all, as if the
		// keeper had died: failed reads are better than endless ones.
		k.cfg.Logger.Error("answering for a worker failed: the session ends", "session", s.name, "error", err)
		closeFD(s.fd)
		delete(k.sessions, s.name)
		return
	}
	s.answering = a
}

// close closes all descriptors.
func (k *Keeper) close(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	for _, s := range k.sessions {
		k.drop(ctx, s)
	}
}

// complain logs what went wrong where nothing can be done about it.
func (k *Keeper) complain(ctx context.Context, err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		k.cfg.Logger.DebugContext(ctx, "cleaning up", "error", err)
	}
}
