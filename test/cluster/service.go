package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// restartPause is how long a service that has ended rests.
const restartPause = 200 * time.Millisecond

// service is one service of a node.
type service struct {
	m    *manager
	name string

	mu     sync.Mutex
	pid    int                 // guarded by mu, 0 if it does not run
	wanted bool                // guarded by mu
	ended  chan struct{}       // of the process, guarded by mu
	stored map[string]*os.File // what it keeps beyond its end, guarded by mu
	notify *net.UnixConn
}

// unit is what a unit file says.
type unit struct {
	command []string
	notify  bool
}

func readUnit(name string) (unit, error) {
	content, err := os.ReadFile(filepath.Join(unitDir, name))
	if err != nil {
		return unit{}, fmt.Errorf("reading a unit: %w", err)
	}
	var u unit
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case key == "ExecStart":
			u.command = strings.Fields(value)
		case key == "Type" && value == "notify":
			u.notify = true
		}
	}
	if len(u.command) == 0 {
		return unit{}, fmt.Errorf("reading unit %s: nothing to run", name)
	}
	return u, nil
}

// start starts the service unless it runs, and waits until it is ready if it says so.
func (s *service) start() error {
	u, err := readUnit(s.name)
	if err != nil {
		return err
	}
	ready, err := s.listen()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.wanted = true
	running := s.pid != 0
	if !running {
		err = s.launch(u)
	}
	s.mu.Unlock()
	if err != nil || running || !u.notify {
		return err
	}
	select {
	case <-ready:
		return nil
	case <-time.After(startTimeout):
		return fmt.Errorf("%s is not ready within %s", s.name, startTimeout)
	}
}

// launch starts the process. s.mu is held.
func (s *service) launch(u unit) error {
	log, err := unix.Openat(int(s.m.logs.Fd()), s.m.node+"-"+s.name, unix.O_CREAT|unix.O_APPEND|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", s.name, err)
	}
	defer unix.Close(log) //nolint:errcheck // the service has it
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	defer null.Close() //nolint:errcheck // the service has it
	files := []uintptr{null.Fd(), uintptr(log), uintptr(log)}
	var names []string
	for name, file := range s.stored {
		files, names = append(files, file.Fd()), append(names, name)
	}
	env := []string{
		"PATH=" + nodePath, "HOME=/root", "NOTIFY_SOCKET=" + s.socket(),
		"LISTEN_FDS=" + strconv.Itoa(len(names)), "LISTEN_FDNAMES=" + strings.Join(names, ":"),
	}
	// The number of the process is known only to itself.
	args := append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, u.command...)
	// It must not end before it is known.
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	pid, err := syscall.ForkExec("/bin/sh", args, &syscall.ProcAttr{Dir: "/", Env: env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}})
	if err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	s.pid, s.ended = pid, make(chan struct{})
	s.m.running[pid] = s
	return nil
}

// hasEnded is called when the process has ended. It is started again if it should run.
func (s *service) hasEnded(status syscall.WaitStatus) {
	fmt.Fprintf(os.Stderr, "%s has ended: code %d, signal %d\n", s.name, status.ExitStatus(), status.Signal())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = 0
	close(s.ended)
	if !s.wanted {
		return
	}
	time.AfterFunc(restartPause, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.wanted || s.pid != 0 {
			return
		}
		u, err := readUnit(s.name)
		if err == nil {
			err = s.launch(u)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	})
}

// stop ends the service, and only its own process.
func (s *service) stop() error {
	s.mu.Lock()
	s.wanted = false
	pid, ended := s.pid, s.ended
	s.mu.Unlock()
	if pid == 0 {
		return nil
	}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stopping %s: %w", s.name, err)
		}
		select {
		case <-ended:
			return nil
		case <-time.After(stopTimeout):
		}
	}
	return fmt.Errorf("%s does not end", s.name)
}

// kill ends the process as an accident would. It is started again.
func (s *service) kill() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pid == 0 {
		return fmt.Errorf("%s does not run", s.name)
	}
	if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("killing %s: %w", s.name, err)
	}
	return nil
}

// forget lets go of what the service has stored.
func (s *service) forget() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for name, file := range s.stored {
		errs = append(errs, file.Close())
		delete(s.stored, name)
	}
	return errors.Join(errs...)
}

func (s *service) socket() string { return "/run/systemd/notify-" + s.name }

// listen makes the socket that the service tells its state through. The channel is closed
// when it is ready.
func (s *service) listen() (<-chan struct{}, error) {
	if s.notify != nil {
		if err := errors.Join(s.notify.Close(), os.RemoveAll(s.socket())); err != nil {
			return nil, fmt.Errorf("listening to %s: %w", s.name, err)
		}
	}
	var err error
	s.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: s.socket(), Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listening to %s: %w", s.name, err)
	}
	ready := make(chan struct{})
	go s.hear(s.notify, sync.OnceFunc(func() { close(ready) }))
	return ready, nil
}

// hear does what the service asks for.
func (s *service) hear(conn *net.UnixConn, ready func()) {
	buf, rights := make([]byte, 4096), make([]byte, 4096)
	for {
		n, oobn, _, _, err := conn.ReadMsgUnix(buf, rights)
		if err != nil {
			return
		}
		var stores, removes bool
		var name string
		for line := range strings.Lines(string(buf[:n])) {
			switch line = strings.TrimSpace(line); {
			case line == "READY=1":
				ready()
			case line == "FDSTORE=1":
				stores = true
			case line == "FDSTOREREMOVE=1":
				removes = true
			case strings.HasPrefix(line, "FDNAME="):
				name = strings.TrimPrefix(line, "FDNAME=")
			}
		}
		if stores || removes {
			s.store(name, received(rights[:oobn], name), stores)
		}
	}
}

// store keeps a file under a name, or lets go of it.
func (s *service) store(name string, file *os.File, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.stored[name]; old != nil {
		_ = old.Close() //nolint:errcheck // it is not written to
		delete(s.stored, name)
	}
	if keep && file != nil {
		s.stored[name] = file
	}
}

// received returns the file that came with a message, nil if there is none.
func received(rights []byte, name string) *os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) == 0 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), name)
}
