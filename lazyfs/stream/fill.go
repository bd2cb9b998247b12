package stream

import (
	"context"
	"errors"
	"math"
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
	// Parallel is the number of requests of the fill in flight, each of an extent; zero means 4.
	Parallel int
	// BytesPerSecond limits the rate; zero means no limit.
	BytesPerSecond int64
	// Trace is the start-up trace: it is fetched before anything else, in this order, at a
	// higher priority. Ranges of layers that the filler does not have are ignored.
	Trace []block.Range `json:"-"`
	// StartReads is what the start of the image reads as far as that is known: First, and what
	// comes some other way, such as in a bundle. Nil is First.
	StartReads []block.Range `json:"-"`
	// Predicted says that First is not known from starts, so that it has only a part of what a start
	// reads: once it is there, the fill may work beside the start as if none were known.
	Predicted bool `json:"-"`
	// WaitFor, if set, is closed when what goes before the fill has been loaded; the fill waits
	// for it.
	WaitFor <-chan struct{} `json:"-"`
	// OnlyTrace stops the filler after First.
	OnlyTrace bool `json:"-"`
}

// Filler fetches the missing blocks of a set of layers in the background. It requests each
// extent once, in this order:
//
//  1. the ranges of [FillConfig.Trace];
//  2. extents where a read has waited, the most recent one first;
//  3. the extents after the last of those, to the end of its layer, then from its start;
//  4. the other layers from the top down, because the program of an image is usually in its
//     upper layers.
//
// Blocks that are evicted meanwhile are not fetched again.
//
// After the trace it stands back while images start, see starts. It does not pause for other
// reads: beside a program that reads all the time it would never finish. The source must
// serve block.ClassFill last.
type Filler struct {
	reader  *Reader
	layers  []*Layer
	cfg     FillConfig
	limiter *rate.Limiter
	lane    *lane
	start   *activeStart
	done    atomic.Int64

	mu            sync.Mutex     // guards the fields below
	prefetchQueue *prefetchQueue // what is still to be requested of the trace
	unrequested   [][]bool       // by layer and extent: not requested yet
	layer, extent int            // where the next search starts
}

// NewFiller returns a filler of layers, all of this reader, the bottom one first.
func (r *Reader) NewFiller(layers []*Layer, cfg FillConfig) *Filler {
	if cfg.Parallel <= 0 {
		cfg.Parallel = fillParallel
	}
	f := &Filler{reader: r, layers: layers, cfg: cfg, lane: &lane{flows: r.flows}, layer: max(0, len(layers)-1)}
	for _, l := range layers {
		extents := make([]bool, (block.Count(l.size)+block.ExtentBlocks-1)/block.ExtentBlocks)
		for i := range extents {
			extents[i] = !cfg.OnlyTrace
		}
		f.unrequested = append(f.unrequested, extents)
	}
	known := cfg.StartReads
	if known == nil {
		known = cfg.Trace
	}
	f.start = r.starts.begin(layers, known, !cfg.OnlyTrace, f.leaveTrace)
	f.prefetchQueue = newPrefetchQueue(cfg.Trace, layers, r.cfg.ExpandToFrames, r.has())
	if cfg.BytesPerSecond > 0 {
		f.limiter = rate.NewLimiter(rate.Limit(cfg.BytesPerSecond), block.ExtentSize)
	}
	return f
}

// Run fetches until every request has succeeded and returns nil, or until ctx ends and
// returns its error.
func (f *Filler) Run(ctx context.Context) error {
	f.reader.starts.mounted(f.start)
	if err := f.Prefetch(ctx); err != nil {
		return err
	}
	if err := f.await(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for range f.cfg.Parallel {
		g.Go(func() error { return f.fill(ctx) })
	}
	return g.Wait()
}

// RunWorker is Run with a single request of the fill in flight. It may run at the same time as Run: each
// returns when its own requests have succeeded and no request is left.
func (f *Filler) RunWorker(ctx context.Context) error {
	if err := f.Prefetch(ctx); err != nil {
		return err
	}
	if err := f.await(ctx); err != nil {
		return err
	}
	return f.fill(ctx)
}

// await waits for what goes before the fill.
func (f *Filler) await(ctx context.Context) error {
	if f.cfg.WaitFor == nil {
		return nil
	}
	select {
	case <-f.cfg.WaitFor:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fill fetches one extent after the other until none is left.
func (f *Filler) fill(ctx context.Context) error {
	for {
		want, ok := f.next()
		if !ok {
			return nil
		}
		if err := f.fillRange(ctx, want); err != nil {
			return err
		}
	}
}

// fillRange fetches a range in as many requests as it takes for reads not to be held up.
func (f *Filler) fillRange(ctx context.Context, want block.Range) error {
	for yielded := 0; want.Count > 0; {
		n, err := f.reader.starts.acquire(ctx, int(want.Count)*block.Size, func() bool { return f.reader.lacks(want) })
		if err != nil {
			return err
		}
		if n == 0 { // reads have brought all of it
			f.done.Add(int64(want.Count))
			return nil
		}
		part := block.Range{Layer: want.Layer, First: want.First, Count: uint32(n / block.Size)}
		err = f.fillPart(ctx, part, yielded >= yieldMost)
		switch {
		case errors.Is(err, errYield):
			yielded++
			f.reader.starts.rest(ctx)
			continue
		case err != nil:
			return err
		}
		f.done.Add(int64(part.Count))
		want.First, want.Count, yielded = part.End(), want.Count-part.Count, 0
	}
	return nil
}

// fillPart fetches what acquire has allowed. The error is [errYield] if a read needs the link, for
// which a request that stays has no regard.
func (f *Filler) fillPart(ctx context.Context, part block.Range, stays bool) error {
	starts := f.reader.starts
	n := int(part.Count) * block.Size
	defer starts.release(n)
	sending, request := starts.send(ctx, n, stays)
	defer starts.end(request)
	err := f.fetch(sending, block.Request{Range: part, Class: block.ClassFill}, math.MaxInt, func(n int) { starts.arrived(request, n) })
	if err != nil && ctx.Err() == nil {
		return context.Cause(sending)
	}
	return err
}

// Blocks returns how many blocks have been fetched by requests of the fill, and how many the
// layers have.
func (f *Filler) Blocks() (done, total int64) {
	for _, l := range f.layers {
		total += int64(block.Count(l.size))
	}
	return f.done.Load(), total
}

// fetch sends a request, and repeats it until it succeeds, it was sent as often as attempts
// says, or ctx ends. It tells arrived of the bytes that have come.
func (f *Filler) fetch(ctx context.Context, req block.Request, attempts int, arrived func(n int)) error {
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
		if attempts--; f.reader.background(ctx, req, arrived) || attempts == 0 {
			return ctx.Err()
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

// next chooses the next extent to fetch.
func (f *Filler) next() (block.Range, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.layers {
		for {
			extent, ok := f.layers[i].popRecentRead()
			if !ok {
				break
			}
			f.layer, f.extent = i, int(extent)
			if f.unrequested[i][extent] {
				return f.markRequestedLocked(i, int(extent)), true
			}
		}
	}
	// The layer in which reads have waited comes first, then the others from the top down.
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
		for k := range f.unrequested[i] {
			if extent := (start + k) % len(f.unrequested[i]); f.unrequested[i][extent] {
				f.layer, f.extent = i, extent
				return f.markRequestedLocked(i, extent), true
			}
		}
	}
	return block.Range{}, false
}

// markRequestedLocked marks an extent as requested and returns its blocks.
func (f *Filler) markRequestedLocked(i, extent int) block.Range {
	f.unrequested[i][extent] = false
	first := uint32(extent) * block.ExtentBlocks
	count := min(block.ExtentBlocks, block.Count(f.layers[i].size)-first)
	return block.Range{Layer: f.layers[i].id, First: first, Count: count}
}
