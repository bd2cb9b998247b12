package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/registrytest"
)

const (
	// envWorker makes this program a node in a directory, with envBackend.
	envWorker  = "NODE_TEST_WORKER"
	envBackend = "NODE_TEST_BACKEND"
)

func keeperSocket(dir string) string { return filepath.Join(dir, "keeper.sock") }

// runWorker runs a node until it is told to stop, in the process of a test.
func runWorker(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})).With("pid", os.Getpid())
	err := func() error {
		client, err := registry.NewClient(registry.Config{Keychain: registrytest.Keychain(registrytest.User)})
		if err != nil {
			return err
		}
		defer client.Close()
		n, err := node.New(node.Config{
			Dir: filepath.Join(dir, "node"), CacheBytes: 1 << 30, MemoryBytes: 1 << 20, ReadTimeout: 20 * time.Second,
			Backend: lazyfs.Backend(os.Getenv(envBackend)), Registry: client, Log: log,
			Keeper: keeper.NewClient(keeper.ClientConfig{Socket: keeperSocket(dir), Logger: log}),
		})
		if err != nil {
			return err
		}
		return n.Run(ctx)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 1
	}
	return 0
}

// startWorker starts a node in a process of its own and waits until it has taken over
// some mounts.
func startWorker(t *testing.T, dir string, backend lazyfs.Backend, mounts int) (*exec.Cmd, node.Status) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), envWorker+"="+dir, envBackend+"="+string(backend))
	cmd.Stderr = testLog{t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(t, cmd) })
	var status node.Status
	p2ptest.Await(t, "the worker", func() bool {
		var err error
		status, err = node.Client{Dir: filepath.Join(dir, "node")}.Status(t.Context())
		return err == nil && status.Backend != "" && len(status.Mounts) == mounts
	})
	return cmd, status
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if cmd.ProcessState != nil {
		return
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	_ = cmd.Wait() //nolint:errcheck // it was killed
}

// TestNodeIsKilled holds that a node goes on with the mounts of the one before it while
// the registry is down, and fetches what is missing once it is back.
func TestNodeIsKilled(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		dir := emptyTemp(t)
		k, err := keeper.New(keeper.Config{Socket: keeperSocket(dir)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		p2ptest.Await(t, "the keeper", func() bool {
			_, err := os.Stat(keeperSocket(dir))
			return err == nil
		})
		worker, _ := startWorker(t, dir, backend, 0)
		client := node.Client{Dir: filepath.Join(dir, "node")}
		target := filepath.Join(dir, "root")
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		req := node.MountRequest{Image: image, Target: target, NoFill: true, Overlay: filepath.Join(dir, "overlay")}
		if _, err := client.Mount(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if _, err := readPart(filepath.Join(target, gzipFile), 0, 4096); err != nil {
			t.Fatal(err)
		}
		reg.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusServiceUnavailable), Match: func(*http.Request) bool { return true }})
		reg.ResetRequests()
		kill(t, worker)
		read := make(chan error, 1)
		go func() { // while no worker is there, and the registry is down
			got, err := readPart(filepath.Join(target, plainFile), 1<<20, 4096)
			if err == nil && !bytes.Equal(got, mixed().files[plainFile][1<<20:][:4096]) {
				err = errors.New("wrong bytes")
			}
			read <- err
		}()
		worker, status := startWorker(t, dir, backend, 1)
		if status.Mounts[0].Image != image || status.Mounts[0].StreamBytes == 0 {
			t.Errorf("status after the restart: %+v", status)
		}
		reg.ClearFaults()
		if err := <-read; err != nil {
			t.Errorf("the read across the restart: %v", err)
		}
		requireFiles(t, target, mixed().files)
		plain := filepath.Join(dir, "plain")
		if err := os.Mkdir(plain, 0o755); err != nil {
			t.Fatal(err)
		}
		again := node.MountRequest{Image: image, Target: plain, NoFill: true}
		if _, err := client.Mount(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		kill(t, worker)
		worker, _ = startWorker(t, dir, backend, 2)
		if _, err := client.Mount(t.Context(), again); err != nil { // it is there already
			t.Error(err)
		}
		if status, err := client.Status(t.Context()); err != nil || len(status.Mounts) != 2 {
			t.Errorf("status after mounting what is mounted: %+v, %v", status, err)
		}
		requireFiles(t, plain, mixed().files)
		if err := client.Unmount(t.Context(), plain); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(plain); err != nil || len(left) != 0 {
			t.Errorf("after unmounting: %v, %v", left, err)
		}

		// The gentle way, with everything cached and the registry down for good.
		reg.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusServiceUnavailable), Match: func(*http.Request) bool { return true }})
		if err := worker.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := worker.Wait(); err != nil {
			t.Errorf("the worker ended: %v", err)
		}
		worker, _ = startWorker(t, dir, backend, 1)
		requireFiles(t, target, mixed().files)
		if err := client.Unmount(t.Context(), target); err != nil {
			t.Error(err)
		}
		if err := worker.Process.Signal(unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := worker.Wait(); err != nil {
			t.Errorf("the worker ended: %v", err)
		}
		reg.ClearFaults()
		stop()
		if err := os.Remove(filepath.Join(dir, "keeper.sock.lock")); err != nil {
			t.Error(err)
		}
		if err := os.Remove(keeperSocket(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		requireNothingLeft(t, dir, nil)
	})
}

func FuzzNote(f *testing.F) {
	f.Add([]byte(`{"image":"a","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","request":{},"layers":[]}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"layers":[{"size":-1}]}`))
	f.Fuzz(func(_ *testing.T, content []byte) {
		_ = node.CheckNote(content) //nolint:errcheck // only that it returns
	})
}
