package source_test

import (
	"context"
	"sync"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
)

// addresses returns where the blocks lie that a fetch gets, by their keys. They must be right.
func addresses(t *testing.T, fx *blocktest.Fixture, s block.Source, r block.Range) map[block.Key]*byte {
	t.Helper()
	got := make(map[block.Key]*byte)
	err := s.Fetch(t.Context(), block.Request{Range: r}, func(k block.Key, data []byte) error {
		if block.Sum(data) != digest(t, fx, k) {
			t.Errorf("block %s is wrong", k)
		}
		got[k] = &data[0]
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return got
}

func digest(t *testing.T, fx *blocktest.Fixture, k block.Key) block.Digest {
	t.Helper()
	d, ok := fx.BlockDigest(k)
	if !ok {
		t.Fatalf("no digest of block %s", k)
	}
	return d
}

// TestSingleFlightLendsBuffers checks that a block which two shared fetches pass on, one above the other,
// is copied once: the upper one hands out the bytes of the lower one, which stay as they are for as long as somebody
// uses them.
func TestSingleFlightLendsBuffers(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	below := make(map[block.Key]*byte)
	lower := source.NewSingleFlight(blocktest.NewSource(fx), source.SingleFlightConfig{})
	between := sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
		return lower.Fetch(ctx, req, func(k block.Key, data []byte) error {
			below[k] = &data[0]
			return sink(k, data)
		})
	})
	upper := source.NewSingleFlight(between, source.SingleFlightConfig{})
	got := addresses(t, fx, upper, r)
	for i := range r.Count {
		if k := r.Key(i); got[k] == nil || got[k] != below[k] {
			t.Errorf("block %s was copied again", k)
		}
	}
}

// TestSingleFlightLendsToMany checks that all who share fetches on two levels get the right bytes, while buffers are
// used again for other blocks.
func TestSingleFlightLendsToMany(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	lower := source.NewSingleFlight(blocktest.NewSource(fx), source.SingleFlightConfig{})
	copying := sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
		return lower.Fetch(ctx, req, func(k block.Key, data []byte) error {
			if k.Index%3 == 0 { // what lies between may copy
				data = append([]byte(nil), data...)
			}
			return sink(k, data)
		})
	})
	upper := source.NewSingleFlight(copying, source.SingleFlightConfig{Window: 4})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				addresses(t, fx, upper, r)
				addresses(t, fx, lower, r)
			}
		})
	}
	wg.Wait()
}
