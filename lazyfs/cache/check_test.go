package cache_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

// flip inverts one byte of a block in the data file of a layer.
func flip(t *testing.T, dir string, k block.Key) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "layers", k.Layer.Hex(), "data"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], k.Offset()+77)
	b[0] ^= 0xff
	if err == nil {
		_, err = f.WriteAt(b[:], k.Offset()+77)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// restartWith fills a cache, stops it cleanly, calls between and opens it again.
func restartWith(t *testing.T, fx *blocktest.Fixture, cfg cache.DiskConfig, between func(dir string)) *cache.Disk {
	t.Helper()
	cfg.Dir, cfg.Layout = t.TempDir(), fx
	d, err := cache.OpenDisk(cfg)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, d, fx)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	between(cfg.Dir)
	return openDisk(t, cfg)
}

// Peers are served by Fetch: it must not deliver what has changed on the disk since a
// clean stop.
func TestFetchHashesOnceAfterCleanStop(t *testing.T) {
	fx := long(2)
	r := fx.Largest().Range()
	bad := r.Key(3)
	var reported []cache.CorruptBlock
	d := restartWith(t, fx, cache.DiskConfig{OnCorrupt: func(c cache.CorruptBlock) { reported = append(reported, c) }},
		func(dir string) { flip(t, dir, bad) })
	got, err := blocktest.Fetch(t.Context(), t, fx, d, r) // fails on wrong bytes
	if !errors.Is(err, block.ErrNotFound) || len(got) != int(r.Count)-1 || got[bad] {
		t.Errorf("%d blocks of %d, error %v", len(got), r.Count, err)
	}
	if len(reported) != 1 || reported[0] != (cache.CorruptBlock{Key: bad, BitRot: true}) {
		t.Errorf("reported %+v", reported)
	}
	put(t, fx, d, bad)
	if _, err := blocktest.Fetch(t.Context(), t, fx, d, r); err != nil {
		t.Errorf("after it was written again: %v", err)
	}
}

func TestCheckReadsTheDisk(t *testing.T) {
	fx := blocktest.Standard()
	for _, l := range fx.Layers() {
		if len(l.Data) == 0 {
			continue
		}
		last := block.Key{Layer: l.ID, Index: block.Count(int64(len(l.Data))) - 1}
		var reported []cache.CorruptBlock
		d := restartWith(t, fx, cache.DiskConfig{OnCorrupt: func(c cache.CorruptBlock) { reported = append(reported, c) }}, func(string) {})
		buf := cache.NewCheckBuffer()
		verdict, data, err := d.Check(last, buf)
		if verdict != cache.BlockValid || err != nil || block.Sum(data) != block.Sum(fx.Content(last)) {
			t.Errorf("layer %q: verdict %d, error %v", l.Name, verdict, err)
		}
		if len(data) < 78 {
			continue
		}
		flip(t, d.Dir(), last)
		if verdict, _, err := d.Check(last, buf); verdict != cache.BlockCorrupt || err != nil || d.Has(last) || len(reported) != 1 {
			t.Errorf("layer %q: verdict %d, error %v, reported %v", l.Name, verdict, err, reported)
		}
		if verdict, _, err := d.Check(last, buf); verdict != cache.BlockAbsent || err != nil {
			t.Errorf("layer %q: verdict %d, error %v", l.Name, verdict, err)
		}
	}
}

// A layer is read back once more before a mount reads its file without the cache.
func TestPinReadsBack(t *testing.T) {
	fx := long(2)
	l := fx.Largest()
	bad := l.Range().Key(5)
	var complete []block.Digest
	dir := t.TempDir()
	d := openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx, OnComplete: func(id block.Digest) { complete = append(complete, id) }})
	fill(t, d, fx)
	if len(complete) != 1 || complete[0] != l.ID {
		t.Errorf("told of complete layers %v", complete)
	}
	flip(t, dir, bad)
	if _, _, err := d.Pin(l.ID); !errors.Is(err, block.ErrNotFound) {
		t.Fatalf("a layer with a wrong block is pinned, error %v", err)
	}
	if d.Has(bad) || d.Proven(l.ID) {
		t.Error("the wrong block is still there")
	}
	put(t, fx, d, bad)
	_, release, err := d.Pin(l.ID)
	if err != nil || !d.Proven(l.ID) {
		t.Fatalf("pinning the mended layer: %v", err)
	}
	release()
}

// What was read back is known to the next process, which need not do it again.
func TestReadBackIsRemembered(t *testing.T) {
	fx := long(2)
	l := fx.Largest()
	cfg := cache.DiskConfig{Dir: t.TempDir(), Layout: fx}
	for i, want := range []bool{false, true} {
		d, err := cache.OpenDisk(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			fill(t, d, fx)
		}
		if d.Proven(l.ID) != want {
			t.Errorf("start %d: read back is %t", i, !want)
		}
		_, release, err := d.Pin(l.ID)
		if err != nil {
			t.Fatal(err)
		}
		release()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// The file of a mount is mended in place: it never has a hole.
func TestPinnedBlockIsMendedInPlace(t *testing.T) {
	fx := long(1)
	l := fx.Largest()
	bad := l.Range().Key(2)
	var reported []cache.CorruptBlock
	dir := t.TempDir()
	d := openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx, OnCorrupt: func(c cache.CorruptBlock) { reported = append(reported, c) }})
	fill(t, d, fx)
	path, release, err := d.Pin(l.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	flip(t, dir, bad)
	buf := cache.NewCheckBuffer()
	if verdict, _, err := d.Check(bad, buf); verdict != cache.BlockCorrupt || err != nil || len(reported) != 1 || !reported[0].DirectlyMounted {
		t.Errorf("verdict %d, error %v, reported %v", verdict, err, reported)
	}
	if diskBytes(t, dir, l.ID) < int64(len(l.Data)) {
		t.Error("the file of a mounted layer has a hole")
	}
	put(t, fx, d, bad)
	if verdict, _, err := d.Check(bad, buf); verdict != cache.BlockValid || err != nil {
		t.Errorf("after mending: verdict %d, error %v", verdict, err)
	}
	content, err := os.ReadFile(path)
	if err != nil || block.Sum(content) != block.Sum(l.Data) {
		t.Errorf("the file is wrong, error %v", err)
	}
}
