package stream

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// fillQuiet is how long no read may have waited before fill goes on: about the
	// time a program takes between two reads that belong together.
	fillQuiet = 20 * time.Millisecond
	// fillHold is how long fill stands back at most, so that a program that waits
	// all the time, one small read after the other, cannot stop it for good.
	fillHold = time.Second
	// fillCalm is how long no read may have waited before requests grow from one
	// extent to calmExtents: longer requests decode fewer frames twice, shorter ones
	// are out of the way sooner.
	fillCalm    = time.Second
	calmExtents = 4
	// firstFillPause and lastFillPause bound the pauses after a failed request.
	firstFillPause = 500 * time.Millisecond
	lastFillPause  = 30 * time.Second
)

// FillConfig configures a [Filler].
type FillConfig struct {
	// Parallel is the number of requests in flight; zero means 1: requests that
	// follow each other share the frame in which one ends and the next begins, and
	// the source splits long ones itself.
	Parallel int
	// BytesPerSecond limits the rate; zero means no limit.
	BytesPerSecond int64
}

// Filler fetches what is missing of a set of layers in the background: first the
// extents where reads have waited, then the layers from first to last. Each block
// is asked for once; blocks evicted meanwhile stay evicted.
type Filler struct {
	reader  *Reader
	layers  []*Layer
	cfg     FillConfig
	limiter *rate.Limiter
	done    atomic.Int64

	mu     sync.Mutex
	cursor []uint32          // next extent of each layer, guarded by mu
	taken  []map[uint32]bool // extents out of order of each layer, guarded by mu
}

// NewFiller returns a filler of layers, all of this reader.
func (r *Reader) NewFiller(layers []*Layer, cfg FillConfig) *Filler {
	if cfg.Parallel <= 0 {
		cfg.Parallel = 1
	}
	f := &Filler{reader: r, layers: layers, cfg: cfg, cursor: make([]uint32, len(layers))}
	for range layers {
		f.taken = append(f.taken, make(map[uint32]bool))
	}
	if cfg.BytesPerSecond > 0 {
		f.limiter = rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), calmExtents*block.ExtentSize)
	}
	return f
}

// Run fetches until everything has been asked for with success, then returns nil,
// or until ctx ends, then returns its error.
func (f *Filler) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range f.cfg.Parallel {
		g.Go(func() error {
			for {
				want, ok := f.next()
				if !ok {
					return nil
				}
				if err := f.fetch(ctx, want); err != nil {
					return err
				}
				f.done.Add(int64(want.Count))
			}
		})
	}
	return g.Wait()
}

// Blocks returns how many blocks have been dealt with, and of how many.
func (f *Filler) Blocks() (done, total int64) {
	for _, l := range f.layers {
		total += int64(block.Count(l.size))
	}
	return f.done.Load(), total
}

// fetch brings one range in, however often it takes.
func (f *Filler) fetch(ctx context.Context, want block.Range) error {
	for pause := firstFillPause; ; pause = min(2*pause, lastFillPause) {
		if err := f.reader.load.wait(ctx, fillQuiet, fillHold); err != nil {
			return err
		}
		if f.limiter != nil {
			n := min(int(want.Count)*block.Size, f.limiter.Burst())
			if err := f.limiter.WaitN(ctx, n); err != nil {
				return err
			}
		}
		if f.reader.background(ctx, block.Request{Range: want, Class: block.ClassFill}) {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// next chooses what to fetch.
func (f *Filler) next() (block.Range, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.layers {
		for {
			extent, ok := f.layers[i].takeHot()
			if !ok {
				break
			}
			if extent >= f.cursor[i] && !f.taken[i][extent] {
				f.taken[i][extent] = true
				return f.extents(i, extent, extent+1), true
			}
		}
	}
	most := uint32(1)
	if f.reader.load.quietFor() > fillCalm {
		most = calmExtents
	}
	for i, l := range f.layers {
		last := (block.Count(l.size) + block.ExtentBlocks - 1) / block.ExtentBlocks
		for f.cursor[i] < last && f.taken[i][f.cursor[i]] {
			f.cursor[i]++
		}
		first, end := f.cursor[i], f.cursor[i]
		for end < last && end-first < most && !f.taken[i][end] {
			end++
		}
		if end > first {
			f.cursor[i] = end
			return f.extents(i, first, end), true
		}
	}
	return block.Range{}, false
}

// extents returns the blocks of the extents [first, end) of a layer.
func (f *Filler) extents(i int, first, end uint32) block.Range {
	to := min(end*block.ExtentBlocks, block.Count(f.layers[i].size))
	return block.Range{Layer: f.layers[i].id, First: first * block.ExtentBlocks, Count: to - first*block.ExtentBlocks}
}
