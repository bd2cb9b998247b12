package stream_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// TestFillReadsAheadForWhoReadsEverything checks that a program which reads all of an image, its files in an
// order of their own, is done sooner with the fill than without it.
func TestFillReadsAheadForWhoReadsEverything(t *testing.T) {
	t.Parallel()
	fx := blocktest.New(blocktest.Layer{Name: "a", Data: blocktest.Random(1, 100<<20)})
	lazy, auto := readEverything(t, fx, false), readEverything(t, fx, true)
	t.Logf("%s without the fill, %s with it", lazy, auto)
	if auto > lazy*6/10 {
		t.Errorf("%s with the fill, %s without", auto, lazy)
	}
}

// readEverything reads a layer over a link of about 1 Gbit/s and 10 ms, and returns how long that takes.
func readEverything(t *testing.T, fx *blocktest.Fixture, fills bool) (took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		kept := newKeeper(newSlowLink(fx, 10*time.Millisecond, 600*time.Microsecond))
		r := newReader(t, stream.Config{Source: kept, Local: kept, ReadAhead: -1})
		image := open(r, fx.Layers()[0])
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		if fills {
			wg.Go(func() { _ = r.NewFiller([]*stream.Layer{image}, stream.FillConfig{}).Run(ctx) }) //nolint:errcheck // it is cancelled
		}
		const file = 64 << 10
		order := rand.New(rand.NewPCG(1, 1))
		begun := time.Now()
		for extent := int64(0); extent < image.Size(); extent += block.ExtentSize {
			for _, i := range order.Perm(block.ExtentSize / file) {
				off, buf := extent+int64(i)*file, make([]byte, file)
				if !image.ReadLocal(buf, off) {
					if err := image.Fetch(t.Context(), buf, off); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		took = time.Since(begun)
		cancel()
		wg.Wait()
	})
	return took
}
