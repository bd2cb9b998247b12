package lazyfs_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
)

const envNamespace = "LAZYFS_TEST_NAMESPACE"

// TestMain runs the tests in a mount namespace of their own. A namespace that another
// process makes is a copy of that of its parent, mounts and all: tests of other packages
// that make some would keep what is unmounted here alive, and the other way round.
func TestMain(m *testing.M) {
	if role := os.Getenv(envRole); role != "" {
		os.Exit(play(role))
	}
	if os.Geteuid() == 0 && os.Getenv(envNamespace) == "" {
		os.Exit(runInNamespace())
	}
	if os.Getenv(envNamespace) != "" {
		if err := forgetForeignMounts(); err != nil {
			panic(err)
		}
	}
	goleak.VerifyTestMain(m)
}

func runInNamespace() int {
	cmd := exec.CommandContext(context.Background(), "/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		panic(err)
	}
	return cmd.ProcessState.ExitCode()
}

func forgetForeignMounts() error {
	mounts, err := kernel.Mounts()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if strings.HasPrefix(m.Point, os.TempDir()+"/") {
			if err := kernel.Unmount(context.Background(), m.Point, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// node is the part of a node below the mounts: a source that can fail, and a store
// that keeps what the source delivers.
type node struct {
	*blocktest.Source

	fx *blocktest.Fixture

	mu   sync.Mutex
	held map[block.Key]bool
}

func newNode(streams ...[]byte) *node {
	layers := make([]blocktest.Layer, 0, len(streams))
	for _, s := range streams {
		layers = append(layers, blocktest.Layer{Data: s})
	}
	fx := blocktest.New(layers...)
	return &node{Source: blocktest.NewSource(fx), fx: fx, held: make(map[block.Key]bool)}
}

func (n *node) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	return n.Source.Fetch(ctx, req, func(k block.Key, data []byte) error {
		n.mu.Lock()
		n.held[k] = true
		n.mu.Unlock()
		return sink(k, data)
	})
}

// Has implements [block.Holder].
func (n *node) Has(k block.Key) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held[k]
}

// ReadAt implements what the mounts want of a local cache.
func (n *node) ReadAt(layer block.Digest, p []byte, off int64) (int, error) {
	want := block.Covering(layer, off, int64(len(p)))
	for i := range want.Count {
		if !n.Has(want.Key(i)) {
			return 0, block.ErrNotFound
		}
	}
	return n.fx.Stream(layer).ReadAt(p, off)
}

// image returns an image of layer streams.
func image(t *testing.T, name string, streams ...[]byte) lazyfs.Image {
	t.Helper()
	var digests []block.Digest
	made := lazyfs.Image{Name: name}
	for _, s := range streams {
		built, err := index.Build(t.Context(), bytes.NewReader(s), index.BuildConfig{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := index.Open(bytes.NewReader(built.Encoded), int64(len(built.Encoded)))
		if err != nil {
			t.Fatal(err)
		}
		made.Layers = append(made.Layers, l)
		digests = append(digests, block.Sum(built.Encoded))
	}
	made.ID = lazyfs.ImageID(digests)
	return made
}

// run starts an FS, ends it with the test, and checks that nothing is left of it.
func run(t *testing.T, cfg lazyfs.Config) *lazyfs.FS {
	t.Helper()
	if cfg.StateDir == "" {
		cfg.StateDir = t.TempDir()
	}
	cfg.Logger = slog.New(slog.NewTextHandler(testLog{t}, nil))
	fs, err := lazyfs.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fs.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running lazyfs: %v", err)
		}
		requireNothingLeft(t, cfg.StateDir)
	})
	return fs
}

// testLog writes to the log of a test.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// mount mounts layer streams and unmounts them at the end of the test.
func mount(t *testing.T, fs *lazyfs.FS, cfg lazyfs.MountConfig, streams ...[]byte) *lazyfs.Mount {
	t.Helper()
	m, err := fs.Mount(t.Context(), image(t, t.Name(), streams...), t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := m.Unmount(ctx); err != nil {
			t.Error(err)
		}
	})
	return m
}

// requireNothingLeft checks that neither a mount nor a loop device refers to a
// directory, and that it holds nothing but what is meant to stay.
func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	mounts, err := kernel.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if strings.Contains(m.Point+m.Source+m.Options, dir) {
			t.Errorf("%s is still mounted on %s", m.Type, m.Point)
		}
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range backing {
		file, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(file), dir) {
			t.Errorf("%s is still attached to %s", path, file)
		}
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" && filepath.Ext(path) != ".erofs" {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// readPart reads n bytes of a file.
func readPart(t *testing.T, path string, off int64, n int) ([]byte, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // read only
	p := make([]byte, n)
	got, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return p[:got], err
}
