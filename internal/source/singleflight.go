package source

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// SingleFlightConfig configures [NewSingleFlight]. The zero value has the
// defaults.
type SingleFlightConfig struct {
	// Timeout is how long a shared fetch may take. Default 30 s.
	Timeout time.Duration
	// HedgeDelay is how long a request waits for a block that a less urgent request
	// is fetching, before it fetches the block itself. Default 50 ms: longer than an
	// idle link needs for a block, and short compared with a queue of background fill.
	HedgeDelay time.Duration
	// JoinDistance is the maximum distance, in blocks, from the last delivered block to the wanted
	// one for which the request continues to wait while blocks arrive within HedgeDelay of
	// each other. Fetching such a block twice would hardly be faster. Default 16, an extent.
	JoinDistance uint32
	// Window is the maximum number of blocks that a request has in flight. A longer
	// request is served window by window, so it never needs memory for more than Window
	// blocks. Default 64, 16 MiB.
	Window uint32
	// ExpandToFrames returns the range of all blocks in the frames of a range, which arrive at no
	// extra cost. They are fetched as well, so that a concurrent request for one of them
	// joins the fetch instead of starting another one for the same frames. The request that
	// started the fetch returns when the fetch has ended, so that it can store all of them.
	// At most Window blocks are added. Nil adds none.
	ExpandToFrames func(block.Range) block.Range
	// Name is the name in metrics. Required if Registerer is set.
	Name string
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

// SingleFlight is a source that fetches a block once from the source below
// however many requests want it at a time.
//
// A request starts fetches only for the blocks that nobody is fetching, waits for
// the others, and is passed each block as soon as it comes. A shared fetch has a
// context of its own: it ends with its timeout, or when nobody waits for it any
// more. A fetch that has delivered what it was asked for may finish on its own.
// Blocks that come along go to one request of the fetch if there still is one, and
// are dropped if not: so the store to keep them in belongs below, and before it
// once more for what it holds already:
//
//	shared := NewSingleFlight(Fill(store, upstream, FillConfig{}), SingleFlightConfig{})
//	all := Chain(Tier{Name: "store", Source: store}, Tier{Name: "upstream", Source: shared})
//
// A request that waits for a less urgent one, such as a read for background fill,
// fetches its missing blocks itself after [SingleFlightConfig.HedgeDelay], unless they
// are about to come; whichever comes first is passed on. So a block is fetched at most once for each class at
// a time. A request whose block failed in a fetch that it had only joined tries
// once more, unless the block was not found.
//
// Each block is copied once, whatever the number of requests, and not at all if it comes from another
// SingleFlight below.
type SingleFlight struct {
	src block.Source
	cfg SingleFlightConfig

	buffers sync.Pool // of *buffer, free ones

	shared     prometheus.Counter
	duplicates prometheus.Counter

	mu    sync.Mutex // guards the fields below, and all state of flights, slots and waiters
	slots map[block.Key]*slot
}

// NewSingleFlight returns a SingleFlight in front of src.
func NewSingleFlight(src block.Source, cfg SingleFlightConfig) *SingleFlight {
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.HedgeDelay <= 0 {
		cfg.HedgeDelay = 50 * time.Millisecond
	}
	if cfg.Window == 0 {
		cfg.Window = 64
	}
	if cfg.JoinDistance == 0 {
		cfg.JoinDistance = block.ExtentBlocks
	}
	metrics := promauto.With(cfg.Registerer)
	return &SingleFlight{
		src:   src,
		cfg:   cfg,
		slots: make(map[block.Key]*slot),
		shared: metrics.NewCounter(prometheus.CounterOpts{
			Name:        "brisk_source_shared_blocks_total",
			Help:        "Blocks that a request did not fetch because another request was fetching them.",
			ConstLabels: prometheus.Labels{"flight": cfg.Name},
		}),
		duplicates: metrics.NewCounter(prometheus.CounterOpts{
			Name:        "brisk_source_duplicate_blocks_total",
			Help:        "Blocks that a request fetched although a less urgent request was fetching them.",
			ConstLabels: prometheus.Labels{"flight": cfg.Name},
		}),
	}
}

// Fetch implements [block.Source].
func (s *SingleFlight) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	w := &waiter{
		s: s, delivery: newDelivery(req.Range, sink), class: req.Class,
		wake: make(chan struct{}, 1),
	}
	var worst error
	for rest := req; rest.Count > 0; {
		if ctx.Err() != nil {
			return &block.Error{Source: "shared fetch", Op: "waiting for", Range: rest.Range, Err: context.Cause(ctx)}
		}
		window := rest.Range
		window.Count = min(window.Count, s.cfg.Window)
		rest.First, rest.Count = rest.First+window.Count, rest.Count-window.Count
		before := w.passed
		err := w.fetch(ctx, window)
		if err != nil && w.passed == before && errors.Is(err, block.ErrNotFound) {
			// Most likely past the end of the stream, with up to four billion blocks to
			// go: nothing there is worth sharing.
			worst = graver(worst, graver(err, s.src.Fetch(ctx, rest, w.pass)))
			rest.Count = 0
		} else {
			worst = graver(worst, err)
		}
		switch {
		case w.sinkErr != nil:
			return w.sinkErr
		case ctx.Err() != nil && worst != nil:
			return ended(ctx, worst)
		case worst != nil && !errors.Is(worst, block.ErrNotFound):
			return worst
		}
	}
	return worst
}

// run fetches the blocks of f and hands them out.
func (s *SingleFlight) run(ctx context.Context, f *flight) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout,
		fmt.Errorf("not complete within %s: %w", s.cfg.Timeout, block.ErrUnavailable))
	defer cancel()
	defer f.cancel(nil)
	err := s.src.Fetch(ctx, f.req, func(k block.Key, data []byte) error {
		s.deliver(f, k, data)
		return nil
	})
	if err != nil && ctx.Err() != nil {
		err = ended(ctx, err)
	}
	s.finish(f, err)
}

// deliver hands a block out to all that wait for it.
func (s *SingleFlight) deliver(f *flight, k block.Key, data []byte) {
	b := f.borrow(data)
	if b == nil {
		b = s.copied(data)
	}
	defer b.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := f.req.Contains(k)
	if f.asked.Contains(k) && f.left > 0 {
		f.left--
	}
	f.next, f.moved = k.Index+1, time.Now()
	if sl := s.slots[k]; sl != nil && len(sl.waiters) > 0 {
		delete(s.slots, k)
		for w := range sl.waiters {
			w.resolvedLocked(k, sl)
			w.pushLocked(k, b)
		}
	} else {
		if sl != nil && mine {
			delete(s.slots, k)
		}
		if w := f.keeperLocked(s); w != nil {
			w.pushLocked(k, b)
		}
	}
}

// finish fails what f has not delivered and nobody else is fetching.
func (s *SingleFlight) finish(f *flight, err error) {
	if err == nil {
		err = block.ErrNotFound // for blocks that the source has left out
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cfg.ExpandToFrames != nil {
		f.owner.owned--
		f.owner.signal()
	}
	for i := range f.req.Count {
		k := f.req.Key(i)
		sl := s.slots[k]
		if sl == nil || !sl.flights[f] {
			continue
		}
		delete(sl.flights, f)
		for w := range sl.waiters {
			f.leaveLocked(s, w)
		}
		if len(sl.flights) > 0 {
			continue
		}
		delete(s.slots, k)
		for w := range sl.waiters {
			w.failedLocked(k, f, err)
		}
	}
}
