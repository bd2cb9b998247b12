package cache_test

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

// TestRoomOfOthers reserves room beside the blocks of a cache for ten of them.
func TestRoomOfOthers(t *testing.T) {
	t.Parallel()
	fx := blocktest.Raw()
	layer := fx.Largest()
	if len(layer.Data) < 6*block.Size {
		t.Fatal("the fixture is too small")
	}
	held := map[bool]int64{} // by whether it is idle
	var d *cache.Disk
	d, err := cache.OpenDisk(cache.DiskConfig{
		Dir: t.TempDir(), Layout: fx, MaxBytes: 10 * block.Size,
		EvictReserved: func(_ int64, idle time.Duration) int64 {
			freed := held[true]
			held[true] = 0
			if idle == 0 {
				freed += held[false]
				held[false] = 0
			}
			d.Release(freed)
			return freed
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := d.Reserve(6 * block.Size); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("more than half of the cache: %v", err)
	}
	reserve := func(idle bool, blocks int64) {
		t.Helper()
		if err := d.Reserve(blocks * block.Size); err != nil {
			t.Fatal(err)
		}
		held[idle] += blocks * block.Size
	}
	put := func(first, end uint32) {
		t.Helper()
		for i := first; i < end; i++ {
			k := block.Key{Layer: layer.ID, Index: i}
			if err := d.Put(t.Context(), k, layer.Data[k.Offset():min(k.Offset()+block.Size, int64(len(layer.Data)))]); err != nil {
				t.Fatal(err)
			}
		}
	}
	cached := func() (n int) {
		for i := range block.Count(int64(len(layer.Data))) {
			if d.Has(block.Key{Layer: layer.ID, Index: i}) {
				n++
			}
		}
		return n
	}
	// What is idle goes before any block.
	reserve(true, 4)
	reserve(false, 4)
	put(0, 4)
	if held[true] != 0 || held[false] == 0 || cached() != 4 || d.Usage().Bytes > 10*block.Size {
		t.Errorf("%v bytes of others and %d blocks in %d bytes", held, cached(), d.Usage().Bytes)
	}
	// What is in use goes after all blocks.
	reserve(false, 5)
	if held[false] != 9*block.Size || cached() > 1 {
		t.Errorf("%v bytes of others and %d blocks", held, cached())
	}
	reserve(false, 3)
	if held[false] != 3*block.Size || d.Usage().Bytes != 3*block.Size {
		t.Errorf("%v bytes of others in %d bytes", held, d.Usage().Bytes)
	}
}
