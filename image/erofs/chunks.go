package erofs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/brisk-project/brisk/image/index"
)

// piece maps consecutive blocks of a file to consecutive blocks of a device.
// Device 0 is the metadata image itself.
type piece struct {
	first, end int64 // blocks of the file, end excluded
	device     uint16
	address    int64 // block of the device
}

// chunks says how the content of a file is encoded: as count chunks of 2^bits
// blocks, each of them in one piece or a hole.
type chunks struct {
	bits   uint8
	count  int64
	pieces []piece
}

// chunksOf maps the content of a regular file. Its literals are in the metadata
// image from block literals on.
func (b *builder) chunksOf(n *Node, literals int64) (chunks, error) {
	pieces, err := b.segmentPieces(n)
	if err != nil {
		return chunks{}, err
	}
	if len(n.Literals) > 0 {
		numbers, err := literalBlocks(n)
		if err != nil {
			return chunks{}, err
		}
		for i, number := range numbers {
			pieces = append(pieces, piece{first: number, end: number + 1, address: literals + int64(i)})
		}
		slices.SortFunc(pieces, func(a, b piece) int { return cmp.Compare(a.first, b.first) })
	}
	pieces, err = joined(pieces)
	if err != nil {
		return chunks{}, err
	}
	c := chunks{pieces: pieces}
	blocks := blocksOf(n.Size)
	c.bits = chunkBits(pieces, blocks)
	c.count = (blocks + 1<<c.bits - 1) >> c.bits
	return c, nil
}

// segmentPieces checks the segments of a file and turns them into pieces.
func (b *builder) segmentPieces(n *Node) ([]piece, error) {
	streams := b.tree.streams
	if len(n.Segments) == 0 {
		return nil, nil
	}
	if n.Layer < 0 || n.Layer >= len(streams) {
		return nil, fmt.Errorf("content in layer %d of %d", n.Layer, len(streams))
	}
	pieces := make([]piece, len(n.Segments))
	for i, s := range n.Segments {
		switch {
		case s.Length <= 0 || s.FileOffset < 0 || s.StreamOffset < 0,
			s.Length > n.Size-s.FileOffset, s.Length > streams[n.Layer].Size-s.StreamOffset:
			return nil, fmt.Errorf("content at byte %d lies outside the file or its layer stream", s.FileOffset)
		case (s.FileOffset|s.StreamOffset)%blockSize != 0,
			s.Length%blockSize != 0 && s.FileOffset+s.Length != n.Size:
			return nil, fmt.Errorf("content at byte %d is not made of whole blocks", s.FileOffset)
		}
		pieces[i] = piece{
			first: s.FileOffset >> blockBits, end: blocksOf(s.FileOffset + s.Length),
			device: uint16(n.Layer + 1), address: s.StreamOffset >> blockBits,
		}
	}
	return pieces, nil
}

// joined checks that pieces are in order and do not overlap, and joins those that
// go on from one another.
func joined(pieces []piece) ([]piece, error) {
	out := pieces[:0]
	for _, p := range pieces {
		if len(out) == 0 {
			out = append(out, p)
			continue
		}
		last := &out[len(out)-1]
		switch {
		case p.first < last.end:
			return nil, fmt.Errorf("content at byte %d is given twice, or shares a block with other content", p.first<<blockBits)
		case p.first == last.end && p.device == last.device && p.address == last.address+last.end-last.first:
			last.end = p.end
		default:
			out = append(out, p)
		}
	}
	return out, nil
}

// chunkBits returns the largest chunk size, as a power of two in blocks, with which
// no chunk of a file of that many blocks is divided. The last chunk may reach
// beyond the file's end.
func chunkBits(pieces []piece, blocks int64) uint8 {
	largest := min(maxChunkBits, bits.Len64(uint64(max(blocks, 1)-1)))
	limit := func(boundary int64) {
		if boundary > 0 && boundary < blocks {
			largest = min(largest, bits.TrailingZeros64(uint64(boundary)))
		}
	}
	for _, p := range pieces {
		limit(p.first)
		limit(p.end)
	}
	return uint8(largest)
}

// appendIndexes encodes the chunk indexes and appends them to b. It is called with
// ranges of chunks, because a file may have very many.
func (c *chunks) appendIndexes(b []byte, from, to int64) []byte {
	le := binary.LittleEndian
	i, _ := slices.BinarySearchFunc(c.pieces, from<<c.bits, func(p piece, first int64) int { return cmp.Compare(p.end, first+1) })
	for chunk := from; chunk < to; chunk++ {
		first := chunk << c.bits
		for i < len(c.pieces) && c.pieces[i].end <= first {
			i++
		}
		device, address := uint16(0), uint32(holeAddress)
		if i < len(c.pieces) && c.pieces[i].first <= first {
			p := c.pieces[i]
			device, address = p.device, uint32(p.address+first-p.first)
		}
		b = le.AppendUint16(b, 0)
		b = le.AppendUint16(b, device)
		b = le.AppendUint32(b, address)
	}
	return b
}

// literalBlocks returns the numbers of the blocks of a file that hold literals, in
// ascending order.
func literalBlocks(n *Node) ([]int64, error) {
	var numbers []int64
	end := int64(0)
	for _, l := range n.Literals {
		length := int64(len(l.Data))
		if length == 0 || l.FileOffset < end || length > n.Size-l.FileOffset {
			return nil, fmt.Errorf("literal content at byte %d lies outside the file, or is given twice", l.FileOffset)
		}
		end = l.FileOffset + length
		for number := l.FileOffset >> blockBits; number < blocksOf(end); number++ {
			if k := len(numbers); k == 0 || numbers[k-1] != number {
				numbers = append(numbers, number)
			}
		}
	}
	return numbers, nil
}

// appendLiterals appends the blocks that hold literals to b, zero where there is
// none.
func appendLiterals(b []byte, literals []index.Literal) []byte {
	block, current := make([]byte, blockSize), int64(-1)
	for _, l := range literals {
		for data, at := l.Data, l.FileOffset; len(data) > 0; {
			if number := at >> blockBits; number != current {
				if current >= 0 {
					b = append(b, block...)
					clear(block)
				}
				current = number
			}
			k := copy(block[at%blockSize:], data)
			data, at = data[k:], at+int64(k)
		}
	}
	if current >= 0 {
		b = append(b, block...)
	}
	return b
}
