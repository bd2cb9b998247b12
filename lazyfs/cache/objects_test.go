package cache_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

func TestObjects(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "objects")
	o, err := cache.OpenObjects(dir)
	if err != nil {
		t.Fatal(err)
	}
	data := blocktest.Random(51, 10000)
	d := block.Sum(data)
	if _, err := o.Get(d, 1<<20); !errors.Is(err, block.ErrNotFound) || o.Has(d) {
		t.Errorf("get from an empty store: %v", err)
	}
	if err := o.Put(d, data[1:]); !errors.Is(err, block.ErrCorrupt) || o.Has(d) {
		t.Errorf("put of wrong data: %v", err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := o.Put(d, data); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got, err := o.Get(d, int64(len(data)))
	if err != nil || block.Sum(got) != d || !o.Has(d) {
		t.Errorf("get: %v", err)
	}
	if _, err := o.Get(d, int64(len(data))-1); err == nil || errors.Is(err, block.ErrNotFound) {
		t.Errorf("get of an object beyond the limit: %v", err)
	}
	if raw, err := os.ReadFile(o.Path(d)); err != nil || block.Sum(raw) != d {
		t.Errorf("file of the object: %v", err)
	}

	// A damaged file is an absent object, and can be stored again.
	if err := os.WriteFile(o.Path(d), data[1:], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Get(d, 1<<20); !errors.Is(err, block.ErrNotFound) || o.Has(d) {
		t.Errorf("get of a damaged object: %v", err)
	}
	if err := o.Put(d, data); err != nil {
		t.Fatal(err)
	}

	other := block.Sum(data[:10])
	if err := o.Put(other, data[:10]); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dead writer.tmp", "somebody else's"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	left, err := o.Sweep(func(k block.Digest) bool { return k == other })
	entries, dirErr := os.ReadDir(dir)
	if err != nil || dirErr != nil || left != 10 || len(entries) != 2 || o.Has(d) || !o.Has(other) {
		t.Errorf("sweep left %d bytes in %d files, errors %v, %v", left, len(entries), err, dirErr)
	}
	if err := errors.Join(o.Remove(other), o.Remove(other)); err != nil || o.Has(other) {
		t.Errorf("remove: %v", err)
	}
}
