package cache_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/test/require"
)

// many is a fixture of n layers of one block each.
func many(n int) *blocktest.Fixture {
	var layers []blocktest.Layer
	for i := range n {
		layers = append(layers, blocktest.Layer{Name: fmt.Sprintf("layer %d", i), Data: blocktest.Random(byte(i), 1000+i)})
	}
	return blocktest.New(layers...)
}

// inodes counts the files and directories of the layers of a cache.
func inodes(t *testing.T, dir string) (n int) {
	t.Helper()
	root := filepath.Join(dir, "layers")
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if path != root {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDiskInodesAreBounded(t *testing.T) {
	const most = 10
	fx := many(4 * most)
	dir := t.TempDir()
	d := openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx, MaxFiles: most * cache.LayerFiles})
	first, second := fx.Layers()[0].Range(), fx.Layers()[1].Range()
	put(t, fx, d, first.Key(0), second.Key(0))
	_, release, err := d.Pin(second.Layer)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for i, l := range fx.Layers()[2:] {
		put(t, fx, d, l.Range().Key(0))
		if _, err := blocktest.Fetch(t.Context(), t, fx, d, first); err != nil {
			t.Fatalf("the layer that is used all the time, after %d layers: %v", i, err)
		}
		if err := d.Commit(); err != nil {
			t.Fatal(err)
		}
		if n := inodes(t, dir); n > most*cache.LayerFiles {
			t.Fatalf("%d inodes after %d layers", n, i)
		}
	}
	if !d.Has(second.Key(0)) {
		t.Error("a pinned layer was evicted")
	}
	if last := fx.Layers()[4*most-1].Range(); !d.Has(last.Key(0)) || d.Has(fx.Layers()[2].Range().Key(0)) {
		t.Error("the last layer is not there, or the one used least recently is")
	}
}

// TestDiskAllLayersPinned meets a cache of which no layer can go.
func TestDiskAllLayersPinned(t *testing.T) {
	fx := many(2)
	d := openDisk(t, cache.DiskConfig{Dir: t.TempDir(), Layout: fx, MaxFiles: cache.LayerFiles})
	one, other := fx.Layers()[0].Range(), fx.Layers()[1].Range()
	put(t, fx, d, one.Key(0))
	d.PinSet("set", one)
	if err := d.Put(t.Context(), other.Key(0), fx.Content(other.Key(0))); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("put into a cache whose only layer is pinned: %v", err)
	}
	d.PinSet("set")
	put(t, fx, d, other.Key(0))
}

// TestDiskLeavesRoom fills the disk with other things than the cache.
func TestDiskLeavesRoom(t *testing.T) {
	require.Root(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	free := func() int64 {
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bavail) * st.Bsize
	}
	const floor = 24 << 20
	fx := long(12)
	r := fx.Largest().Range()
	d := openDisk(t, cache.DiskConfig{Dir: filepath.Join(dir, "cache"), Layout: fx, MinFree: floor})
	for i := range r.Count {
		put(t, fx, d, r.Key(i))
		if n := free(); n < floor {
			t.Fatalf("after %d blocks %d bytes are free", i, n)
		}
	}
	if used := d.Usage().Bytes; used < 24<<20 {
		t.Errorf("the cache keeps %d bytes where there is room for 40 MiB", used)
	}
	// Somebody else takes what the cache has and more: it gives way down to nothing.
	taken := filepath.Join(dir, "other")
	if err := os.WriteFile(taken, bytes.Repeat([]byte("x"), int(free())), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), r.Key(0), fx.Content(r.Key(0))); err != nil {
		t.Errorf("where room can be made: %v", err)
	}
	if n := free(); n < floor {
		t.Errorf("%d bytes are free", n)
	}
	if err := os.WriteFile(taken+"2", bytes.Repeat([]byte("x"), int(free())), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), r.Key(1), fx.Content(r.Key(1))); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("where no room can be made: %v", err)
	}
	if used := d.Usage().Bytes; used != 0 {
		t.Errorf("the cache keeps %d bytes of a full disk", used)
	}
}

// TestDiskRemembersUse restarts a cache: what was used last before stays last to go.
func TestDiskRemembersUse(t *testing.T) {
	for _, clean := range []bool{true, false} {
		t.Run(fmt.Sprintf("clean=%v", clean), func(t *testing.T) {
			fx := long(4)
			r := fx.Largest().Range()
			dir := t.TempDir()
			d, err := cache.OpenDisk(cache.DiskConfig{Dir: dir, Layout: fx})
			if err != nil {
				t.Fatal(err)
			}
			for i := range r.Count {
				put(t, fx, d, r.Key(i))
			}
			extent := func(i uint32) block.Range {
				return block.Range{Layer: r.Layer, First: i * block.ExtentBlocks, Count: block.ExtentBlocks}
			}
			for _, i := range []uint32{2, 0} {
				if _, err := blocktest.Fetch(t.Context(), t, fx, d, extent(i)); err != nil {
					t.Fatal(err)
				}
			}
			if clean {
				err = d.Close()
			} else {
				d.SaveRecency()
				err = errors.Join(d.Commit(), d.Abandon())
			}
			if err != nil {
				t.Fatal(err)
			}
			again := openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx, MaxBytes: 3 * block.ExtentSize, HighWater: 0.7, LowWater: 0.7})
			again.EvictAhead()
			for i, want := range []bool{true, false, true, false} {
				if got := again.Has(extent(uint32(i)).Key(0)); got != want {
					t.Errorf("extent %d is there: %v, want %v", i, got, want)
				}
			}
		})
	}
}

// TestDiskForgetsUse starts with records of use that are none.
func TestDiskForgetsUse(t *testing.T) {
	fx := long(1)
	r := fx.Largest().Range()
	dir := t.TempDir()
	for _, content := range []string{"", "nonsense", "BRISKREC\x01\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00"} {
		d, err := cache.OpenDisk(cache.DiskConfig{Dir: dir, Layout: fx})
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		put(t, fx, d, r.Key(0))
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "recency"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDiskWaterMarks(t *testing.T) {
	for _, marks := range [][2]float64{{0.5, 0.6}, {1.1, 0.5}, {0.5, -1}} {
		_, err := cache.OpenDisk(cache.DiskConfig{Dir: t.TempDir(), Layout: long(1), HighWater: marks[0], LowWater: marks[1]})
		if err == nil {
			t.Errorf("marks %v were accepted", marks)
		}
	}
}

// sealed puts the checksum behind a record of what was used when.
func sealed(body []byte) []byte {
	return binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
}

func TestRecency(t *testing.T) {
	layer := block.Sum([]byte("layer"))
	one := append([]byte("BRISKREC\x01\x00\x00\x00\x01\x00\x00\x00"), layer[:]...)
	good := sealed(append(one, "\x01\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00"...))
	got, err := cache.DecodeRecency(good)
	if err != nil || !bytes.Equal(got, good) {
		t.Errorf("record decodes with error %v", err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if _, err := cache.DecodeRecency(bad); err == nil {
			t.Errorf("record with byte %d changed was accepted", i)
		}
		if _, err := cache.DecodeRecency(good[:i]); err == nil {
			t.Errorf("record cut at %d was accepted", i)
		}
	}
}

func FuzzRecency(f *testing.F) {
	f.Add([]byte("BRISKREC\x01\x00\x00\x00\x00\x00\x00\x00"))
	layer := block.Sum([]byte("layer"))
	one := append([]byte("BRISKREC\x01\x00\x00\x00\x01\x00\x00\x00"), layer[:]...)
	f.Add(append(one, "\x01\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00"...))
	f.Add(append(one, "\xff\xff\xff\xff"...))
	f.Fuzz(func(t *testing.T, body []byte) {
		if got, err := cache.DecodeRecency(sealed(body)); err == nil && len(got) != len(body)+4 {
			t.Errorf("record of %d bytes is one of %d bytes when encoded again", len(body)+4, len(got))
		}
	})
}
