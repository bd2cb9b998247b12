package keeper

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// firstInherited is the first descriptor that the service manager passes.
	firstInherited = 3
	// maxInherited bounds how many descriptors it is believed to pass.
	maxInherited = 1 << 16
)

// Systemd is the [Store] that the service manager offers to a unit with
// FileDescriptorStoreMax. Create it with [FromEnvironment].
//
// While no worker runs there is nobody to answer, so waiting ends when the manager
// gives the unit up: it then closes what it has stored, and readers get EIO.
type Systemd struct {
	socket string

	mu        sync.Mutex
	inherited []Session // until Take, guarded by mu
}

// FromEnvironment returns the store of the service manager that has started this
// process, whose number pid is, and nil if there is none. It must be called once, since
// it takes the descriptors that were passed; those that are no sessions are left
// alone.
func FromEnvironment(getenv func(string) string, pid int) *Systemd {
	socket := getenv("NOTIFY_SOCKET")
	if socket == "" {
		return nil
	}
	s := &Systemd{socket: socket}
	if getenv("LISTEN_PID") != strconv.Itoa(pid) {
		return s
	}
	count, err := strconv.Atoi(getenv("LISTEN_FDS"))
	if err != nil || count < 0 || count > maxInherited {
		return s
	}
	names := strings.Split(getenv("LISTEN_FDNAMES"), ":")
	for i := range min(count, len(names)) {
		fd := firstInherited + i
		if checkName(names[i]) != nil || checkFUSE(fd) != nil {
			continue
		}
		unix.CloseOnExec(fd)
		s.inherited = append(s.inherited, Session{Name: names[i], FD: fd})
	}
	return s
}

// Put implements [Store]. The manager drops a descriptor that it has already.
func (s *Systemd) Put(_ context.Context, name string, fd int) error {
	if err := checkName(name); err != nil {
		return err
	}
	return s.notify("FDSTORE=1\nFDNAME="+name, fd)
}

// Remove implements [Store].
func (s *Systemd) Remove(_ context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return s.notify("FDSTOREREMOVE=1\nFDNAME="+name, -1)
}

// Take implements [Store].
func (s *Systemd) Take(context.Context) ([]Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	taken := s.inherited
	s.inherited = nil
	return taken, nil
}

// Run implements [Store]: there is nothing to do.
func (s *Systemd) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// notify tells the service manager something.
func (s *Systemd) notify(text string, fd int) error {
	what, _, _ := strings.Cut(text, "=")
	if err := s.send([]byte(text), fd); err != nil {
		return fmt.Errorf("telling the service manager %s: %w", what, err)
	}
	return nil
}

func (s *Systemd) send(text []byte, fd int) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer closeFD(socket)
	patience := unix.NsecToTimeval(defaultTimeout.Nanoseconds())
	if err := unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return err
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	for {
		// A name that begins with @ is one of the abstract namespace, here as there.
		err := unix.Sendmsg(socket, text, rights, &unix.SockaddrUnix{Name: s.socket}, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
