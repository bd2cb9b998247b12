package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// site is where an image is mounted: a directory for the node and targets beside it.
type site struct{ dir, node string }

func newSite(t *testing.T) site {
	t.Helper()
	require.FUSE(t)
	dir := t.TempDir()
	// Whatever a failed test leaves mounted would keep its directory.
	t.Cleanup(func() { mountns.RequireUnused(t, dir) })
	return site{dir: dir, node: filepath.Join(dir, "node")}
}

func (s site) target(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// awaitNoNode returns once the process that served the site has ended.
func (s site) awaitNoNode(t *testing.T) {
	t.Helper()
	p2ptest.Await(t, "the end of the node", func() bool {
		_, err := node.Client{Dir: s.node}.Status(t.Context())
		return errors.Is(err, node.ErrNoNode) && s.unlocked(t)
	})
}

// unlocked reports whether no node has the lock of the cache: it is given back last.
func (s site) unlocked(t *testing.T) bool {
	t.Helper()
	lock, err := os.Open(filepath.Join(s.node, "cache", "lock"))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if closeErr := lock.Close(); closeErr != nil {
		t.Error(closeErr)
	}
	return err == nil
}

// foreground starts "brisk mount" and returns once it has mounted the image.
func foreground(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := program(t, append([]string{"mount"}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("it did not mount: %v", errors.Join(err, cmd.Wait()))
	}
	requireOutput(t, line, "mounted", args[len(args)-2], args[len(args)-1])
	return cmd
}

func TestMountDetachAndShare(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	s := newSite(t)
	first, second, third := s.target(t, "first"), s.target(t, "second"), s.target(t, "third")

	requireOutput(t, run(t, "mount", "-vd", "--dir", s.node, "--no-fill", image, first), "mounted "+image, first)
	requireImage(t, first)
	if log, err := os.ReadFile(filepath.Join(s.node, "node.log")); err != nil {
		t.Errorf("the process in the background has no log of its own: %v, %s", err, log)
	}

	// A node is there already: it mounts these.
	requireOutput(t, run(t, "mount", "--dir", s.node, "--overlay", image, second), second)
	requireImage(t, second)
	if err := os.WriteFile(filepath.Join(second, filePath("1")), []byte("changed"), 0o600); err != nil {
		t.Error(err)
	}
	run(t, "mount", "--dir", s.node, "--overlay-dir", filepath.Join(s.dir, "kept"), image, third)
	if err := os.WriteFile(filepath.Join(third, "new"), []byte("new"), 0o600); err != nil {
		t.Error(err)
	}
	requireImage(t, first)
	if status, err := (node.Client{Dir: s.node}).Status(t.Context()); err != nil || len(status.Mounts) != 3 {
		t.Errorf("status %+v, %v", status, err)
	}

	busy := finish(t, program(t, "mount", "--dir", s.node, image, filepath.Join(s.dir, "missing")))
	if busy.code == 0 {
		t.Error("mounting on nothing succeeded")
	}
	if got := finish(t, program(t, "umount", "--dir", s.node, s.dir)); got.code == 0 {
		t.Error("unmounting what is not mounted succeeded")
	} else {
		requireOutput(t, got.stderr, s.dir, "nothing mounted there")
	}
	for _, target := range []string{second, third, first} {
		run(t, "umount", "--dir", s.node, target)
		if left, err := os.ReadDir(target); err != nil || len(left) != 0 {
			t.Errorf("%s holds %v, %v", target, left, err)
		}
	}
	s.awaitNoNode(t)
	if left, err := os.ReadDir(filepath.Join(s.node, "overlays")); err != nil || len(left) != 0 {
		t.Errorf("overlays left: %v, %v", left, err)
	}
	if kept, err := os.ReadFile(filepath.Join(s.dir, "kept", "upper", "new")); err != nil || string(kept) != "new" {
		t.Errorf("what --overlay-dir kept: %q, %v", kept, err)
	}
}

func TestInterruptUnmounts(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		s := newSite(t)
		cmd := foreground(t, "--dir", s.node, "--overlay", image, s.target(t, "root"))
		requireImage(t, s.target(t, "root"))
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", signal, err)
		}
		mountns.RequireUnused(t, s.dir)
	}
}

// readUntil reads files again and again until ctx ends. What is read before an error
// must be right.
func readUntil(ctx context.Context, root string) error {
	for ctx.Err() == nil {
		for name, want := range map[string][]byte{filePath("1"): fileData(1), filePath("2"): fileData(2)} {
			f, err := os.Open(filepath.Join(root, name))
			if err != nil {
				continue
			}
			got, err := io.ReadAll(f)
			_ = f.Close() //nolint:errcheck // what a dead filesystem says to that does not matter
			if !bytes.HasPrefix(want, got) || err == nil && len(got) != len(want) {
				return fmt.Errorf("%s: wrong bytes, or %d only, error %w", name, len(got), err)
			}
		}
	}
	return nil
}

// The process that serves a mount is killed while programs read. The next one with the
// same directory finds a dead mount on the target, and puts it right.
func TestKilledProcess(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	for _, backend := range lazyfs.Backends() {
		for _, overlay := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,overlay=%t", backend, overlay), func(t *testing.T) {
				s := newSite(t)
				root := s.target(t, "root")
				args := []string{"--dir", s.node, "--backend", string(backend), fmt.Sprintf("--overlay=%t", overlay), image, root}
				cmd := foreground(t, append([]string{"--no-fill"}, args...)...)
				reading, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer stop()
				var readers errgroup.Group
				for range 2 {
					readers.Go(func() error { return readUntil(reading, root) })
				}
				if _, err := os.ReadFile(filepath.Join(root, filePath("1"))); err != nil {
					t.Error(err)
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				if err := cmd.Wait(); err == nil {
					t.Error("the killed process ended well")
				}
				if err := readers.Wait(); err != nil {
					t.Error(err)
				}
				again := foreground(t, args...)
				requireImage(t, root)
				run(t, "umount", "--dir", s.node, root)
				if err := again.Wait(); err != nil {
					t.Error(err)
				}
				mountns.RequireUnused(t, s.dir)
				if left, err := filepath.Glob(filepath.Join(s.node, "overlays", "*")); err != nil || len(left) != 0 {
					t.Errorf("overlays left: %v, %v", left, err)
				}
			})
		}
	}
}
