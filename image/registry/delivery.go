package registry

import (
	"slices"
	"sync"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// delivery is one Fetch on its way to its sink. Several pieces deliver into it at
// the same time. Blocks that lie in two pieces are put together here.
type delivery struct {
	layer *index.Layer
	want  block.Range
	sink  block.Sink

	mu       sync.Mutex
	done     []uint64 // bit set of the blocks delivered
	left     uint32   // blocks of want not delivered
	partials map[uint32]*partial
	err      error // of the sink
}

// partial is a block of which bytes [start, end) have been decoded.
type partial struct {
	data       []byte
	start, end int
}

func newDelivery(layer *index.Layer, want block.Range, sink block.Sink) *delivery {
	return &delivery{
		layer: layer, want: want, sink: sink, left: want.Count,
		done:     make([]uint64, (int(block.Count(layer.StreamSize()))+63)/64),
		partials: make(map[uint32]*partial),
	}
}

// block passes a whole block to the sink, once.
func (d *delivery) block(i uint32, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.blockLocked(i, data)
}

func (d *delivery) blockLocked(i uint32, data []byte) error {
	if d.err != nil {
		return d.err
	}
	word, bit := &d.done[i/64], uint64(1)<<(i%64)
	if *word&bit != 0 {
		return nil
	}
	*word |= bit
	key := block.Key{Layer: d.want.Layer, Index: i}
	if d.want.Contains(key) {
		d.left--
	}
	d.err = d.sink(key, data)
	return d.err
}

// part keeps the bytes of a block from offset at on, until the rest has come from
// the piece before or after.
func (d *delivery) part(i uint32, at int, data []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	length := block.Length(d.layer.StreamSize(), i)
	p := d.partials[i]
	if p == nil {
		p = &partial{data: make([]byte, length), start: at, end: at}
		d.partials[i] = p
	}
	copy(p.data[at:], data)
	switch {
	case at == p.end:
		p.end += len(data)
	case at+len(data) == p.start:
		p.start = at
	default:
		// More than two pieces meet in a block and came out of order: what is not
		// adjacent is left to another fetch.
		return nil
	}
	if p.start > 0 || p.end < length {
		return nil
	}
	delete(d.partials, i)
	return d.blockLocked(i, p.data)
}

// edge returns what has been decoded of a block that lies in two pieces, if it
// reaches from one of its ends.
func (d *delivery) edge(i uint32) (part, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.partials[i]
	if p == nil || p.start > 0 && p.end < len(p.data) {
		return part{}, false
	}
	return part{start: p.start, data: slices.Clone(p.data[p.start:p.end])}, true
}

// need returns which bytes of the layer stream are needed for a range, which are
// those that no part of its first and last block holds.
func (d *delivery) need(missing block.Range) (from, to int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from = missing.Key(0).Offset()
	to = min(missing.Key(missing.Count).Offset(), d.layer.StreamSize())
	if d.done[missing.First/64]&(1<<(missing.First%64)) != 0 && missing.Count == 1 {
		return to, to // completed by its parts
	}
	if p := d.partials[missing.First]; p != nil && p.start == 0 {
		from += int64(p.end)
	}
	if p := d.partials[missing.End()-1]; p != nil && p.start > 0 && p.end == len(p.data) {
		to = missing.Key(missing.Count-1).Offset() + int64(p.start)
	}
	return from, to
}

// has reports whether a block was delivered.
func (d *delivery) has(i uint32) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done[i/64]&(1<<(i%64)) != 0
}

// complete reports whether every block asked for has been delivered.
func (d *delivery) complete() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.left == 0
}

func (d *delivery) sinkErr() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// missing returns the part of want from the first block that has not been
// delivered to the last.
func (d *delivery) missing() block.Range {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := block.Range{Layer: d.want.Layer}
	for i := d.want.First; i < d.want.End(); i++ {
		if d.done[i/64]&(1<<(i%64)) != 0 {
			continue
		}
		if r.Count == 0 {
			r.First = i
		}
		r.Count = i - r.First + 1
	}
	return r
}
