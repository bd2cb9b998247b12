package cache_test

import (
	"errors"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

func TestMemoryIsBounded(t *testing.T) {
	fx := long(2)
	r := fx.Largest().Range()
	const room = 5
	m, err := cache.NewMemory(cache.MemoryConfig{MaxBytes: room * (block.Size + cache.EntryOverhead)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Count {
		put(t, fx, m, r.Key(i))
		if _, err := blocktest.Fetch(t.Context(), t, fx, m, block.Range{Layer: r.Layer, Count: 1}); err != nil {
			t.Fatalf("block in use was evicted: %v", err)
		}
		if want := int64(min(i+1, room)) * (block.Size + cache.EntryOverhead); m.Bytes() != want {
			t.Fatalf("%d bytes after %d blocks, want %d", m.Bytes(), i+1, want)
		}
	}
	if m.Has(r.Key(1)) || !m.Has(r.Key(r.Count-1)) {
		t.Error("the oldest block is there, or the newest is not")
	}
	tiny, err := cache.NewMemory(cache.MemoryConfig{MaxBytes: 10})
	if err != nil {
		t.Fatal(err)
	}
	put(t, fx, tiny, r.Key(0))
	if _, err := blocktest.Fetch(t.Context(), t, fx, tiny, r); !errors.Is(err, block.ErrNotFound) || tiny.Bytes() != 0 {
		t.Errorf("cache of 10 bytes: %v, holds %d bytes", err, tiny.Bytes())
	}
	if _, err := cache.NewMemory(cache.MemoryConfig{}); err == nil {
		t.Error("cache without a bound was made")
	}
}
