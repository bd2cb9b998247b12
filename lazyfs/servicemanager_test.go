package lazyfs_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs"
)

// manager is what a worker sees of systemd: a socket to which descriptors are sent.
type manager struct {
	conn   *net.UnixConn
	stored map[string]*os.File
}

func newManager(t *testing.T, path string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{conn: conn, stored: make(map[string]*os.File)}
	t.Cleanup(func() {
		_ = conn.Close() //nolint:errcheck // the end of the test
		for _, f := range m.stored {
			_ = f.Close() //nolint:errcheck // the end of the test
		}
	})
	return m
}

// obey does what workers have asked for so far.
func (m *manager) obey(t *testing.T) {
	t.Helper()
	for {
		buf, rights := make([]byte, 4096), make([]byte, 4096)
		if err := m.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, oobn, _, _, err := m.conn.ReadMsgUnix(buf, rights)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		what, name, ok := strings.Cut(string(buf[:n]), "\nFDNAME=")
		if !ok {
			t.Fatalf("a worker says %q", buf[:n])
		}
		old := m.stored[name]
		switch what {
		case "FDSTORE=1":
			messages, err := unix.ParseSocketControlMessage(rights[:oobn])
			if err != nil {
				t.Fatal(err)
			}
			fds, err := unix.ParseUnixRights(&messages[0])
			if err != nil {
				t.Fatal(err)
			}
			m.stored[name] = os.NewFile(uintptr(fds[0]), name)
		case "FDSTOREREMOVE=1":
			delete(m.stored, name)
		default:
			t.Fatalf("a worker says %q", buf[:n])
		}
		if old != nil {
			if err := old.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// start starts a worker as the manager does, with what it has stored.
func (m *manager) start(t *testing.T, s setup, socket string) *process {
	t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close() //nolint:errcheck // nothing in it
	files, names := []*os.File{null}, []string{"of-somebody-else"}
	for name, f := range m.stored {
		files, names = append(files, f), append(names, name)
	}
	return launch(t, roleSystemd, s, []string{
		"NOTIFY_SOCKET=" + socket, "LISTEN_FDS=" + strconv.Itoa(len(files)), "LISTEN_FDNAMES=" + strings.Join(names, ":"),
	}, files...)
}

// TestServiceManager keeps mounts with the descriptor store of systemd.
func TestServiceManager(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		s := newSetup(t, backend)
		s.Keeper = false
		socket := filepath.Join(s.Dir, "notify.sock")
		m := newManager(t, socket)
		w := m.start(t, s, socket)
		read, written := s.target(t, "read"), s.target(t, "written")
		w.tell(command{Op: "mount", Image: "first", Target: read, NoFill: true})
		w.tell(command{Op: "mount", Image: "second", Target: written, NoFill: true, Overlay: true})
		m.obey(t)
		for i := range 3 {
			if i == 2 {
				w.stop()
			} else {
				w.kill()
			}
			result := make(chan error, 1)
			go func() {
				_, err := s.read(t, filepath.Join(read, sharedFile), int64(i+1)<<20, 4096)
				result <- err
			}()
			m.obey(t)
			w = m.start(t, s, socket)
			if err := <-result; err != nil {
				t.Errorf("a read across restart %d: %v", i, err)
			}
			if len(w.First.Mounts) != 2 {
				t.Errorf("mounts after restart %d: %v", i, w.First.Mounts)
			}
			m.obey(t)
		}
		requireContent(t, "first", read)
		requireContent(t, "second", written)
		w.tell(command{Op: "unmount", Target: read})
		w.tell(command{Op: "unmount", Target: written})
		w.stop()
		m.obey(t)
		if len(m.stored) > 0 {
			t.Errorf("still stored: %v", m.stored)
		}
		s.requireAllGone(t)
	})
}
