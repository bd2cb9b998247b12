package index

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/internal/block"
)

// Frame is the unit of decompression: a range of the layer stream and the range
// of the stored blob it is decoded from. All are in bytes.
type Frame struct {
	StreamOffset int64
	StreamLength int64
	// BlobOffset and BlobLength cover every byte needed to decode the frame. The
	// ranges of neighbours may share a byte or leave bytes out.
	BlobOffset int64
	BlobLength int64
}

// maxSeekableFrame is the longest frame, in bytes of the stream, that is still
// worth decoding for one block in it: 32 blocks, some 20 ms.
const maxSeekableFrame = 8 << 20

// frameRow is a frame as the table keeps it. The window of a gzip checkpoint is
// [windowOffset, windowOffset+windowLength) of section WNDW.
type frameRow struct {
	stream, blob, blobLength int64
	windowOffset             int64
	windowLength             uint32
	place                    uint8
}

// What a gzip frame starts at, as a byte of the frame table: placeBlock is set
// when it is a deflate block, not the header of a member, and placeBit is the
// number of bits of the first byte that belong to the frame before.
const (
	placeBit   = 0x7
	placeBlock = 0x8
)

// appendFrames encodes the frame table, column by column, so that columns of
// like numbers compress well.
func appendFrames(out []byte, rows []frameRow, streamSize int64, c Compression) []byte {
	out = binary.AppendUvarint(out, uint64(len(rows)))
	for i, r := range rows {
		end := streamSize
		if i+1 < len(rows) {
			end = rows[i+1].stream
		}
		out = binary.AppendUvarint(out, uint64(end-r.stream))
	}
	end := int64(0)
	for _, r := range rows {
		out = binary.AppendVarint(out, r.blob-end)
		end = r.blob + r.blobLength
	}
	for _, r := range rows {
		out = binary.AppendUvarint(out, uint64(r.blobLength))
	}
	if c != CompressionGzip {
		return out
	}
	for _, r := range rows {
		out = append(out, r.place)
	}
	for _, r := range rows {
		out = binary.AppendUvarint(out, uint64(r.windowLength))
	}
	return out
}

// parseFrames decodes and checks the frame table: frames tile the stream, their
// bytes lie in the blob in ascending order, their windows fill section WNDW.
func parseFrames(b []byte, in info, windows int64) ([]frameRow, error) {
	c := cursor{b: b}
	rows := make([]frameRow, c.count(min(MaxFrames, len(b)/minTableRow)))
	stream := int64(0)
	for i := range rows {
		rows[i].stream = stream
		n := c.offset(in.streamSize - stream)
		if n == 0 {
			return nil, formatError(sectionFrames, "frame %d is empty or reaches past the stream of %d bytes", i, in.streamSize)
		}
		stream += n
	}
	if stream != in.streamSize {
		return nil, formatError(sectionFrames, "frames cover %d of %d bytes of the stream", stream, in.streamSize)
	}
	if err := parseBlobRanges(&c, rows, in.blobSize); err != nil {
		return nil, err
	}
	if in.compression == CompressionGzip {
		if err := parseCheckpoints(&c, rows, windows); err != nil {
			return nil, err
		}
	} else if windows != 0 {
		return nil, formatError(sectionWindows, "present, yet the layer is not compressed with gzip")
	}
	if c.bad || len(c.b) != 0 {
		return nil, formatError(sectionFrames, "truncated, out of range or followed by %d bytes", len(c.b))
	}
	return rows, nil
}

func parseBlobRanges(c *cursor, rows []frameRow, blobSize int64) error {
	gaps := make([]int64, len(rows))
	for i := range gaps {
		gaps[i] = c.varint()
	}
	end, last := int64(0), int64(-1)
	for i := range rows {
		gap := gaps[i]
		if gap < -blobSize || gap > blobSize {
			return formatError(sectionFrames, "frame %d: gap of %d bytes in a blob of %d", i, gap, blobSize)
		}
		r := &rows[i]
		r.blob = end + gap
		if r.blob <= last || r.blob >= blobSize {
			return formatError(sectionFrames, "frame %d starts at byte %d of the blob, after byte %d, of %d",
				i, r.blob, last, blobSize)
		}
		r.blobLength = c.offset(blobSize - r.blob)
		if r.blobLength == 0 {
			return formatError(sectionFrames, "frame %d has no bytes in the blob of %d, or too many", i, blobSize)
		}
		end, last = r.blob+r.blobLength, r.blob
	}
	return nil
}

func parseCheckpoints(c *cursor, rows []frameRow, windows int64) error {
	for i, place := range c.bytes(len(rows)) {
		if place > placeBlock|placeBit {
			return formatError(sectionFrames, "frame %d starts at an unknown kind of place, %#x", i, place)
		}
		rows[i].place = place
	}
	offset := int64(0)
	for i := range rows {
		n := c.count(maxWindow)
		rows[i].windowOffset, rows[i].windowLength = offset, uint32(n)
		offset += int64(n)
	}
	if offset != windows {
		return formatError(sectionWindows, "windows take %d bytes, the section has %d", offset, windows)
	}
	return nil
}

// FrameCount returns the number of frames of the layer.
func (l *Layer) FrameCount() int {
	if l.info.compression == CompressionNone {
		return int(block.Count(l.info.streamSize))
	}
	return len(l.frames)
}

// Frame returns frame i. It fails when there is no such frame.
func (l *Layer) Frame(i int) (Frame, error) {
	if i < 0 || i >= l.FrameCount() {
		return Frame{}, fmt.Errorf("frame %d of a layer with %d frames", i, l.FrameCount())
	}
	if l.info.compression == CompressionNone {
		off := int64(i) * block.Size
		n := min(block.Size, l.info.streamSize-off)
		return Frame{StreamOffset: off, StreamLength: n, BlobOffset: off, BlobLength: n}, nil
	}
	r := l.frames[i]
	end := l.info.streamSize
	if i+1 < len(l.frames) {
		end = l.frames[i+1].stream
	}
	return Frame{StreamOffset: r.stream, StreamLength: end - r.stream, BlobOffset: r.blob, BlobLength: r.blobLength}, nil
}

// FrameAt returns the number of the frame that holds byte streamOffset of the
// layer stream. It fails when the stream has no such byte.
func (l *Layer) FrameAt(streamOffset int64) (int, error) {
	if streamOffset < 0 || streamOffset >= l.info.streamSize {
		return 0, fmt.Errorf("byte %d of a layer stream of %d bytes", streamOffset, l.info.streamSize)
	}
	if l.info.compression == CompressionNone {
		return int(streamOffset / block.Size), nil
	}
	i, found := slices.BinarySearchFunc(l.frames, streamOffset, func(r frameRow, off int64) int {
		switch {
		case r.stream < off:
			return -1
		case r.stream > off:
			return 1
		default:
			return 0
		}
	})
	if !found {
		i--
	}
	return i, nil
}

// Seekable reports whether a block can be decoded without decoding much of the
// layer before it. It is false for a layer with a frame of more than 8 MiB, such
// as a layer in a single zstd frame: that is to be streamed once, whole.
func (l *Layer) Seekable() bool { return seekable(l.frames, l.info.streamSize) }

func seekable(frames []frameRow, streamSize int64) bool {
	longest := int64(0)
	next := streamSize
	for _, r := range slices.Backward(frames) {
		longest = max(longest, next-r.stream)
		next = r.stream
	}
	return longest <= maxSeekableFrame
}
