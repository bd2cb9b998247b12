package stream_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// TestStartsReadNeighbours checks that the extent of a block that a start waits for is fetched where the
// link carries it in little time and it does not come along anyway. After a start nothing is fetched for a read but its
// block.
func TestStartsReadNeighbours(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 100<<20)})
	layer := fx.Layers()[0]
	extent := func(r block.Range) block.Range {
		return block.Range{Layer: r.Layer, First: r.First - r.First%block.ExtentBlocks, Count: block.ExtentBlocks}
	}
	for name, test := range map[string]struct {
		perBlock time.Duration
		along    func(block.Range) block.Range
		starts   bool
		lazy     bool
		brings   bool
	}{
		"fast":              {500 * time.Microsecond, nil, true, false, true},
		"slow":              {25 * time.Millisecond, nil, true, false, false},
		"fast, come anyway": {500 * time.Microsecond, extent, true, false, false},
		"no start":          {500 * time.Microsecond, nil, false, false, false},
		"only what is read": {500 * time.Microsecond, nil, true, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				kept := newKeeper(newSlowLink(fx, 10*time.Millisecond, test.perBlock))
				r := newReader(t, stream.Config{Source: kept, Local: kept, ExpandToFrames: test.along})
				image := open(r, layer)
				if test.starts {
					r.NewFiller([]*stream.Layer{image}, stream.FillConfig{OnlyTrace: test.lazy})
				}
				ctx, cancel := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				wg.Go(func() {
					if err := r.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				buf := make([]byte, 4096)
				const last = 20 // by then it is known what the link carries
				for i := range int64(last + 1) {
					off := (i*block.ExtentBlocks + 5) * block.Size
					if err := image.Fetch(t.Context(), buf, off); err != nil {
						t.Fatal(err)
					}
					<-time.After(100 * time.Millisecond)
				}
				for _, i := range []uint32{0, 4, 6, 15} {
					if has := kept.Has(block.Key{Layer: layer.ID, Index: last*block.ExtentBlocks + i}); has != test.brings {
						t.Errorf("block %d of the extent was fetched: %v", i, has)
					}
				}
				cancel()
				wg.Wait()
			})
		})
	}
}
