package keeper_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/test/require"
)

// envDial makes this program dial a keeper and say what came of it.
const envDial = "KEEPER_TEST_DIAL"

func TestMain(m *testing.M) {
	if socket := os.Getenv(envDial); socket != "" {
		_, err := keeper.NewClient(keeper.ClientConfig{Socket: socket}).Take(context.Background())
		if _, err := os.Stdout.WriteString(strconv.FormatBool(err == nil)); err != nil {
			panic(err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// start runs a keeper until stop or the end of the test.
func start(t *testing.T, cfg keeper.Config) (socket string, stop func()) {
	t.Helper()
	if cfg.Socket == "" {
		cfg.Socket = filepath.Join(t.TempDir(), "keeper.sock")
	}
	k, err := keeper.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	await(t, func() bool {
		_, err := os.Stat(cfg.Socket)
		return err == nil
	})
	return cfg.Socket, stop
}

func await(t *testing.T, ready func() bool) {
	t.Helper()
	for range 500 {
		if ready() {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Fatal("it does not happen")
}

// connect makes a client that ends with the test at the latest.
func connect(t *testing.T, socket string) (client *keeper.Client, hangUp func()) {
	t.Helper()
	client = keeper.NewClient(keeper.ClientConfig{Socket: socket, Timeout: time.Second})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- client.Run(ctx) }()
	hangUp = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(hangUp)
	return client, hangUp
}

// device opens the FUSE device; it need not be mounted to be kept.
func device(t *testing.T) int {
	t.Helper()
	require.FUSE(t)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFD(t, fd) })
	return fd
}

func closeFD(t *testing.T, fd int) {
	t.Helper()
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
}

// take takes what a keeper has, and closes it.
func take(t *testing.T, client *keeper.Client) map[string]bool {
	t.Helper()
	sessions, err := client.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, s := range sessions {
		names[s.Name] = true
		closeFD(t, s.FD)
	}
	return names
}

func TestPutTakeRemove(t *testing.T) {
	fd := device(t)
	socket, _ := start(t, keeper.Config{MaxSessions: 3})
	first, hangUp := connect(t, socket)
	for _, name := range []string{"a", "b", "c", "b"} {
		if err := first.Put(t.Context(), name, fd); err != nil {
			t.Fatal(err)
		}
	}
	if err := first.Put(t.Context(), "d", fd); err == nil || !strings.Contains(err.Error(), "3 sessions already") {
		t.Errorf("one too many: %v", err)
	}
	for _, name := range []string{"", "A", "a:b", "a b", strings.Repeat("a", 65)} {
		if err := first.Put(t.Context(), name, fd); err == nil {
			t.Errorf("name %q: no error", name)
		}
	}
	if err := errors.Join(first.Remove(t.Context(), "a"), first.Remove(t.Context(), "unknown")); err != nil {
		t.Error(err)
	}
	hangUp()
	second, _ := connect(t, socket)
	if got := take(t, second); len(got) != 2 || !got["b"] || !got["c"] {
		t.Errorf("kept: %v", got)
	}
}

func TestOnlyFUSEIsKept(t *testing.T) {
	socket, _ := start(t, keeper.Config{})
	client, _ := connect(t, socket)
	for _, path := range []string{os.DevNull, t.TempDir()} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Put(t.Context(), "a", int(f.Fd())); err == nil {
			t.Errorf("%s is kept", path)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := take(t, client); len(got) != 0 {
		t.Errorf("kept: %v", got)
	}
}

// TestOneClientAtATime holds that a worker gets nothing while the one before it may
// still be alive.
func TestOneClientAtATime(t *testing.T) {
	fd := device(t)
	socket, _ := start(t, keeper.Config{})
	first, hangUp := connect(t, socket)
	if err := first.Put(t.Context(), "a", fd); err != nil {
		t.Fatal(err)
	}
	second, _ := connect(t, socket)
	if _, err := second.Take(t.Context()); err == nil {
		t.Error("two clients are served")
	}
	hangUp()
	if got := take(t, second); !got["a"] {
		t.Errorf("kept: %v", got)
	}
}

func TestOneKeeperOnASocket(t *testing.T) {
	socket, _ := start(t, keeper.Config{})
	k, err := keeper.New(keeper.Config{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Run(t.Context()); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("a second keeper: %v", err)
	}
}

func TestKeeperIsGone(t *testing.T) {
	fd := device(t)
	socket, stop := start(t, keeper.Config{})
	client, _ := connect(t, socket)
	if err := client.Put(t.Context(), "a", fd); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := client.Put(t.Context(), "b", fd); err == nil {
		t.Error("no error without a keeper")
	}
	start(t, keeper.Config{Socket: socket})
	if err := client.Put(t.Context(), "c", fd); err != nil {
		t.Error(err)
	}
	if held := take(t, client); !held["a"] || !held["b"] || !held["c"] {
		t.Errorf("the new keeper has %v", held)
	}
}

// TestKeeperComesBack holds that a client that is not asked for anything finds a new
// keeper too.
func TestKeeperComesBack(t *testing.T) {
	fd := device(t)
	socket, stop := start(t, keeper.Config{})
	client, _ := connect(t, socket)
	if err := client.Put(t.Context(), "a", fd); err != nil {
		t.Fatal(err)
	}
	stop()
	_, stop = start(t, keeper.Config{Socket: socket})
	await(t, func() bool { // the client looks every two seconds
		other := keeper.NewClient(keeper.ClientConfig{Socket: socket, Timeout: 100 * time.Millisecond})
		_, err := other.Take(t.Context())
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if err := other.Run(ended); err != nil {
			t.Error(err)
		}
		return err != nil // the keeper talks to the first client
	})
	if held := take(t, client); !held["a"] {
		t.Errorf("the new keeper has %v", held)
	}
	stop()
}

// TestOtherUsers holds that only processes of the same user are heard.
func TestOtherUsers(t *testing.T) {
	require.Root(t)
	dir, err := os.MkdirTemp("", "keeper") //nolint:usetesting // other users cannot reach those of a test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	socket, _ := start(t, keeper.Config{Socket: filepath.Join(dir, "keeper.sock")})
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "dial")
	if err := errors.Join(os.WriteFile(program, self, 0o755), os.Chmod(program, 0o755), os.Chmod(dir, 0o755), os.Chmod(socket, 0o666)); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{0: "true", 65534: "false"} {
		cmd := exec.CommandContext(t.Context(), program)
		cmd.Dir = "/"
		cmd.Env = []string{envDial + "=" + socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.Output()
		if err != nil || string(out) != want {
			t.Errorf("user %d: %q, %v, want %s", uid, out, err, want)
		}
	}
}

// TestNonsense sends what no client sends: the keeper hangs up, and serves the next.
func TestNonsense(t *testing.T) {
	var log bytes.Buffer
	socket, stop := start(t, keeper.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for _, text := range []string{"x", "BRK1", "BRK1\x01\x05a", "BRK1\x63\x00", strings.Repeat("BRK1", 100)} {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		rights := unix.UnixRights(int(null.Fd()), int(null.Fd()), int(null.Fd()))
		if _, _, err := conn.WriteMsgUnix([]byte(text), rights, nil); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(make([]byte, 1)); err == nil && n > 0 {
			t.Errorf("%q is answered", text)
		}
		if err := errors.Join(conn.Close(), null.Close()); err != nil {
			t.Error(err)
		}
	}
	client, hangUp := connect(t, socket)
	if got := take(t, client); len(got) != 0 {
		t.Errorf("kept: %v", got)
	}
	hangUp()
	stop()
	if !strings.Contains(log.String(), "not understood") {
		t.Errorf("log: %s", log.String())
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]keeper.Config{
		"no socket":         {},
		"relative":          {Socket: "keeper.sock"},
		"long":              {Socket: "/" + strings.Repeat("x", 107)},
		"negative patience": {Socket: "/keeper.sock", WaitTimeout: -1},
	} {
		if _, err := keeper.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFromEnvironment(t *testing.T) {
	t.Parallel()
	env := map[string]string{}
	getenv := func(key string) string { return env[key] }
	if keeper.FromEnvironment(getenv, 1) != nil {
		t.Error("a store without a service manager")
	}
	env["NOTIFY_SOCKET"] = filepath.Join(t.TempDir(), "missing.sock")
	for _, vars := range []map[string]string{
		{},
		{"LISTEN_PID": "2", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"},
		{"LISTEN_PID": "1", "LISTEN_FDS": "x"},
		{"LISTEN_PID": "1", "LISTEN_FDS": "-1"},
		{"LISTEN_PID": "1", "LISTEN_FDS": "999999999999"},
		{"LISTEN_PID": "1", "LISTEN_FDS": "60000", "LISTEN_FDNAMES": "stored"},
	} {
		for _, key := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
			env[key] = vars[key]
		}
		s := keeper.FromEnvironment(getenv, 1)
		if s == nil {
			t.Fatal("no store")
		}
		// Descriptor 3 of a test is no FUSE device.
		if sessions, err := s.Take(t.Context()); err != nil || len(sessions) != 0 {
			t.Errorf("%v: %v, %v", vars, sessions, err)
		}
		if err := s.Put(t.Context(), "a", 0); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("telling nobody: %v", err)
		}
	}
}
