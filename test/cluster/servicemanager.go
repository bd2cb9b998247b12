package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	managerSocket = "/run/systemd/private-of-test"
	unitDir       = "/etc/systemd/system"
	// stopTimeout is how long a service may take to end, startTimeout to say that it is
	// ready.
	stopTimeout  = 20 * time.Second
	startTimeout = time.Minute
)

// manager runs services from unit files as systemd does, as far as nodes need it.
// It is the first process of a node, and reaps what others leave.
type manager struct {
	node string
	logs *os.File // the directory of logs, which has no path in the node

	mu       sync.Mutex
	running  map[int]*service // by process, guarded by mu
	services map[string]*service
}

func newManager(node string, logs *os.File) *manager {
	return &manager{node: node, logs: logs, running: make(map[int]*service), services: make(map[string]*service)}
}

// run starts all units that there are, and obeys until the process is killed.
func (m *manager) run() error {
	if err := os.MkdirAll("/run/systemd/system", 0o750); err != nil {
		return fmt.Errorf("preparing to be asked: %w", err)
	}
	listener, err := net.Listen("unix", managerSocket) //nolint:noctx // as long as the node
	if err != nil {
		return fmt.Errorf("preparing to be asked: %w", err)
	}
	go m.reap()
	for _, name := range m.atBoot() {
		if err := m.service(name).start(); err != nil {
			return err
		}
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return fmt.Errorf("waiting to be asked: %w", err)
		}
		go m.serve(conn)
	}
}

// atBoot returns the units in the order in which they are to be started.
func (m *manager) atBoot() []string {
	var names []string
	for _, name := range []string{"brisk-node.service", "containerd.service", "kubelet.service"} {
		if _, err := os.Stat(filepath.Join(unitDir, name)); err == nil {
			names = append(names, name)
		}
	}
	return names
}

// service returns the service of a unit.
func (m *manager) service(name string) *service {
	if !strings.Contains(name, ".") {
		name += ".service"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.services[name]
	if s == nil {
		s = &service{m: m, name: name, stored: make(map[string]*os.File)}
		m.services[name] = s
	}
	return s
}

// reap waits for all processes that end.
func (m *manager) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil {
			// There is none, or there was a signal.
			<-time.After(10 * time.Millisecond)
			continue
		}
		m.mu.Lock()
		s := m.running[pid]
		delete(m.running, pid)
		m.mu.Unlock()
		if s != nil {
			s.hasEnded(status)
		}
	}
}

// serve does what one call of systemctl asks for.
func (m *manager) serve(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // answered, or not
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return
	}
	answer := "ok"
	if err := m.obey(strings.Split(string(buf[:n]), "\x00")); err != nil {
		answer = err.Error()
	}
	_, _ = io.WriteString(conn, answer) //nolint:errcheck // who has asked may be gone
}

func (m *manager) obey(args []string) error {
	var names []string
	now := false
	for _, arg := range args[1:] {
		if arg == "--now" {
			now = true
		} else {
			names = append(names, arg)
		}
	}
	var errs []error
	for _, name := range names {
		s := m.service(name)
		switch {
		case args[0] == "restart":
			errs = append(errs, s.stop(), s.start())
		case args[0] == "start" || args[0] == "enable" && now:
			errs = append(errs, s.start())
		case args[0] == "stop" || args[0] == "disable" && now:
			errs = append(errs, s.stop(), s.forget())
		case args[0] == "kill":
			errs = append(errs, s.kill())
		case args[0] == "enable" || args[0] == "disable":
		default:
			errs = append(errs, fmt.Errorf("%s: %w", args[0], errors.ErrUnsupported))
		}
	}
	return errors.Join(errs...)
}

// systemctl is the program of that name in nodes.
func systemctl(args []string) int {
	if len(args) == 1 && args[0] == "daemon-reload" {
		return 0 // units are read when they are started
	}
	conn, err := net.Dial("unix", managerSocket) //nolint:noctx // the caller ends this process
	if err != nil {
		return report(err)
	}
	if _, err := io.WriteString(conn, strings.Join(args, "\x00")); err != nil {
		return report(err)
	}
	answer, err := io.ReadAll(conn)
	if err == nil && string(answer) != "ok" {
		err = errors.New(string(answer))
	}
	return report(err)
}
