package stream

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// headBlocks is how many blocks at the start of [FillConfig.Trace] have class
	// block.ClassHead: 8 MiB, which a program reads before it does anything that takes time.
	headBlocks = 32
	// prefetchAttempts is how often a range of the trace is requested before it is left to the
	// reads, and to the fill after it.
	prefetchAttempts = 5
)

// prefetchQueue is what is left of a trace. It is not safe for concurrent use.
type prefetchQueue struct {
	ranges []block.Range // each within a layer of the filler, none longer than an extent
	along  func(block.Range) block.Range
	held   func(block.Key) bool
	taken  uint32 // blocks that were requested
}

// newPrefetchQueue cuts the ranges of a trace, and drops those that are not of the layers.
func newPrefetchQueue(trace []block.Range, layers []*Layer, along func(block.Range) block.Range, held func(block.Key) bool) *prefetchQueue {
	q := &prefetchQueue{along: along, held: held}
	for _, r := range trace {
		i := slices.IndexFunc(layers, func(l *Layer) bool { return l.id == r.Layer })
		if i < 0 {
			continue
		}
		for end := min(r.End(), block.Count(layers[i].size)); r.First < end; {
			part := block.Range{Layer: r.Layer, First: r.First, Count: min(end-r.First, block.ExtentBlocks)}
			q.ranges = append(q.ranges, part)
			r.First += part.Count
		}
	}
	return q
}

// next returns the next request. What the trace has among its next blocks, as many as ahead, and
// what comes in the same frames or in those beside them, is a part of it: that makes one request
// of several, for no byte more.
func (q *prefetchQueue) next(ahead uint32) (block.Request, bool) {
	var req block.Request
	for req.Count == 0 {
		if len(q.ranges) == 0 {
			return req, false
		}
		req.Range = q.whole(q.ranges[0])
		q.ranges = q.ranges[1:]
	}
	if req.Class = block.ClassTail; q.taken < headBlocks {
		req.Class = block.ClassHead
	}
	for q.joinOne(&req.Range, ahead) {
	}
	q.taken += req.Count
	return req, true
}

// joinOne adds to a range what can be added of the next blocks, and reports whether it found
// something.
func (q *prefetchQueue) joinOne(to *block.Range, ahead uint32) bool {
	seen := uint32(0)
	for i, other := range q.ranges {
		if seen += other.Count; seen > ahead {
			return false
		}
		if other.Layer != to.Layer {
			continue
		}
		if all, ok := q.join(*to, other); ok {
			*to = all
			q.ranges = slices.Delete(q.ranges, i, i+1)
			return true
		}
	}
	return false
}

// join returns both ranges as one if that is no longer than an extent and there is nothing
// between them. A block that reaches from one frame into the next one comes with both.
func (q *prefetchQueue) join(a, b block.Range) (block.Range, bool) {
	if b = q.whole(b); b.Count == 0 {
		return block.Range{}, false
	}
	first, end := min(a.First, b.First), max(a.End(), b.End())
	between := int64(end-first) - int64(a.Count) - int64(b.Count)
	if between > 0 && (q.along == nil || between > 1) || end-first > block.ExtentBlocks {
		return block.Range{}, false
	}
	return block.Range{Layer: a.Layer, First: first, Count: end - first}, true
}

// whole returns what is missing of a range with what comes along with it.
func (q *prefetchQueue) whole(r block.Range) block.Range {
	for q.held != nil && r.Count > 0 && q.held(r.Key(0)) {
		r.First, r.Count = r.First+1, r.Count-1
	}
	for q.held != nil && r.Count > 0 && q.held(r.Key(r.Count-1)) {
		r.Count--
	}
	if q.along == nil || r.Count == 0 {
		return r
	}
	all := q.along(r)
	if all.Layer != r.Layer || all.First > r.First || all.End() < r.End() || all.Count > block.ExtentBlocks {
		return r
	}
	return all
}

// Prefetch fetches the ranges of [FillConfig.Trace] and returns when they are local, or when
// what is not is left to the fill after several attempts. It may run at the same time as Run and
// RunWorker. It has as many bytes in flight as the rate and the delay that it sees make worth it;
// fillers that prefetch at the same time share that.
func (f *Filler) Prefetch(ctx context.Context) error {
	f.lane.enter()
	defer f.lane.leave()
	defer f.reader.starts.load(f.start)()
	g, running := errgroup.WithContext(ctx)
	for {
		req, ok := f.nextPrefetch()
		if !ok {
			break
		}
		n := int(req.Count) * block.Size
		if err := f.lane.acquire(running, n); err != nil {
			break // the context has ended
		}
		g.Go(func() error {
			left := n
			defer func() { f.lane.release(left) }()
			return f.fetch(running, req, prefetchAttempts, func(arrived int) {
				arrived = min(arrived, left)
				left -= arrived
				f.lane.arrived(arrived)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil || !f.cfg.Predicted {
		return err
	}
	f.reader.starts.forget(f.start)
	return nil
}

// leaveTrace gives up what is left of the trace: the start reads other things.
func (f *Filler) leaveTrace() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.prefetchQueue.ranges = nil
}

// nextPrefetch returns the next request of the trace.
func (f *Filler) nextPrefetch() (block.Request, bool) {
	ahead := f.reader.flows.ahead()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.prefetchQueue.next(ahead)
}
