package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	defaultTimeout   = 30 * time.Second
	defaultReadAhead = 4 * block.ExtentSize
	// aheadWorkers bounds the read-ahead requests in flight. Four extents cover the
	// product of bandwidth and delay of a 10 Gbit/s link with 10 ms.
	aheadWorkers = 4
	// firstPause and lastPause bound the pauses between attempts of one read.
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
	// streamingCheck is how often a reader that waits past its time looks whether its layer
	// still gets on.
	streamingCheck = 500 * time.Millisecond
)

// ErrDeadline is the cause of a read that had to be given up.
var ErrDeadline = fmt.Errorf("deadline of the read passed: %w", block.ErrUnavailable)

// Local reads what the local cache holds. ReadAt fills p with the bytes of a layer
// stream from off on, or returns an error; [block.ErrNotFound] says that some of
// them are not there. It never waits for another machine.
type Local interface {
	ReadAt(layer block.Digest, p []byte, off int64) (int, error)
}

// ReadResult tells of a read that has ended.
type ReadResult struct {
	Layer          block.Digest
	Offset, Length int64
	Duration       time.Duration
	// Waited says that not all was in the local cache, Failed that it ended with an error.
	Waited, Failed bool
	// Pages says that the image has [Pages], and that the local cache did not have everything.
	Pages bool
}

// PageReleaser is implemented by local caches whose reads go through the page cache.
// ReleasePages tells the kernel that n bytes from off on will not be read again soon.
type PageReleaser interface {
	ReleasePages(layer block.Digest, off, n int64) error
}

// Config configures a [Reader].
type Config struct {
	// Source delivers the blocks that are not local. It is required.
	Source block.Source
	// Local is the local cache, nil if there is none. If it is a [block.Holder] as
	// well, read-ahead and fill skip what it holds.
	Local Local
	// Timeout is how long a reader may wait; zero means 30 s. A tenth of it is set
	// aside for the kernel, which repeats reads that fail.
	Timeout time.Duration
	// Streaming reports whether a layer is on its way from start to end, because it cannot
	// be read in parts, and gets on. Its readers wait past Timeout for as long as that is so:
	// whoever had pulled the image would wait for it, too. Nil means that none is.
	Streaming func(layer block.Digest) bool
	// ReadAhead is the most bytes that read-ahead keeps on their way for one
	// sequential reader; zero means 16 MiB, a negative value none.
	ReadAhead int64
	// ExpandToFrames returns which blocks come along at no cost when those of a range are fetched, such
	// as the rest of their frames; the range is among them. Nil means that none do.
	ExpandToFrames func(block.Range) block.Range
	// OnRead is called with the bytes of every read that the kernel asks for, in that order,
	// wherever they come from; nil if nobody wants to know. It must not wait.
	OnRead func(layer block.Digest, offset, length int64)
	// OnReadDone is called when such a read has ended; nil if nobody wants to know. It must
	// not wait.
	OnReadDone func(ReadResult)
	// Logger receives what goes wrong in the background; nil discards it.
	Logger *slog.Logger
	// Registerer receives the metrics; nil means none.
	Registerer prometheus.Registerer
}

// Reader reads layer streams. Create it with [New].
type Reader struct {
	cfg     Config
	holder  block.Holder // cfg.Local if it is one, else nil
	pages   PageReleaser // cfg.Local if it is one, else nil
	waiting waitCounter
	flows   *flows
	starts  *fillThrottle
	turns   *turns
	ahead   chan block.Range
	metrics *metrics

	fetchNanos atomic.Int64 // see fetchTime

	pagesOnce sync.Once // the first failure to release pages is logged, the others are the same
}

// New returns a reader. It starts nothing: read-ahead needs [Reader.Run].
func New(cfg Config) (*Reader, error) {
	if cfg.Source == nil {
		return nil, errors.New("creating a reader of layer streams: no source")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.ReadAhead == 0 {
		cfg.ReadAhead = defaultReadAhead
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Reader{cfg: cfg, flows: newFlows(), starts: newFillThrottle(), turns: newTurns(), ahead: make(chan block.Range, 2*aheadWorkers)}
	if h, ok := cfg.Local.(block.Holder); ok {
		r.holder = h
	}
	if p, ok := cfg.Local.(PageReleaser); ok {
		r.pages = p
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	r.metrics = m
	return r, nil
}

// Run fetches ahead of sequential reads until ctx ends. It returns nil.
func (r *Reader) Run(ctx context.Context) error {
	var g errgroup.Group
	for range aheadWorkers {
		g.Go(func() error {
			for {
				select {
				case <-ctx.Done():
					return nil
				case want := <-r.ahead:
					r.background(ctx, block.Request{Range: want, Class: block.ClassHead}, func(int) {})
				}
			}
		})
	}
	return g.Wait()
}

// Open returns a layer stream of size bytes. Pages may have parts of it beside the local
// cache; nil if there are none.
func (r *Reader) Open(id block.Digest, size int64, pages Pages) *Layer {
	return &Layer{reader: r, id: id, size: size, pages: pages}
}

// WaitingReads returns how many reads wait for blocks now.
func (r *Reader) WaitingReads() int { return r.waiting.count() }

// background fetches what is missing of req and reports whether it succeeded.
func (r *Reader) background(ctx context.Context, req block.Request, arrived func(n int)) bool {
	for part := range r.missing(req.Range) {
		fetched := 0
		var done func() // once it has a turn
		sink, ended := r.starts.measure(r.flows.measure(func(k block.Key, data []byte) error {
			if done == nil {
				done = r.TakeTurn(ctx)
			}
			if part.Contains(k) {
				fetched += len(data)
				arrived(len(data))
			}
			return nil
		}))
		err := r.cfg.Source.Fetch(ctx, block.Request{Range: part, Class: req.Class}, sink)
		ended()
		if done != nil {
			done()
		}
		r.metrics.background(req.Class, fetched)
		if err != nil {
			if ctx.Err() == nil {
				r.cfg.Logger.DebugContext(ctx, "fetching ahead of reads", "class", req.Class.String(), "error", err)
			}
			return false
		}
	}
	return true
}

// has returns how to ask whether the local cache holds a block, nil if it cannot be asked.
func (r *Reader) has() func(block.Key) bool {
	if r.holder == nil {
		return nil
	}
	return r.holder.Has
}

// lacks reports whether the local cache does not hold all of a range.
func (r *Reader) lacks(want block.Range) bool {
	for range r.missing(want) {
		return true
	}
	return false
}

// missing yields the parts of a range that the local cache does not hold.
func (r *Reader) missing(want block.Range) func(yield func(block.Range) bool) {
	return func(yield func(block.Range) bool) {
		if r.holder == nil {
			yield(want)
			return
		}
		part := block.Range{Layer: want.Layer}
		for i := range want.Count {
			k := want.Key(i)
			if !r.holder.Has(k) {
				if part.Count == 0 {
					part.First = k.Index
				}
				part.Count++
				continue
			}
			if part.Count > 0 && !yield(part) {
				return
			}
			part.Count = 0
		}
		if part.Count > 0 {
			yield(part)
		}
	}
}
