package lazyfs_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/test/require"
)

// forEachBackend runs a test on every backend.
func forEachBackend(t *testing.T, test func(t *testing.T, backend lazyfs.Backend)) {
	t.Helper()
	require.FUSE(t)
	for _, backend := range lazyfs.Backends() {
		t.Run(string(backend), func(t *testing.T) { test(t, backend) })
	}
}

// manyFiles is a layer of n small files in directories of a hundred.
func manyFiles(t *testing.T, n int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range n {
		content := fmt.Sprintf("file %d", i)
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i/100, i), Mode: 0o644, Size: int64(len(content)),
			PAXRecords: map[string]string{"SCHILY.xattr.user.n": content},
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func total(requests map[string]int64) (n int64) {
	for _, v := range requests {
		n += v
	}
	return n
}

func TestColdStatNeverReachesUserSpace(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		if backend == lazyfs.Tree {
			t.Skip("all requests of this backend reach user space")
		}
		files := manyFiles(t, 5000)
		n := newNode(files)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend})
		m := mount(t, vfs, lazyfs.MountConfig{NoFill: true}, files)
		before := total(vfs.Requests())
		entries := 0
		err := filepath.WalkDir(m.Target(), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			entries++
			if _, err := unix.Llistxattr(path, make([]byte, 100)); err != nil {
				return err
			}
			_, err = os.Lstat(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		after := total(vfs.Requests())
		t.Logf("%d entries: %d requests for mounting, %d for listing, stat and xattrs", entries, before, after-before)
		if after != before || entries != 5051 {
			t.Errorf("%d entries made %d requests to user space, want 5051 and none", entries, after-before)
		}
		if len(n.Requests()) != 0 {
			t.Errorf("mounting and stat fetched %v", n.Requests())
		}
	})
}

func TestSmallReadFetchesOneBlock(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		data := blocktest.Random(1, 32<<20)
		layer := blocktest.Tar("big", data)
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend})
		m := mount(t, vfs, lazyfs.MountConfig{NoFill: true}, layer)
		for i := range 16 {
			off := int64(i*5%16)<<21 + 1<<20 + 4096*int64(i)
			before := len(n.Requests())
			p, err := readPart(t, filepath.Join(m.Target(), "big"), off, 4096)
			if err != nil || !bytes.Equal(p, data[off:off+4096]) {
				t.Fatalf("at %d: error %v or wrong bytes", off, err)
			}
			made := n.Requests()[before:]
			if len(made) != 1 || made[0].Count != 1 || made[0].Class != block.ClassRead {
				t.Errorf("a read of 4 KiB at %d made the requests %v", off, made)
			}
		}
		t.Logf("requests of the kernel: %v", vfs.Requests())
	})
}

func TestSequentialReadUsesLargeRequests(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		data := blocktest.Random(1, 48<<20)
		layer := blocktest.Tar("big", data)
		n := newNode(layer)
		n.Delay(10 * time.Millisecond)
		disk, chain := openCache(t, t.TempDir(), n.fx, n)
		vfs := run(t, lazyfs.Config{Source: chain, Local: disk, Backend: backend})
		m := mount(t, vfs, lazyfs.MountConfig{NoFill: true}, layer)
		start := time.Now()
		out, err := exec.CommandContext(t.Context(), "sha256sum", filepath.Join(m.Target(), "big")).Output()
		if err != nil || !strings.HasPrefix(string(out), fmt.Sprintf("%x", sha256.Sum256(data))) {
			t.Fatalf("error %v or wrong content", err)
		}
		took := time.Since(start)
		large, all := 0, 0
		for _, req := range n.Requests() {
			if all += int(req.Count); req.Count >= 2 {
				large += int(req.Count)
			}
		}
		t.Logf("%d requests for %d blocks of %d, %d of them in requests of 512 KiB and more, in %v; kernel: %v",
			len(n.Requests()), all, len(data)/block.Size, large, took, vfs.Requests())
		if large*100 < all*95 {
			t.Error("want 95 % of the blocks in requests of at least 512 KiB")
		}
		if all > len(data)/block.Size*110/100 {
			t.Error("more than 10 % was fetched twice")
		}
	})
}

func TestDeadlineThenRecovery(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		const deadline = time.Second
		data := blocktest.Random(1, 16<<20)
		layer := blocktest.Tar("big", data)
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend, ReadTimeout: deadline})
		m := mount(t, vfs, lazyfs.MountConfig{NoFill: true}, layer)
		f, err := os.Open(filepath.Join(m.Target(), "big"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close() //nolint:errcheck // read only
		release := n.Stall()
		defer release()
		for i, size := range []int{4096, 1 << 20} {
			off := int64(4+8*i) << 20
			p := make([]byte, size)
			start := time.Now()
			got, err := f.ReadAt(p, off)
			took := time.Since(start)
			t.Logf("%d bytes: %d read, %v after %v", size, got, err, took)
			if !errors.Is(err, unix.EIO) {
				t.Errorf("read %d bytes, error %v, want EIO", got, err)
			}
			if !bytes.Equal(p[:got], data[off:][:got]) {
				t.Error("wrong bytes before the error")
			}
			if took < deadline/2 || took > 2*deadline { // a loaded machine adds to it
				t.Errorf("took %v, want about %v", took, deadline)
			}
		}
		release()
		p := make([]byte, 1<<20)
		if _, err := f.ReadAt(p, 4<<20); err != nil || !bytes.Equal(p, data[4<<20:][:len(p)]) {
			t.Errorf("after the source came back: error %v or wrong bytes", err)
		}
	})
}

// TestSignals interrupts a reader that waits: a signal it handles must not fail the
// read, one that kills it must not have to wait for the source.
func TestSignals(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		data := blocktest.Random(1, 8<<20)
		layer := blocktest.Tar("big", data)
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend})
		m := mount(t, vfs, lazyfs.MountConfig{NoFill: true}, layer)
		release := n.Stall()
		defer release()

		var out bytes.Buffer
		dd := start(t, &out, "dd", "if="+filepath.Join(m.Target(), "big"), "bs=1M", "status=none")
		waitFor(t, func() bool { return len(n.Requests()) > 0 })
		if err := dd.Process.Signal(unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if backend != lazyfs.Loop { // a loop device serves one read of its file at a time
			killReader(t, n, filepath.Join(m.Target(), "big"))
		}
		release()
		if err := dd.Wait(); err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Errorf("the interrupted reader: error %v, %d bytes, or wrong bytes", err, out.Len())
		}
	})
}

// killReader kills a process while it waits for a block that does not come.
func killReader(t *testing.T, n *node, path string) {
	t.Helper()
	killed := start(t, nil, "dd", "if="+path, "bs=4k", "skip=1500", "count=1", "status=none")
	waitFor(t, func() bool { return asked(n, block.Key{Layer: n.fx.Largest().ID, Index: 1500 * 4096 / block.Size}) })
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := killed.Wait(); err == nil {
		t.Error("the killed reader ended well")
	}
	t.Logf("the killed reader ended after %v", time.Since(begin))
	if time.Since(begin) > 5*time.Second {
		t.Error("the killed reader waited for the source")
	}
}

func asked(n *node, k block.Key) bool {
	for _, req := range n.Requests() {
		if req.Contains(k) {
			return true
		}
	}
	return false
}

func start(t *testing.T, out io.Writer, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), name, args...)
	cmd.Stdout = out
	cmd.Stderr = testLog{t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// waitFor waits for something that another process brings about.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not happen within 20 s")
		}
	}
}
