package cache_test

import (
	"bytes"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

func TestDiskPins(t *testing.T) {
	fx := blocktest.New(
		blocktest.Layer{Name: "one", Data: blocktest.Random(41, block.ExtentSize)},
		blocktest.Layer{Name: "two", Data: blocktest.Random(42, 4*block.ExtentSize)},
	)
	one, two := fx.Layers()[0].Range(), fx.Layers()[1].Range()
	cfg := cache.DiskConfig{Dir: t.TempDir(), Layout: fx, MaxBytes: 2 * block.ExtentSize}
	d, err := cache.OpenDisk(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Pin(one.Layer); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("pin of an unknown layer: %v", err)
	}
	for i := range one.Count {
		if d.Complete(one.Layer) {
			t.Errorf("layer is complete with %d blocks", i)
		}
		if _, _, err := d.Pin(one.Layer); !errors.Is(err, block.ErrNotFound) {
			t.Errorf("pin of a layer with %d blocks: %v", i, err)
		}
		put(t, fx, d, one.Key(i))
	}
	path, release, err := d.Pin(one.Layer)
	if err != nil || !d.Complete(one.Layer) {
		t.Fatalf("pin of a complete layer: %v", err)
	}
	defer release()
	if err := d.Remove(one.Layer); err == nil {
		t.Error("pinned layer was removed")
	}
	push := func() {
		for i := range two.Count {
			put(t, fx, d, two.Key(i))
		}
	}
	push()
	data, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(data, fx.Layers()[0].Data) {
		t.Errorf("file of a pinned layer is wrong after evictions (error %v)", err)
	}

	// The pin outlives the process.
	if err := d.Abandon(); err != nil {
		t.Fatal(err)
	}
	d = openDisk(t, cfg)
	push()
	if u, _ := d.LayerUsage(one.Layer); !u.Pinned || u.Cached != one.Count {
		t.Errorf("after a kill: %+v", u)
	}
	_, release, err = d.Pin(one.Layer)
	if err != nil {
		t.Fatal(err)
	}
	d.DropStalePins()
	push()
	if u, _ := d.LayerUsage(one.Layer); !u.Pinned || u.Cached != one.Count {
		t.Errorf("pinned again: %+v", u)
	}
	release()
	release() // does nothing
	push()
	if u, _ := d.LayerUsage(one.Layer); u.Pinned || u.Cached != 0 {
		t.Errorf("after the release: %+v", u)
	}
}

func TestDiskPinSets(t *testing.T) {
	fx := long(4)
	r := fx.Largest().Range()
	d := openDisk(t, cache.DiskConfig{Dir: t.TempDir(), Layout: fx, MaxBytes: block.ExtentSize})
	set := []block.Key{r.Key(1), r.Key(2), r.Key(17)}
	d.PinSet("image a", block.Range{Layer: r.Layer, First: 1, Count: 2}) // before there is a block
	put(t, fx, d, set...)
	d.PinSet("image b", block.Range{Layer: r.Layer, First: 2, Count: 1}, block.Range{Layer: r.Layer, First: 17, Count: 1})
	push := func() {
		for i := uint32(32); i < r.Count; i++ {
			put(t, fx, d, r.Key(i))
		}
	}
	check := func(when string, want ...bool) {
		t.Helper()
		push()
		for i, k := range set {
			if d.Has(k) != want[i] {
				t.Errorf("%s: block %s there: %t, want %t", when, k, !want[i], want[i])
			}
		}
	}
	check("both sets", true, true, true)
	d.PinSet("image a")
	check("second set", false, true, true)
	d.PinSet("image b", block.Range{Layer: r.Layer, Count: r.Count + 5})
	// Everything is pinned now: there is no room for more.
	var err error
	for i := uint32(0); i < r.Count && err == nil; i++ {
		err = d.Put(t.Context(), r.Key(i), fx.Content(r.Key(i)))
	}
	if !errors.Is(err, syscall.ENOSPC) || d.Usage().Bytes > block.ExtentSize {
		t.Errorf("put into a cache full of pinned blocks: %v, %d bytes", err, d.Usage().Bytes)
	}
	d.PinSet("image b")
	check("no set", false, false, false)
}
