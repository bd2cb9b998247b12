package stream

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// fillParallel is how many requests of an extent are in flight: at a gigabit and 10 ms
	// two of them are on their way while one is decoded, and one is spare.
	fillParallel = 4
	// firstFillPause and lastFillPause bound the pauses after a failed request.
	firstFillPause = 500 * time.Millisecond
	lastFillPause  = 30 * time.Second
)

// FillConfig configures a [Filler].
type FillConfig struct {
	// Parallel is the number of requests in flight, each of an extent; zero means 4.
	Parallel int
	// BytesPerSecond limits the rate; zero means no limit.
	BytesPerSecond int64
	// First is fetched before anything else, in this order and more urgently: the blocks
	// that a start reads. Ranges of other layers are left out.
	First []block.Range `json:"-"`
	// OnlyTrace leaves out everything else.
	OnlyTrace bool `json:"-"`
}

// headBlocks is how many blocks of [FillConfig.First] are fetched as the head of a trace,
// 8 MiB: those that a program needs before it has done anything that takes time.
const headBlocks = 32

// Filler fetches what is missing of a set of layers in the background. Each extent is
// asked for once, in this order: what [FillConfig.First] says; those where reads have waited, the last one first;
// then what follows the place where a read has waited last, to the end of its layer and
// from the start of it; then the other layers, the top one first: what an image was
// made for lies on top of what it was made from. Blocks evicted meanwhile stay evicted.
//
// A filler does not stand back when reads wait, for it would never end beside a program
// that reads all the time. The source has to serve block.ClassFill last.
type Filler struct {
	reader  *Reader
	layers  []*Layer
	cfg     FillConfig
	limiter *rate.Limiter
	done    atomic.Int64

	mu     sync.Mutex      // guards what follows
	first  []block.Request // to be asked for before all else
	rest   [][]bool        // of each layer, the extents that have not been asked for
	layer  int             // where to go on
	extent int
}

// NewFiller returns a filler of layers, all of this reader, the bottom one first.
func (r *Reader) NewFiller(layers []*Layer, cfg FillConfig) *Filler {
	if cfg.Parallel <= 0 {
		cfg.Parallel = fillParallel
	}
	f := &Filler{reader: r, layers: layers, cfg: cfg, layer: max(0, len(layers)-1)}
	for _, l := range layers {
		rest := make([]bool, (block.Count(l.size)+block.ExtentBlocks-1)/block.ExtentBlocks)
		for i := range rest {
			rest[i] = !cfg.OnlyTrace
		}
		f.rest = append(f.rest, rest)
	}
	f.first = f.requests(cfg.First)
	if cfg.BytesPerSecond > 0 {
		f.limiter = rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), block.ExtentSize)
	}
	return f
}

// Run fetches until everything has been asked for with success, then returns nil,
// or until ctx ends, then returns its error.
func (f *Filler) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range f.cfg.Parallel {
		g.Go(func() error { return f.RunWorker(ctx) })
	}
	return g.Wait()
}

// RunWorker is Run with a single request in flight. It may be called beside Run: each
// returns when what it has asked for has come and nothing is left to ask for.
func (f *Filler) RunWorker(ctx context.Context) error {
	if err := f.prefetch(ctx); err != nil {
		return err
	}
	for {
		want, ok := f.next()
		if !ok {
			return nil
		}
		if err := f.fetch(ctx, block.Request{Range: want, Class: block.ClassFill}); err != nil {
			return err
		}
		f.done.Add(int64(want.Count))
	}
}

// Prefetch fetches what [FillConfig.First] says, with all requests in flight, and returns
// when it is there. It may be called beside Run and RunWorker.
func (f *Filler) Prefetch(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range f.cfg.Parallel {
		g.Go(func() error { return f.prefetch(ctx) })
	}
	return g.Wait()
}

func (f *Filler) prefetch(ctx context.Context) error {
	for {
		req, ok := f.nextFirst()
		if !ok {
			return nil
		}
		if err := f.fetch(ctx, req); err != nil {
			return err
		}
	}
}

// requests cuts ranges into requests, none longer than an extent, and leaves out those that
// are not of the filler's layers.
func (f *Filler) requests(ranges []block.Range) []block.Request {
	var all []block.Request
	blocks := uint32(0)
	for _, r := range ranges {
		i := slices.IndexFunc(f.layers, func(l *Layer) bool { return l.id == r.Layer })
		if i < 0 {
			continue
		}
		for end := min(r.End(), block.Count(f.layers[i].size)); r.First < end; {
			req := block.Request{Range: block.Range{Layer: r.Layer, First: r.First}, Class: block.ClassTail}
			if req.Count = min(end-r.First, block.ExtentBlocks); blocks < headBlocks {
				req.Class, req.Count = block.ClassHead, min(req.Count, headBlocks-blocks)
			}
			all = append(all, req)
			blocks += req.Count
			r.First += req.Count
		}
	}
	return all
}

// nextFirst chooses what to fetch before all else.
func (f *Filler) nextFirst() (block.Request, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.first) == 0 {
		return block.Request{}, false
	}
	req := f.first[0]
	f.first = f.first[1:]
	return req, true
}

// Blocks returns how many blocks have been dealt with, and of how many.
func (f *Filler) Blocks() (done, total int64) {
	for _, l := range f.layers {
		total += int64(block.Count(l.size))
	}
	return f.done.Load(), total
}

// fetch brings one range in, however often it takes.
func (f *Filler) fetch(ctx context.Context, req block.Request) error {
	for pause := firstFillPause; ; pause = min(2*pause, lastFillPause) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.limiter != nil {
			n := min(int(req.Count)*block.Size, f.limiter.Burst())
			if err := f.limiter.WaitN(ctx, n); err != nil {
				return err
			}
		}
		if f.reader.background(ctx, req) {
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
			hot, ok := f.layers[i].nextRead()
			if !ok {
				break
			}
			f.layer, f.extent = i, int(hot)
			if f.rest[i][hot] {
				return f.takeLocked(i, int(hot)), true
			}
		}
	}
	// What it was made for first: the layer in which reads wait, then from the top down.
	if len(f.layers) == 0 {
		return block.Range{}, false
	}
	for n := range len(f.layers) + 1 {
		i := f.layer
		if n > 0 {
			i = len(f.layers) - n
		}
		start := 0
		if i == f.layer {
			start = f.extent
		}
		for k := range f.rest[i] {
			if extent := (start + k) % len(f.rest[i]); f.rest[i][extent] {
				f.layer, f.extent = i, extent
				return f.takeLocked(i, extent), true
			}
		}
	}
	return block.Range{}, false
}

// takeLocked returns the blocks of an extent, which is asked for now.
func (f *Filler) takeLocked(i, extent int) block.Range {
	f.rest[i][extent] = false
	first := uint32(extent) * block.ExtentBlocks
	count := min(block.ExtentBlocks, block.Count(f.layers[i].size)-first)
	return block.Range{Layer: f.layers[i].id, First: first, Count: count}
}
