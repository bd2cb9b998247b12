package lazyfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/test/require"
)

// overlayDirs makes the directories of an overlay.
func overlayDirs(t *testing.T) *lazyfs.Overlay {
	t.Helper()
	dir := t.TempDir()
	o := &lazyfs.Overlay{Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	for _, d := range []string{o.Upper, o.Work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func TestOverlay(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		data := blocktest.Random(1, 3<<20)
		layer := blocktest.Tar("file", data)
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend})
		o := overlayDirs(t)
		m := mount(t, vfs, lazyfs.MountConfig{Overlay: o}, layer)
		path := filepath.Join(m.Target(), "file")
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("more"); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(o.Upper, "file"))
		if err != nil || !bytes.Equal(got, append(bytes.Clone(data), "more"...)) {
			t.Errorf("the copied-up file: error %v or wrong content", err)
		}
	})
}

// TestUnmountLeavesNothing unmounts in the middle of a fill and looks for remains while
// the FS still runs.
func TestUnmountLeavesNothing(t *testing.T) {
	control := t.TempDir()
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(control, 0); err != nil {
				t.Error(err)
			}
		})
		state := t.TempDir()
		layer := blocktest.Tar("file", blocktest.Random(1, 32<<20))
		n := newNode(layer)
		n.Delay(20 * time.Millisecond)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend, StateDir: state})
		m := mount(t, vfs, lazyfs.MountConfig{Overlay: overlayDirs(t)}, layer)
		var st unix.Stat_t
		served := filepath.Join(state, "flat")
		if backend == lazyfs.Tree {
			served = filepath.Join(state, "mnt", "1")
		}
		if err := unix.Stat(served, &st); err != nil {
			t.Fatal(err)
		}
		connection := filepath.Join(control, strconv.FormatUint(uint64(unix.Minor(st.Dev)), 10))
		if _, err := os.Stat(connection); err != nil {
			t.Errorf("the FUSE connection is not where it should be: %v", err)
		}
		waitFor(t, func() bool { return len(n.Requests()) > 0 })
		if err := m.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
		requireNothingLeft(t, state)
		if _, err := os.Stat(connection); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the FUSE connection is still there: %v", err)
		}
		left, err := os.ReadDir(filepath.Join(state, "mnt"))
		if err != nil || len(left) != 0 {
			t.Errorf("mount points left: %v, %v", left, err)
		}
	})
}

func TestBusyUnmountAndDetach(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		layer := blocktest.Tar("file", blocktest.Random(1, 3<<20))
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend})
		m := mount(t, vfs, lazyfs.MountConfig{NoFill: true}, layer)
		f, err := os.Open(filepath.Join(m.Target(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := m.Unmount(ctx); !errors.Is(err, unix.EBUSY) {
			t.Errorf("unmounting what is in use: %v, want EBUSY", err)
		}
		if err := m.Detach(t.Context()); err != nil {
			t.Errorf("detaching: %v", err)
		}
		if _, err := os.Stat(filepath.Join(m.Target(), "file")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after detaching: %v", err)
		}
		if _, err := f.ReadAt(make([]byte, 10), 2<<20); err == nil {
			t.Error("a read after detaching succeeded")
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestManyLayersAndSharing(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		const count = 120
		streams := make([][]byte, 0, count)
		for i := range count {
			streams = append(streams, blocktest.Tar(fmt.Sprintf("file%d", i), fmt.Appendf(nil, "content %d", i)))
		}
		n := newNode(streams...)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend})
		whole := mount(t, vfs, lazyfs.MountConfig{}, streams...)
		again := mount(t, vfs, lazyfs.MountConfig{}, streams...)
		part := mount(t, vfs, lazyfs.MountConfig{}, streams[10], streams[20], streams[10])
		check := func(m *lazyfs.Mount, numbers ...int) {
			t.Helper()
			for _, i := range numbers {
				got, err := os.ReadFile(filepath.Join(m.Target(), fmt.Sprintf("file%d", i)))
				if err != nil || string(got) != fmt.Sprintf("content %d", i) {
					t.Errorf("file%d: %q, %v", i, got, err)
				}
			}
		}
		check(whole, 0, 10, 119)
		check(part, 10, 20)
		if err := whole.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(again, 0, 10, 119)
		<-again.Filled()
		if s := again.Stats(); s.FillBlocks != s.TotalBlocks || s.TotalBlocks != count || s.Direct {
			t.Errorf("stats %+v", s)
		}
		for k := range n.fx.Keys() {
			if !n.Has(k) {
				t.Errorf("the fill has left out %v", k)
			}
		}
	})
}

// shelf is a local cache that keeps whole layers as files.
type shelf struct {
	*node

	dir     string
	pinned  int
	without block.Digest // a layer that is incomplete
}

func (s *shelf) Pin(layer block.Digest) (string, func(), error) {
	if layer == s.without {
		return "", nil, block.ErrNotFound
	}
	s.pinned++
	return filepath.Join(s.dir, layer.Hex()), func() { s.pinned-- }, nil
}

func TestCompleteLayersAreMountedAsPlainFiles(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		low, high := blocktest.Random(1, 3<<20), blocktest.Random(2, 2<<20)
		streams := [][]byte{blocktest.Tar("low", low), blocktest.Tar("high", high)}
		for _, complete := range []bool{true, false} {
			s := &shelf{node: newNode(streams...), dir: t.TempDir()}
			for _, l := range s.fx.Layers() {
				if err := os.WriteFile(filepath.Join(s.dir, l.ID.Hex()), l.Data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if !complete {
				s.without = s.fx.Layers()[1].ID
			}
			vfs := run(t, lazyfs.Config{Source: s, Local: s, Backend: backend})
			m := mount(t, vfs, lazyfs.MountConfig{}, streams...)
			for name, want := range map[string][]byte{"low": low, "high": high} {
				got, err := os.ReadFile(filepath.Join(m.Target(), name))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: error %v or wrong content", name, err)
				}
			}
			requests := total(vfs.Requests())
			t.Logf("complete %v: %d requests to user space, %+v", complete, requests, m.Stats())
			if backend != lazyfs.Tree {
				if direct := m.Stats().Direct; direct != complete || (requests == 0) != complete {
					t.Errorf("complete %v: direct %v, %d requests to user space", complete, direct, requests)
				}
			}
			if err := m.Unmount(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.pinned != 0 {
				t.Errorf("%d layers are still pinned", s.pinned)
			}
		}
	})
}

const (
	envChildState   = "LAZYFS_TEST_STATE"
	envChildTarget  = "LAZYFS_TEST_TARGET"
	envChildBackend = "LAZYFS_TEST_BACKEND"
)

// TestChild is not a test: it is the process that TestDeadProcessIsCleanedUp kills.
func TestChild(t *testing.T) {
	state := os.Getenv(envChildState)
	if state == "" {
		t.Skip("only runs as the child of another test")
	}
	layer := blocktest.Tar("file", []byte("content"))
	n := newNode(layer)
	vfs := run(t, lazyfs.Config{Source: n, Local: n, StateDir: state, Backend: lazyfs.Backend(os.Getenv(envChildBackend))})
	for i, o := range []*lazyfs.Overlay{nil, overlayDirs(t)} {
		target := filepath.Join(os.Getenv(envChildTarget), strconv.Itoa(i))
		_, err := vfs.Mount(t.Context(), image(t, "", layer), target, lazyfs.MountConfig{Overlay: o})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(state, "mounted"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {} // until it is killed
}

func TestDeadProcessIsCleanedUp(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		state, target := t.TempDir(), t.TempDir()
		for i := range 2 {
			if err := os.Mkdir(filepath.Join(target, strconv.Itoa(i)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		child := exec.CommandContext(t.Context(), self, "-test.run=^TestChild$")
		child.Env = append(os.Environ(), envChildState+"="+state, envChildTarget+"="+target, envChildBackend+"="+string(backend))
		child.Stderr = testLog{t}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		marker := filepath.Join(state, "mounted")
		waitFor(t, func() bool {
			_, err := os.Stat(marker)
			return err == nil
		})
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := child.Wait(); err == nil {
			t.Error("the killed process ended well")
		}
		if err := os.Remove(marker); err != nil {
			t.Fatal(err)
		}
		if len(mountsIn(t, target)) != 2 {
			t.Errorf("mounts after the kill: %v, want two", mountsIn(t, target))
		}
		layer := blocktest.Tar("file", []byte("content"))
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, StateDir: state, Backend: backend})
		<-vfs.Ready()
		if left := mountsIn(t, target); len(left) != 0 {
			t.Errorf("mounts after the next start: %v", left)
		}
		m := mount(t, vfs, lazyfs.MountConfig{}, layer)
		if got, err := os.ReadFile(filepath.Join(m.Target(), "file")); string(got) != "content" {
			t.Errorf("read %q, %v", got, err)
		}
	})
}

func mountsIn(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := kernel.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	var in []string
	for _, m := range mounts {
		if strings.HasPrefix(m.Point, dir+"/") {
			in = append(in, m.Type+" "+m.Point)
		}
	}
	return in
}

func TestOneProcessPerStateDirectory(t *testing.T) {
	require.FUSE(t)
	state := t.TempDir()
	n := newNode(blocktest.Tar("file", nil))
	first := run(t, lazyfs.Config{Source: n, StateDir: state, Backend: lazyfs.Erofs})
	<-first.Ready()
	second, err := lazyfs.New(lazyfs.Config{Source: n, StateDir: state, Backend: lazyfs.Erofs})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("the second process in a state directory: %v", err)
	}
	if _, err := second.Mount(t.Context(), lazyfs.Image{}, state, lazyfs.MountConfig{}); !errors.Is(err, lazyfs.ErrStopped) {
		t.Errorf("mounting after the end: %v, want ErrStopped", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	src := blocktest.NewSource(blocktest.Raw())
	for name, cfg := range map[string]lazyfs.Config{
		"relative directory": {StateDir: "state", Source: src},
		"long directory":     {StateDir: "/" + strings.Repeat("x", 200), Source: src},
		"no source":          {StateDir: "/state"},
		"unknown backend":    {StateDir: "/state", Source: src, Backend: "nfs"},
	} {
		if _, err := lazyfs.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func TestFailedMountLeavesNothing(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		state := t.TempDir()
		layer := blocktest.Tar("file", nil)
		vfs := run(t, lazyfs.Config{Source: newNode(layer), StateDir: state, Backend: backend})
		for name, target := range map[string]string{"missing": t.TempDir() + "/missing", "relative": "target"} {
			_, err := vfs.Mount(t.Context(), image(t, "image", layer), target, lazyfs.MountConfig{})
			if err == nil {
				t.Errorf("%s target: no error", name)
			} else {
				t.Logf("%s target: %v", name, err)
			}
		}
		_, err := vfs.Mount(t.Context(), image(t, "image", layer), t.TempDir(),
			lazyfs.MountConfig{Overlay: &lazyfs.Overlay{Upper: "/missing", Work: "/missing"}})
		if err == nil {
			t.Error("missing overlay directories: no error")
		}
		requireNothingLeft(t, state)
	})
}
