package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

// resident returns how many bytes of a file are in the page cache.
func resident(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(mapped); err != nil {
			t.Error(err)
		}
	}()
	page := os.Getpagesize()
	in := make([]byte, (len(mapped)+page-1)/page)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mapped[0])), uintptr(len(mapped)), uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatal(errno)
	}
	n := 0
	for _, b := range in {
		n += int(b&1) * page
	}
	return n
}

// TestDiskReleasesWhatItHasWritten checks that the page cache of written blocks is there for those who read
// them soon, and is given back after half a minute, and that they are right all the same.
func TestDiskReleasesWhatItHasWritten(t *testing.T) {
	fx := long(2)
	layer := fx.Largest()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		keys := make([]block.Key, 0, layer.Range().Count)
		for i := range layer.Range().Count {
			keys = append(keys, layer.Range().Key(i))
		}
		put(t, fx, d, keys...)
		path := cache.LayerFile(dir, layer.ID)
		<-time.After(20 * time.Second)
		if n := resident(t, path); n < len(layer.Data)/2 {
			t.Errorf("%d of %d bytes in the page cache after 20 s", n, len(layer.Data))
		}
		<-time.After(20 * time.Second)
		if n := resident(t, path); n > len(layer.Data)/8 {
			t.Errorf("%d of %d bytes in the page cache after 40 s", n, len(layer.Data))
		}
		if _, err := blocktest.Fetch(t.Context(), t, fx, d, layer.Range()); err != nil {
			t.Error(err)
		}
		cancel()
		wg.Wait()
	})
}
