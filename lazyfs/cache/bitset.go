package cache

import (
	"math/bits"
	"slices"
)

// bitset is a set of block numbers below a fixed count.
type bitset []uint64

func newBitset(count uint32) bitset { return make(bitset, (uint64(count)+63)/64) }

func (b bitset) has(i uint32) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitset) set(i uint32)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i uint32)    { b[i/64] &^= 1 << (i % 64) }

func (b bitset) count() uint32 {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return uint32(n)
}

func (b bitset) clone() bitset           { return slices.Clone(b) }
func (b bitset) equal(other bitset) bool { return slices.Equal(b, other) }

// and returns the blocks that are in both.
func (b bitset) and(other bitset) bitset {
	out := b.clone()
	for i := range out {
		out[i] &= other[i]
	}
	return out
}

// or returns the blocks that are in either.
func (b bitset) or(other bitset) bitset {
	out := b.clone()
	for i := range out {
		out[i] |= other[i]
	}
	return out
}

// all reports whether the blocks from first to last are all in the set.
func (b bitset) all(first, last uint32) bool {
	for i := first; ; i++ {
		if !b.has(i) {
			return false
		}
		if i == last {
			return true
		}
	}
}

// span is the blocks from first up to but without end.
type span struct{ first, end uint32 }

// spans returns the blocks below count for which in is what is asked, as spans as
// long as possible.
func (b bitset) spans(count uint32, in bool) []span {
	var out []span
	for i := range count {
		if b.has(i) != in {
			continue
		}
		if n := len(out); n > 0 && out[n-1].end == i {
			out[n-1].end++
		} else {
			out = append(out, span{i, i + 1})
		}
	}
	return out
}
