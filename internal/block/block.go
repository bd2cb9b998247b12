// Package block holds the vocabulary every other package speaks and the two
// contracts the data path is built from.
//
// A layer stream is the uncompressed tar of one image layer, named by its stream
// ID. It is cut into blocks of [Size] bytes, the last one shorter. A block
// is what is verified, cached, evicted and exchanged between nodes; its name is
// a [Key]. An extent is [ExtentBlocks] consecutive blocks, the unit of placement
// between peers and of one registry request.
//
// A [Source] reads blocks, a [Store] also accepts them. Memory, disk, peers and
// the registry all stand behind these two interfaces, and the suite in blocktest
// is what each of them must pass.
//
// The package imports nothing else of this module.
package block

import (
	"fmt"
	"math"
)

const (
	// Size is the length in bytes of every block of a layer stream but the last.
	// 256 KiB takes 0.2 ms on a 10 Gbit/s link, so a blocked read is never held
	// up long by the block before it.
	Size = 256 << 10
	// ExtentBlocks is the number of blocks of an extent.
	ExtentBlocks = 16
	// ExtentSize is the length in bytes of an extent, 4 MiB.
	ExtentSize = ExtentBlocks * Size
)

// Key names one block: block number Index of the layer stream Layer (a stream ID,
// see [StreamID]).
type Key struct {
	Layer Digest
	Index uint32
}

// String formats the key as an abbreviated stream ID and the block number.
func (k Key) String() string { return fmt.Sprintf("%s/%d", k.Layer.Short(), k.Index) }

// Offset is the position in bytes of the block in its layer stream.
func (k Key) Offset() int64 { return int64(k.Index) * Size }

// Range is Count consecutive blocks of one layer stream, from block First on.
type Range struct {
	Layer Digest
	First uint32
	Count uint32
}

// maxBlocks is the greatest number of blocks a layer stream can have: block
// numbers have 32 bits, which is enough for 1 PiB.
const maxBlocks = math.MaxUint32

// Covering returns the smallest range that holds the bytes [off, off+n) of a
// layer stream, without those past the greatest block number. It is empty when n
// is not positive.
func Covering(layer Digest, off, n int64) Range {
	if n <= 0 || off < 0 || off/Size > maxBlocks {
		return Range{Layer: layer}
	}
	first, last := off/Size, int64(maxBlocks)
	if n-1 <= math.MaxInt64-off {
		last = min(last, (off+n-1)/Size)
	}
	return Range{Layer: layer, First: uint32(first), Count: uint32(min(last-first+1, maxBlocks))}
}

// End is the number of the block after the last one of the range.
func (r Range) End() uint32 { return r.First + r.Count }

// Contains reports whether k lies in the range.
func (r Range) Contains(k Key) bool {
	return k.Layer == r.Layer && k.Index >= r.First && k.Index-r.First < r.Count
}

// Key returns the key of the i-th block of the range.
func (r Range) Key(i uint32) Key { return Key{Layer: r.Layer, Index: r.First + i} }

// String formats the range as an abbreviated stream ID and the first and last block.
func (r Range) String() string {
	if r.Count == 0 {
		return r.Layer.Short() + "/none"
	}
	return fmt.Sprintf("%s/%d-%d", r.Layer.Short(), r.First, r.End()-1)
}

// Count returns how many blocks a layer stream of size bytes has, 0 for a
// negative size. Sizes of more blocks than can be numbered give the greatest number.
func Count(size int64) uint32 {
	if size <= 0 {
		return 0
	}
	return uint32(min((size-1)/Size+1, maxBlocks))
}

// Length returns the length in bytes of block index of a layer stream of size
// bytes: [Size], less for the last block, 0 past the end.
func Length(size int64, index uint32) int {
	return int(max(0, min(Size, size-int64(index)*Size)))
}
