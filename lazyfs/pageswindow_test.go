package lazyfs_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// withBig returns a layer with files that a start reads, and one of 16 MiB behind them.
func withBig(t *testing.T) (layer []byte, started []string) {
	t.Helper()
	small, _, started := scattered(t, 120)
	var buf bytes.Buffer
	buf.Write(small[:len(small)-1024]) // without the end of the tar
	w := tar.NewWriter(&buf)
	content := blocktest.Random(1, 16<<20)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), started
}

// TestWindowOfAStart compares what the kernel asks for with readahead windows for images with pages:
// in files of a start, and in one that is read from its beginning to its end. -v prints it.
func TestWindowOfAStart(t *testing.T) {
	layer, started := withBig(t)
	asked := make(map[int]int64)
	for _, window := range []int{4 << 10, 32 << 10, 128 << 10, 1 << 20} {
		var size, requests atomic.Int64
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{
			Source: n, Local: n, Backend: lazyfs.Erofs, Pages: func(block.Digest) stream.Pages { return nothing{} }, PagesReadAhead: window,
			OnRead: func(_ block.Digest, _, length int64) { size.Add(length); requests.Add(1) },
		})
		m := mountPages(t, vfs, block.Sum([]byte("window")), layer)
		read := int64(0)
		for _, name := range started {
			content, err := os.ReadFile(filepath.Join(m.Target(), name))
			if err != nil {
				t.Fatal(err)
			}
			read += int64(len(content))
		}
		asked[window] = size.Swap(0)
		t.Logf("window of %d KiB: %d files of a start with %d bytes: %d bytes in %d requests", window>>10, len(started), read, asked[window], requests.Swap(0))
		if _, err := os.ReadFile(filepath.Join(m.Target(), "big")); err != nil {
			t.Fatal(err)
		}
		t.Logf("window of %d KiB: 16 MiB one after the other: %d bytes in %d requests", window>>10, size.Load(), requests.Load())
		if err := m.Unmount(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if asked[4<<10] >= asked[1<<20] {
		t.Errorf("without a window the kernel asks for %d bytes, with one of 1 MiB for %d", asked[4<<10], asked[1<<20])
	}
}
