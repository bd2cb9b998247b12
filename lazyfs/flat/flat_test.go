package flat_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/flat"
	"github.com/brisk-project/brisk/lazyfs/fusefs"
	"github.com/brisk-project/brisk/lazyfs/stream"
	"github.com/brisk-project/brisk/test/require"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mount shows the layers of a fixture and returns the directory.
func mount(t *testing.T, fx *blocktest.Fixture, src block.Source, timeout time.Duration) (string, *fusefs.Ops) {
	t.Helper()
	r, err := stream.New(stream.Config{Source: src, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	dir, reads, ops := t.TempDir(), fusefs.NewReads(), &fusefs.Ops{}
	fs := flat.New(reads, ops)
	server, err := fusefs.Mount(fs, reads, dir, fusefs.Options{Source: "brisk-test", ReadAhead: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(t.Context(), false); err != nil && !errors.Is(err, t.Context().Err()) {
			t.Error(err)
		}
		<-server.Served()
	})
	for _, l := range fx.Layers() {
		name, err := fs.Add(l.ID, r.Open(l.ID, int64(len(l.Data)), nil))
		if err != nil {
			t.Fatal(err)
		}
		if name != l.ID.Hex() {
			t.Errorf("layer %s is shown as %q", l.ID.Short(), name)
		}
	}
	return dir, ops
}

func closeFD(t *testing.T, fd int) {
	t.Helper()
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
}

func readFile(t *testing.T, path string, p []byte, off int64) (int, error) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer closeFD(t, fd)
	total := 0
	for total < len(p) {
		n, err := unix.Pread(fd, p[total:], off+int64(total))
		if err != nil || n == 0 {
			return total, err
		}
		total += n
	}
	return total, nil
}

func TestFiles(t *testing.T) {
	require.FUSE(t)
	for _, fx := range []*blocktest.Fixture{blocktest.Standard(), blocktest.Raw()} {
		dir, _ := mount(t, fx, blocktest.NewSource(fx), 0)
		for _, l := range fx.Layers() {
			want := append(bytes.Clone(l.Data), make([]byte, (512-len(l.Data)%512)%512)...)
			got := make([]byte, len(want)+1)
			n, err := readFile(t, filepath.Join(dir, l.ID.Hex()), got, 0)
			if err != nil || n != len(want) || !bytes.Equal(got[:n], want) {
				t.Errorf("layer %q: %d bytes of %d, error %v, or wrong bytes", l.Name, n, len(want), err)
			}
		}
		for _, name := range []string{"x", block.Digest{1}.Hex()} {
			if _, err := readFile(t, filepath.Join(dir, name), nil, 0); !errors.Is(err, unix.ENOENT) {
				t.Errorf("opening %s: %v, want ENOENT", name, err)
			}
		}
	}
}

// TestRandomReadIsNotWidened holds what the kernel must not do with its large
// readahead window: turn 4 KiB in the middle of a file into a megabyte.
func TestRandomReadIsNotWidened(t *testing.T) {
	require.FUSE(t)
	fx := blocktest.New(blocktest.Layer{Name: "long", Data: blocktest.Random(1, 32<<20)})
	src := blocktest.NewSource(fx)
	dir, ops := mount(t, fx, src, 0)
	for i := range 10 {
		if _, err := readFile(t, filepath.Join(dir, fx.Largest().ID.Hex()), make([]byte, 4096), int64(i*7%10*3<<20+123<<12)); err != nil {
			t.Fatal(err)
		}
	}
	for _, req := range src.Requests() {
		if req.Count != 1 {
			t.Errorf("request %v for a read of 4 KiB", req.Range)
		}
	}
	if n := len(src.Requests()); n != 10 {
		t.Errorf("%d requests for 10 reads", n)
	}
	for op, n := range ops.All() {
		t.Logf("%s: %d", op, n)
	}
}

func TestDeadlineAndRecovery(t *testing.T) {
	require.FUSE(t)
	fx := blocktest.Standard()
	src := blocktest.NewSource(fx)
	dir, _ := mount(t, fx, src, 2*time.Second)
	path := filepath.Join(dir, fx.Largest().ID.Hex())
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFD(t, fd)
	release := src.Stall()
	defer release()
	got := make([]byte, 4096)
	start := time.Now()
	if n, err := unix.Pread(fd, got, 1<<20); !errors.Is(err, unix.EIO) {
		t.Fatalf("read %d bytes, error %v, while the source hangs, want EIO", n, err)
	}
	t.Logf("EIO after %v", time.Since(start))
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("took %v", took)
	}
	release()
	if n, err := unix.Pread(fd, got, 1<<20); n != len(got) || err != nil || !bytes.Equal(got, fx.Largest().Data[1<<20:][:4096]) {
		t.Errorf("read %d bytes, error %v, or wrong bytes, after the source came back", n, err)
	}
}
