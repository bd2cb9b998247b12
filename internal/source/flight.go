package source

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// flight is one fetch of the source below. Its fields are guarded by
// SingleFlight.mu but req, asked, owner and cancel, which do not change, and lent.
type flight struct {
	req     block.Request
	asked   block.Range // the part of req that its owner wants
	owner   *waiter     // the request that started it
	cancel  context.CancelCauseFunc
	left    uint32          // blocks of asked that it has not delivered
	next    uint32          // the block after the one that it delivered last,
	moved   time.Time       // which was then
	waiters map[*waiter]int // how many blocks of the flight each waits for

	lent atomic.Pointer[loan] // what a SingleFlight below is passing on to this flight
}

// nearLocked reports whether the flight is about to deliver a block.
func (f *flight) nearLocked(s *SingleFlight, k block.Key) bool {
	return k.Index >= f.next && k.Index-f.next < s.cfg.JoinDistance && time.Since(f.moved) < s.cfg.HedgeDelay
}

// slot is a block in flight. Every waiter of a slot is counted as a waiter of each
// flight of the slot.
type slot struct {
	flights map[*flight]bool
	class   block.Class // of the most urgent flight
	waiters map[*waiter]struct{}
}

func (sl *slot) nearLocked(s *SingleFlight, k block.Key) bool {
	for f := range sl.flights {
		if f.nearLocked(s, k) {
			return true
		}
	}
	return false
}

// keeperLocked returns the request that takes what comes along, nil for none.
func (f *flight) keeperLocked(s *SingleFlight) *waiter {
	if s.cfg.ExpandToFrames != nil && !f.owner.gone {
		return f.owner
	}
	for w := range f.waiters {
		return w
	}
	return nil
}

// errAbandoned is the cause of the end of a fetch that nobody waits for.
var errAbandoned = errors.New("no request waits for the blocks any more")

// leaveLocked takes back that w waits for a block of the flight. When nobody waits
// for the flight any more it is ended, unless it has delivered what it was asked
// for: then it may finish, for the sake of what comes along and of its connection.
func (f *flight) leaveLocked(s *SingleFlight, w *waiter) {
	if f.waiters[w]--; f.waiters[w] > 0 {
		return
	}
	delete(f.waiters, w)
	if len(f.waiters) > 0 || f.left == 0 {
		return
	}
	f.cancel(errAbandoned)
	for i := range f.req.Count {
		k := f.req.Key(i)
		if sl := s.slots[k]; sl != nil && sl.flights[f] {
			delete(sl.flights, f)
			if len(sl.flights) == 0 {
				delete(s.slots, k) // nobody waits for it, or the flight would have a waiter
			}
		}
	}
}

// queued is a block that waits for the sink of one request.
type queued struct {
	k block.Key
	b *buffer
}

// waiter is one request. Its queue and what it waits for are guarded by
// SingleFlight.mu; the delivery belongs to the goroutine of the request.
type waiter struct {
	*delivery
	s     *SingleFlight
	class block.Class
	wake  chan struct{} // holds a token when there is something to do

	queue   []queued
	pending map[block.Key]*slot
	owned   int         // flights it started that run on for what comes along
	gone    bool        // does not take anything any more
	again   []block.Key // to be fetched once more by this request
	retried map[block.Key]bool
	err     error
}

// fetch passes the blocks of one window to the sink.
func (w *waiter) fetch(ctx context.Context, window block.Range) error {
	defer w.leave()
	w.pending = make(map[block.Key]*slot, window.Count)
	w.gone = false
	w.retried = nil
	w.err = nil
	w.claim(ctx, w.unseen(window))
	patience := time.NewTimer(w.s.cfg.HedgeDelay)
	defer patience.Stop()
	for {
		items, again, waiting := w.dequeue()
		if err := w.drain(ctx, items); err != nil {
			return err
		}
		if len(again) > 0 {
			w.claim(ctx, again)
			patience.Reset(w.s.cfg.HedgeDelay)
			continue
		}
		if !waiting {
			return w.err
		}
		select {
		case <-w.wake:
		case <-patience.C:
			if w.overtake(ctx) {
				patience.Reset(w.s.cfg.HedgeDelay)
			}
		case <-ctx.Done():
			return &block.Error{Source: "shared fetch", Op: "waiting for", Range: window, Err: context.Cause(ctx)}
		}
	}
}

func (w *waiter) unseen(window block.Range) []block.Key {
	keys := make([]block.Key, 0, window.Count)
	for i := range window.Count {
		if k := window.Key(i); !w.seen(k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// claim joins the flights of those of the keys that are in flight and starts
// flights for the others.
func (w *waiter) claim(ctx context.Context, keys []block.Key) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var runs []block.Range
	for _, k := range keys {
		sl := s.slots[k]
		if sl == nil {
			sl = &slot{flights: make(map[*flight]bool, 1), class: w.class, waiters: make(map[*waiter]struct{}, 1)}
			s.slots[k] = sl
			runs = appendRun(runs, k, 1)
		} else {
			s.shared.Inc()
			for f := range sl.flights {
				f.waiters[w]++
			}
		}
		sl.waiters[w] = struct{}{}
		w.pending[k] = sl
	}
	for _, run := range runs {
		w.startLocked(ctx, run)
	}
}

// overtake starts flights for the blocks that only less urgent requests fetch, and
// reports whether it has left some of them to those requests.
func (w *waiter) overtake(ctx context.Context) (left bool) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []block.Key
	for k, sl := range w.pending {
		switch {
		case sl.class <= w.class:
		case sl.nearLocked(s, k):
			left = true
		default:
			sl.class = w.class
			keys = append(keys, k)
		}
	}
	s.duplicates.Add(float64(len(keys)))
	slices.SortFunc(keys, func(a, b block.Key) int { return cmp.Compare(a.Index, b.Index) })
	var runs []block.Range
	for _, k := range keys {
		runs = appendRun(runs, k, 1)
	}
	for _, run := range runs {
		w.startLocked(ctx, run)
	}
	return left
}

// startLocked starts a flight for the blocks of run, whose slots there are.
func (w *waiter) startLocked(ctx context.Context, run block.Range) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	if w.s.cfg.ExpandToFrames != nil {
		w.owned++
	}
	f := &flight{
		req:     block.Request{Range: w.alongLocked(run), Class: w.class},
		asked:   run,
		owner:   w,
		cancel:  cancel,
		left:    run.Count,
		waiters: make(map[*waiter]int),
	}
	for i := range f.req.Count {
		sl := w.s.slots[f.req.Key(i)]
		sl.flights[f] = true
		for other := range sl.waiters {
			f.waiters[other]++
		}
	}
	go w.s.run(withUrgency(ctx, w.s, f), f)
}

// alongLocked returns run with the neighbours that come along with it, as far as
// nobody fetches them, and makes their slots.
func (w *waiter) alongLocked(run block.Range) block.Range {
	if w.s.cfg.ExpandToFrames == nil {
		return run
	}
	all := w.s.cfg.ExpandToFrames(run)
	if all.Layer != run.Layer || all.First > run.First || all.End() < run.End() || all.Count > w.s.cfg.Window {
		return run
	}
	claim := func(i uint32) bool {
		k := block.Key{Layer: run.Layer, Index: i}
		if w.s.slots[k] != nil {
			return false
		}
		w.s.slots[k] = &slot{flights: make(map[*flight]bool, 1), class: w.class, waiters: make(map[*waiter]struct{})}
		return true
	}
	first, end := run.First, run.End()
	for first > all.First && claim(first-1) {
		first--
	}
	for end < all.End() && claim(end) {
		end++
	}
	return block.Range{Layer: run.Layer, First: first, Count: end - first}
}

// dequeue empties the queues and returns them: blocks to pass on, blocks to fetch again, and
// whether more will come.
func (w *waiter) dequeue() (items []queued, again []block.Key, waiting bool) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	items, w.queue = w.queue, nil
	again, w.again = w.again, nil
	return items, again, len(w.pending) > 0 || w.owned > 0
}

// drain passes blocks to the sink until it or the context ends.
func (w *waiter) drain(ctx context.Context, items []queued) error {
	var err error
	for _, item := range items {
		if err == nil && ctx.Err() != nil {
			err = &block.Error{
				Source: "shared fetch", Op: "passing on",
				Range: block.Range{Layer: item.k.Layer, First: item.k.Index, Count: 1},
				Err:   context.Cause(ctx),
			}
		}
		if err == nil {
			err = lend(ctx, item.b, func() error { return w.pass(item.k, item.b.data) })
		}
		item.b.release()
	}
	return err
}

// leave gives up whatever the window is still waiting for.
func (w *waiter) leave() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	for _, sl := range w.pending {
		delete(sl.waiters, w)
		for f := range sl.flights {
			f.leaveLocked(w.s, w)
		}
	}
	w.pending = nil
	for _, item := range w.queue {
		item.b.release()
	}
	w.queue, w.again = nil, nil
	w.gone = true
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *waiter) pushLocked(k block.Key, b *buffer) {
	b.refs.Add(1)
	w.queue = append(w.queue, queued{k: k, b: b})
	w.signal()
}

// resolvedLocked notes that a block waited for has come.
func (w *waiter) resolvedLocked(k block.Key, sl *slot) {
	delete(w.pending, k)
	for f := range sl.flights {
		f.leaveLocked(w.s, w)
	}
}

// failedLocked notes that the last flight of a block waited for has failed.
func (w *waiter) failedLocked(k block.Key, f *flight, err error) {
	delete(w.pending, k)
	w.signal()
	if f.owner == w || w.retried[k] || errors.Is(err, block.ErrNotFound) {
		w.err = graver(w.err, err)
		return
	}
	if w.retried == nil {
		w.retried = make(map[block.Key]bool)
	}
	w.retried[k] = true
	w.again = append(w.again, k)
}
