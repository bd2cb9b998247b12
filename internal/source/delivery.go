package source

import (
	"github.com/brisk-project/brisk/internal/block"
)

// tracker remembers which blocks one fetch has passed to its sink, so that no
// block is passed twice and only missing ones are asked for again. Its memory
// grows with what is delivered, not with what is asked for: a range may be far
// longer than the layer stream.
type tracker struct {
	asked block.Range
	bits  []uint64               // bit i: block i of asked
	extra map[block.Key]struct{} // blocks not asked for
}

// first reports whether k has not been seen before, and remembers it.
func (t *tracker) first(k block.Key) bool {
	if t.seen(k) {
		return false
	}
	if !t.asked.Contains(k) {
		if t.extra == nil {
			t.extra = make(map[block.Key]struct{})
		}
		t.extra[k] = struct{}{}
		return true
	}
	i := k.Index - t.asked.First
	for int(i/64) >= len(t.bits) {
		t.bits = append(t.bits, 0)
	}
	t.bits[i/64] |= 1 << (i % 64)
	return true
}

// seen reports whether k has been seen.
func (t *tracker) seen(k block.Key) bool {
	if !t.asked.Contains(k) {
		_, ok := t.extra[k]
		return ok
	}
	i := k.Index - t.asked.First
	return int(i/64) < len(t.bits) && t.bits[i/64]&(1<<(i%64)) != 0
}

// missing returns the blocks of r, a part of the range asked for, that have not
// been seen, as ranges as long as possible, in order.
func (t *tracker) missing(r block.Range) []block.Range {
	var runs []block.Range
	known := uint64(len(t.bits)) * 64 // everything from here on is missing
	for i := uint64(0); i < uint64(r.Count); i++ {
		at := uint64(r.First-t.asked.First) + i
		k := block.Key{Layer: r.Layer, Index: r.First + uint32(i)}
		switch {
		case at >= known:
			return appendRun(runs, k, r.Count-uint32(i))
		case !t.seen(k):
			runs = appendRun(runs, k, 1)
		}
	}
	return runs
}

// appendRun adds count blocks from k on to the last run if they follow on it.
func appendRun(runs []block.Range, k block.Key, count uint32) []block.Range {
	if n := len(runs); n > 0 && runs[n-1].End() == k.Index {
		runs[n-1].Count += count
		return runs
	}
	return append(runs, block.Range{Layer: k.Layer, First: k.Index, Count: count})
}

// delivery is the sink that decorators give to the source below: it passes every
// block on once and tells an error of the sink above from one of the source.
type delivery struct {
	tracker
	sink    block.Sink
	sinkErr error
	passed  int // blocks passed on
}

func newDelivery(r block.Range, sink block.Sink) *delivery {
	return &delivery{tracker: tracker{asked: r}, sink: sink}
}

// pass implements [block.Sink].
func (d *delivery) pass(k block.Key, data []byte) error {
	if d.sinkErr != nil || !d.first(k) {
		return d.sinkErr
	}
	d.passed++
	d.sinkErr = d.sink(k, data)
	return d.sinkErr
}
