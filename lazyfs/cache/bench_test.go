package cache_test

import (
	"fmt"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

func benchFetch(b *testing.B, fx *blocktest.Fixture, s block.Store) {
	b.Helper()
	r := fx.Largest().Range()
	sink := func(block.Key, []byte) error { return nil }
	b.SetBytes(block.Size)
	b.ReportAllocs()
	i := uint32(0)
	for b.Loop() {
		req := block.Request{Range: block.Range{Layer: r.Layer, First: i % r.Count, Count: 1}}
		if err := s.Fetch(b.Context(), req, sink); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

func BenchmarkMemoryFetch(b *testing.B) {
	fx := long(4)
	m, err := cache.NewMemory(cache.MemoryConfig{MaxBytes: 1 << 30})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, m, fx)
	benchFetch(b, fx, m)
}

func BenchmarkDiskFetch(b *testing.B) {
	fx := long(4)
	d := openDisk(b, cache.DiskConfig{Dir: b.TempDir(), Layout: fx})
	fill(b, d, fx)
	benchFetch(b, fx, d)
}

func BenchmarkDiskReadAt(b *testing.B) {
	fx := long(4)
	d := openDisk(b, cache.DiskConfig{Dir: b.TempDir(), Layout: fx})
	fill(b, d, fx)
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			p := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			off, end := int64(0), int64(len(fx.Largest().Data)-size)
			for b.Loop() {
				if _, err := d.ReadAt(fx.Largest().ID, p, off); err != nil {
					b.Fatal(err)
				}
				if off += int64(size); off > end {
					off = 0
				}
			}
		})
	}
}

func BenchmarkDiskPut(b *testing.B) {
	fx := long(16)
	r := fx.Largest().Range()
	d := openDisk(b, cache.DiskConfig{Dir: b.TempDir(), Layout: fx, MaxBytes: 8 * block.ExtentSize})
	b.SetBytes(block.Size)
	b.ReportAllocs()
	i := uint32(0)
	for b.Loop() {
		k := r.Key(i % r.Count)
		if err := d.Put(b.Context(), k, fx.Content(k)); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkCheck is what the scrubber does with each block.
func BenchmarkCheck(b *testing.B) {
	fx := long(16)
	d, err := cache.OpenDisk(cache.DiskConfig{Dir: b.TempDir(), Layout: fx})
	if err != nil {
		b.Fatal(err)
	}
	r := fx.Largest().Range()
	for i := range r.Count {
		if err := d.Put(b.Context(), r.Key(i), fx.Content(r.Key(i))); err != nil {
			b.Fatal(err)
		}
	}
	buf := cache.NewCheckBuffer()
	b.SetBytes(block.Size)
	for i := 0; b.Loop(); i++ {
		if verdict, _, err := d.Check(r.Key(uint32(i)%r.Count), buf); verdict != cache.BlockValid || err != nil {
			b.Fatal(verdict, err)
		}
	}
	if err := d.Close(); err != nil {
		b.Fatal(err)
	}
}
