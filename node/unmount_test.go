package node_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/p2p/p2ptest"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// connection is one FUSE connection of the kernel. Numbers are used again, inodes are
// not: so it tells one that is left from one that somebody else has made since.
type connection struct {
	path  string
	inode uint64
}

// connections returns the FUSE connections of the mounts below dir.
func connections(t *testing.T, control, dir string) (all []connection) {
	t.Helper()
	mounts, err := kernel.Mounts()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if !strings.HasPrefix(m.Type, "fuse.") || !strings.HasPrefix(m.Point, dir) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(m.Point, &st); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(control, strconv.FormatUint(uint64(unix.Minor(st.Dev)), 10))
		if err := unix.Stat(path, &st); err != nil {
			t.Fatalf("the FUSE connection of %s is not where it should be: %v", m.Point, err)
		}
		all = append(all, connection{path, st.Ino})
	}
	return all
}

// requireNothingLeft checks that no mount, loop device or FUSE connection is left of
// what was below dir, and that only what is meant to stay is there: caches and what was found in
// them, indexes, traces,
// metadata, locks.
func requireNothingLeft(t *testing.T, dir string, before []connection) {
	t.Helper()
	mountns.RequireUnused(t, dir)
	for _, c := range before {
		var st unix.Stat_t
		if err := unix.Stat(c.path, &st); err == nil && st.Ino == c.inode {
			t.Errorf("the FUSE connection %s is still there", c.path)
		}
	}
	stays := []string{"/node/cache/", "/node/objects/", "/node/mounts/rootfs/", "/node/traces/", "/node/mounts/lock", "/node/peer.key", "/node/" + node.ScrubStateFile, "/node/" + node.ProofsFile, "/overlay/"}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		kept := func(prefix string) bool { return strings.HasPrefix(path, dir+prefix) }
		if err == nil && (!d.IsDir() && !slices.ContainsFunc(stays, kept) || kept("/node/mounts/mnt/")) {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestUnmountLeavesNothing(t *testing.T) {
	require.Root(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	control := t.TempDir()
	if err := unix.Mount("fusectl", control, "fusectl", 0, ""); err != nil {
		t.Fatal("mounting the FUSE control filesystem: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(control, 0); err != nil {
			t.Error(err)
		}
	})
	slow := func(r *registrytest.Registry) {
		r.ResetRequests()
		r.Inject(registrytest.Rule{Fault: registrytest.Hang(100_000), Match: mixed().isLayer})
	}
	for _, tt := range []struct {
		name    string
		request node.MountRequest
		overlay bool
		prepare func(r *registrytest.Registry)
		use     func(t *testing.T, r *registrytest.Registry, root string)
	}{
		{name: "plain", request: node.MountRequest{NoFill: true}, use: readAll},
		{name: "overlay", request: node.MountRequest{NoFill: true}, overlay: true, use: readAndWrite},
		{name: "temporary overlay", request: node.MountRequest{NoFill: true, Temporary: true}, overlay: true, use: readAndWrite},
		{name: "during fill", prepare: slow, use: awaitRequest},
		{name: "overlay during fill", overlay: true, prepare: slow, use: awaitRequest},
	} {
		t.Run(tt.name, func(t *testing.T) {
			forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
				t.Helper()
				dir := emptyTemp(t)
				n, stop := start(t, node.Config{Dir: filepath.Join(dir, "node"), Backend: backend})
				req := tt.request
				req.Image, req.Target = image, filepath.Join(dir, "root")
				if err := os.Mkdir(req.Target, 0o755); err != nil {
					t.Fatal(err)
				}
				if tt.overlay {
					req.Overlay = filepath.Join(dir, "overlay")
				}
				if tt.prepare != nil {
					tt.prepare(reg)
				}
				m := mountWith(t, n, req)
				open := connections(t, control, dir)
				if len(open) != 1 {
					t.Errorf("%d FUSE connections, want one", len(open))
				}
				tt.use(t, reg, req.Target)
				if err := m.Unmount(t.Context()); err != nil {
					t.Fatal(err)
				}
				reg.ClearFaults()
				<-n.Idle()
				if _, err := os.Stat(filepath.Join(dir, "overlay")); tt.overlay && (err != nil) != req.Temporary {
					t.Errorf("the directory of the overlay: %v", err)
				}
				stop()
				requireNothingLeft(t, dir, open)
			})
		})
	}
}

// emptyTemp returns a directory in which everything has to be: temporary files of the
// node go there too.
func emptyTemp(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

func readAll(t *testing.T, _ *registrytest.Registry, root string) {
	t.Helper()
	requireFiles(t, root, mixed().files)
}

func readAndWrite(t *testing.T, r *registrytest.Registry, root string) {
	t.Helper()
	readAll(t, r, root)
	if err := os.WriteFile(filepath.Join(root, "new"), []byte("new"), 0o600); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(root, zstdFile)); err != nil {
		t.Error(err)
	}
}

func awaitRequest(t *testing.T, r *registrytest.Registry, _ string) {
	t.Helper()
	p2ptest.Await(t, "a request of the fill", func() bool {
		return slices.ContainsFunc(r.BlobRequests(), func(b registrytest.Request) bool { return b.Bytes >= 100_000 })
	})
}

// A reader that hangs keeps the image in use. Unmounting says so; a node that stops
// ends the read and leaves nothing.
func TestStopDuringHangingRead(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		dir := emptyTemp(t)
		client := newClient(t)
		n, err := node.New(node.Config{
			Dir: filepath.Join(dir, "node"), Backend: backend, CacheBytes: 1 << 30, MemoryBytes: 1 << 20,
			ReadTimeout: time.Minute, Registry: client,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		target := filepath.Join(dir, "root")
		if err := os.Mkdir(target, 0o755); err != nil {
			t.Fatal(err)
		}
		m := mountWith(t, n, node.MountRequest{Image: image, Target: target, NoFill: true})
		reg.ResetRequests()
		reg.Inject(registrytest.Rule{Fault: registrytest.Hang(-1)})
		read := make(chan error, 1)
		go func() {
			_, err := readPart(filepath.Join(target, gzipFile), 1<<20, 4096)
			read <- err
		}()
		p2ptest.Await(t, "the read", func() bool { return len(reg.BlobRequests()) > 0 })
		patient, done := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer done()
		if err := m.Unmount(patient); !errors.Is(err, unix.EBUSY) {
			t.Errorf("unmounting an image in use: %v, want EBUSY", err)
		}
		cancel()
		begin := time.Now()
		if err := <-read; err == nil {
			t.Error("the hanging read succeeded")
		}
		t.Logf("%v after the stop the read failed; Run: %v", time.Since(begin), <-ended)
		reg.ClearFaults()
		client.Close()
		requireNothingLeft(t, dir, nil)
	})
}
