package cache_test

import (
	"bytes"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

func FuzzRecord(f *testing.F) {
	layer := block.Sum([]byte("layer"))
	f.Add(cache.EncodeRecord(layer, 0, nil, nil))
	f.Add(cache.EncodeRecord(layer, 1, []uint64{1}, []uint64{0}))
	f.Add(cache.EncodeRecord(layer, 100*block.Size, []uint64{1<<63 + 5, 7}, []uint64{5, 7}))
	f.Add(cache.EncodeRecord(layer, 1<<44, []uint64{1}, []uint64{1})) // promises more than it has
	f.Add(cache.EncodeRecord(layer, -1, []uint64{1}, []uint64{1}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := cache.DecodeRecord(data, layer); err == nil && len(got) != len(data) {
			t.Errorf("record of %d bytes is one of %d bytes when encoded again", len(data), len(got))
		}
	})
}

func TestRecord(t *testing.T) {
	layer := block.Sum([]byte("layer"))
	good := cache.EncodeRecord(layer, 100*block.Size, []uint64{1<<63 + 5, 7}, []uint64{5, 7})
	got, err := cache.DecodeRecord(good, layer)
	if err != nil || !bytes.Equal(got, good) {
		t.Errorf("record decodes with error %v", err)
	}
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x40
		if _, err := cache.DecodeRecord(bad, layer); err == nil {
			t.Errorf("record with byte %d changed was accepted", i)
		}
		if _, err := cache.DecodeRecord(good[:i], layer); err == nil {
			t.Errorf("record cut at %d was accepted", i)
		}
	}
	for name, bad := range map[string][]byte{
		"too short for its size": cache.EncodeRecord(layer, 1<<44, []uint64{1}, []uint64{1}),
		"negative size":          cache.EncodeRecord(layer, -1, nil, nil),
		"blocks past the end":    cache.EncodeRecord(layer, 3*block.Size, []uint64{8}, []uint64{0}),
		"other layer":            cache.EncodeRecord(block.Digest{}, 0, nil, nil),
	} {
		if _, err := cache.DecodeRecord(bad, layer); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
