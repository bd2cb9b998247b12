package cache_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/test/require"
)

func put(t *testing.T, fx *blocktest.Fixture, s block.Store, keys ...block.Key) {
	t.Helper()
	for _, k := range keys {
		if err := s.Put(t.Context(), k, fx.Content(k)); err != nil {
			t.Fatalf("put of block %s: %v", k, err)
		}
	}
}

// long is a fixture of one layer of n extents.
func long(n int) *blocktest.Fixture {
	return blocktest.New(blocktest.Layer{Name: "long", Data: blocktest.Random(31, n*block.ExtentSize)})
}

// diskBytes returns what the data file of a layer takes on disk.
func diskBytes(t *testing.T, dir string, layer block.Digest) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(dir, "layers", layer.Hex(), "data"), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestDiskIsBounded(t *testing.T) {
	fx := long(8)
	r := fx.Largest().Range()
	dir := t.TempDir()
	reg := prometheus.NewRegistry()
	const maxBytes = 4 * block.ExtentSize
	d := openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx, MaxBytes: maxBytes, Registerer: reg})
	for i := range r.Count {
		put(t, fx, d, r.Key(i))
		// The first extent is used all the time and stays.
		if _, err := blocktest.Fetch(t.Context(), t, fx, d, block.Range{Layer: r.Layer, Count: 1}); err != nil {
			t.Fatalf("after %d blocks: %v", i, err)
		}
		if u := d.Usage(); u.Bytes > maxBytes || u.MaxBytes != maxBytes {
			t.Fatalf("after %d blocks the cache holds %d bytes of %d", i, u.Bytes, u.MaxBytes)
		}
		if n := diskBytes(t, dir, r.Layer); n > maxBytes+64<<10 {
			t.Fatalf("after %d blocks the file takes %d bytes of %d", i, n, maxBytes)
		}
	}
	if d.Has(r.Key(block.ExtentBlocks)) || !d.Has(r.Key(r.Count-1)) {
		t.Error("the extent used first is there, or the last one is not")
	}
	if n := counter(reg, "brisk_cache_disk_evicted_blocks_total"); n < 4*block.ExtentBlocks {
		t.Errorf("%v blocks evicted", n)
	}
	usage, ok := d.LayerUsage(r.Layer)
	if !ok || usage.Bytes != d.Usage().Bytes || usage.Cached*block.Size != uint32(usage.Bytes) || usage.Blocks != r.Count {
		t.Errorf("layer usage is %+v", usage)
	}
}

// TestDiskEvictsUnderReaders evicts blocks all the time while readers read them
// both ways. They may miss blocks but must not see a hole.
func TestDiskEvictsUnderReaders(t *testing.T) {
	fx := long(4)
	r := fx.Largest().Range()
	d := openDisk(t, cache.DiskConfig{Dir: t.TempDir(), Layout: fx, MaxBytes: 2 * block.ExtentSize, CommitInterval: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	var writers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(w)))
			for range 600 {
				k := r.Key(random.Uint32N(r.Count))
				if err := d.Put(t.Context(), k, fx.Content(k)); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	for w := range 2 {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(2, uint64(w)))
			p := make([]byte, 1<<20)
			hits := 0
			for ctx.Err() == nil {
				off, n := random.Int64N(int64(r.Count)*block.Size-int64(len(p))), 1+random.IntN(len(p))
				got, err := d.ReadAt(r.Layer, p[:n], off)
				if err == nil {
					hits++
					if !bytes.Equal(p[:got], fx.Largest().Data[off:off+int64(n)]) {
						t.Errorf("read of %d bytes at %d is wrong", n, off)
					}
				} else if !errors.Is(err, block.ErrNotFound) {
					t.Error(err)
				}
				one := block.Range{Layer: r.Layer, First: random.Uint32N(r.Count), Count: 1}
				if _, err := blocktest.Fetch(t.Context(), t, fx, d, one); err != nil && !errors.Is(err, block.ErrNotFound) {
					t.Error(err)
				}
			}
			if hits == 0 {
				t.Error("no read ever hit")
			}
		})
	}
	writers.Wait()
	cancel()
	wg.Wait()
}

func TestDiskReadAt(t *testing.T) {
	fx := blocktest.Standard()
	l := fx.Layers()[3] // several blocks and a tail
	d := openDisk(t, cache.DiskConfig{Dir: t.TempDir(), Layout: fx})
	size := int64(len(l.Data))
	for i := range l.Range().Count {
		if i != 2 {
			put(t, fx, d, l.Range().Key(i))
		}
	}
	for _, test := range []struct {
		name  string
		off   int64
		n     int
		want  int
		found bool
	}{
		{"nothing", 5, 0, 0, true},
		{"first byte", 0, 1, 1, true},
		{"inside a block", 100, 4096, 4096, true},
		{"across blocks", block.Size - 10, 20, 20, true},
		{"two blocks", 0, 2 * block.Size, 2 * block.Size, true},
		{"into the missing block", 2*block.Size - 1, 2, 0, false},
		{"in the missing block", 2*block.Size + 5, 2, 0, false},
		{"over the missing block", block.Size, 3 * block.Size, 0, false},
		{"up to the end", size - 10, 10, 10, true},
		{"past the end", size - 10, 100, 10, true},
		{"at the end", size, 10, 0, true},
		{"far past the end", size + 1<<40, 10, 0, true},
		{"before the start", -1, 10, 0, false},
	} {
		p := make([]byte, test.n)
		n, err := d.ReadAt(l.ID, p, test.off)
		if n != test.want || test.found != (err == nil) || err != nil && !errors.Is(err, block.ErrNotFound) {
			t.Errorf("%s: %d bytes, error %v; want %d, found %t", test.name, n, err, test.want, test.found)
		} else if n > 0 && !bytes.Equal(p[:n], l.Data[test.off:test.off+int64(n)]) {
			t.Errorf("%s: wrong bytes", test.name)
		}
	}
	if _, err := d.ReadAt(block.Digest{}, make([]byte, 1), 0); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("unknown layer: %v", err)
	}
	if err := d.ReleasePages(l.ID, 0, size); err != nil {
		t.Error(err)
	}
}

func TestDiskRefusesBadBlocks(t *testing.T) {
	fx := blocktest.Standard()
	d := openDisk(t, cache.DiskConfig{Dir: t.TempDir(), Layout: fx})
	r := fx.Largest().Range()
	for name, err := range map[string]error{
		"short":         d.Put(t.Context(), r.Key(0), []byte("short")),
		"past the end":  d.Put(t.Context(), r.Key(r.Count), nil),
		"unknown layer": d.Put(t.Context(), block.Key{}, nil),
	} {
		if err == nil {
			t.Errorf("%s block was taken", name)
		}
	}
	if d.Usage().Bytes != 0 {
		t.Errorf("usage is %+v", d.Usage())
	}
}

func TestDiskRemove(t *testing.T) {
	fx := blocktest.Standard()
	dir := t.TempDir()
	d := openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx})
	fill(t, d, fx)
	before := d.Usage()
	l := fx.Largest()
	if err := d.Remove(l.ID); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(l.ID); err != nil {
		t.Errorf("removed again: %v", err)
	}
	after := d.Usage()
	if after.Bytes != before.Bytes-int64(len(l.Data)) || after.Layers != before.Layers-1 || d.Has(l.Range().Key(0)) {
		t.Errorf("usage was %+v and is %+v", before, after)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "layers"))
	if err != nil || len(entries) != after.Layers || len(d.Layers()) != after.Layers {
		t.Errorf("%d directories, error %v", len(entries), err)
	}
	fill(t, d, fx)
	if _, err := blocktest.Fetch(t.Context(), t, fx, d, l.Range()); err != nil || !d.Complete(l.ID) {
		t.Errorf("cached again: %v", err)
	}
}

// TestDiskRemovesUnderLoad removes a layer while it is written, read and committed.
func TestDiskRemovesUnderLoad(t *testing.T) {
	fx := long(1)
	r := fx.Largest().Range()
	cfg := cache.DiskConfig{Dir: t.TempDir(), Layout: fx, MaxBytes: block.ExtentSize / 2}
	d, err := cache.OpenDisk(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := uint32(w); ctx.Err() == nil; i++ {
				k := r.Key(i % r.Count)
				// The layer may be removed under the put, and takes room until that is done;
				// that is all that may go wrong.
				if err := d.Put(t.Context(), k, fx.Content(k)); err != nil && !strings.Contains(err.Error(), "removed") &&
					!errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.ENOSPC) {
					t.Error(err)
				}
				if _, err := blocktest.Fetch(t.Context(), t, fx, d, r); err != nil && !errors.Is(err, block.ErrNotFound) {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := d.Commit(); err != nil {
				t.Error(err)
			}
		}
	})
	for range 50 {
		<-time.After(time.Millisecond)
		if err := d.Remove(r.Layer); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	if u, _ := d.LayerUsage(r.Layer); u.Bytes != d.Usage().Bytes {
		t.Errorf("layer has %d bytes, the cache %d", u.Bytes, d.Usage().Bytes)
	}
	if err := d.Abandon(); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, cfg)
	if _, err := blocktest.Fetch(t.Context(), t, fx, d, r); err != nil && !errors.Is(err, block.ErrNotFound) {
		t.Error(err)
	}
}

func TestDiskFull(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	fx := long(4)
	r := fx.Largest().Range()
	d := openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx}) // no bound but the disk
	full, stored := 0, 0
	for i := range r.Count {
		if i%8 == 0 {
			if err := d.Commit(); err != nil && !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
		}
		switch err := d.Put(t.Context(), r.Key(i), fx.Content(r.Key(i))); {
		case err == nil:
			stored++
		case errors.Is(err, syscall.ENOSPC):
			full++
		default:
			t.Fatal(err)
		}
		if _, err := blocktest.Fetch(t.Context(), t, fx, d, r); !errors.Is(err, block.ErrNotFound) {
			t.Fatal(err)
		}
	}
	t.Logf("of %d blocks %d were stored, %d met a full disk", r.Count, stored, full)
	if full == 0 || stored < int(r.Count)/2 {
		t.Error("a full disk must be met, and room be made again")
	}
}

// TestDiskRunCommits checks that written blocks become durable in time.
func TestDiskRunCommits(t *testing.T) {
	fx := blocktest.Standard()
	cfg := cache.DiskConfig{Dir: t.TempDir(), Layout: fx, CommitInterval: time.Minute}
	synctest.Test(t, func(t *testing.T) {
		d, err := cache.OpenDisk(cfg)
		if err != nil {
			t.Fatal(err)
		}
		flushed := make(chan string, 10)
		d.SetHook(func(point string) {
			if point == "flushed" {
				flushed <- point
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		put(t, fx, d, fx.Largest().Range().Key(0))
		<-time.After(59 * time.Second)
		if len(flushed) != 0 {
			t.Error("committed too early")
		}
		<-time.After(2 * time.Second)
		<-flushed
		put(t, fx, d, fx.Largest().Range().Key(1))
		cancel()
		wg.Wait()
		<-flushed
		if err := d.Abandon(); err != nil {
			t.Fatal(err)
		}
	})
	d := openDisk(t, cfg)
	if !d.Has(fx.Largest().Range().Key(0)) || !d.Has(fx.Largest().Range().Key(1)) {
		t.Error("committed blocks are gone")
	}
}
