package index

import (
	"fmt"
	"io"
	"iter"

	"github.com/brisk-project/brisk/internal/block"
)

// partSize is the length in bytes of the parts of WNDW that WPRT has digests of: a few dozen
// windows, next to frames of a megabyte that are fetched with them.
const partSize = 64 << 10

// Head describes the first bytes of an index: all but the windows of its checkpoints, which lie
// at its end. A mount needs the head; a window is needed where a frame is decoded.
type Head struct {
	Size   int64 // in bytes
	Digest block.Digest
}

// Part is a run of bytes of an encoded index.
type Part struct {
	// Index and IndexSize are digest and length in bytes of the whole index.
	Index     block.Digest
	IndexSize int64
	// Offset and Length are in bytes of the index.
	Offset, Length int64
	// Digest is that of the bytes.
	Digest block.Digest
}

// headOf returns the head of an encoded index, zero if it is all of it.
func headOf(encoded []byte, sections []payload) Head {
	last := sections[len(sections)-1]
	if last.name != sectionWindows || len(last.stored) == 0 {
		return Head{}
	}
	head := encoded[:len(encoded)-len(last.stored)]
	return Head{Size: int64(len(head)), Digest: block.Sum(head)}
}

// appendParts appends the digests of the parts of the windows.
func appendParts(out, windows []byte) []byte {
	for len(windows) > 0 {
		n := min(len(windows), partSize)
		digest := block.Sum(windows[:n])
		out = append(out, digest[:]...)
		windows = windows[n:]
	}
	return out
}

// OpenHead opens a layer index of which only the head is local, which r holds. The index as a whole
// has the given digest and length in bytes. It answers everything but [Layer.Window]
// and [Layer.Decode]; what these need is named by [Layer.WindowParts]. Else it is [Open].
func OpenHead(r io.ReaderAt, head Head, digest block.Digest, size int64) (*Layer, error) {
	l, err := Open(io.NewSectionReader(r, 0, head.Size), size)
	if err != nil {
		return nil, err
	}
	windows, ok := l.section(sectionWindows)
	if !ok || windows.offset != head.Size || windows.offset+windows.Stored != size {
		return nil, formatError(sectionWindows, "is not what follows the first %d bytes", head.Size)
	}
	count := (windows.Stored + partSize - 1) / partSize
	want := count * int64(len(block.Digest{}))
	if l.partDigests, err = l.load(sectionParts, want); err != nil {
		return nil, err
	}
	if int64(len(l.partDigests)) != want {
		return nil, formatError(sectionParts, "%d bytes, expected %d for windows of %d bytes", len(l.partDigests), want, windows.Stored)
	}
	l.head, l.index, l.indexSize = head.Digest, digest, size
	return l, nil
}

// WindowParts returns the parts of the index that hold the window of a frame, at most two. There
// are none when the window is local or empty.
func (l *Layer) WindowParts(frame int) []Part {
	if l.indexSize == 0 || frame < 0 || frame >= len(l.frames) || l.frames[frame].windowLength == 0 {
		return nil
	}
	row := l.frames[frame]
	var parts []Part
	for i := row.windowOffset / partSize; i*partSize < row.windowOffset+int64(row.windowLength); i++ {
		part := Part{Index: l.index, IndexSize: l.indexSize, Offset: l.windows + i*partSize}
		part.Length = min(partSize, l.indexSize-part.Offset)
		copy(part.Digest[:], l.partDigests[i*int64(len(part.Digest)):])
		parts = append(parts, part)
	}
	return parts
}

// PieceDigests yields the digests under which the pieces of an index may be kept of which only the
// head is local: that of the head, and those of all parts that [Layer.WindowParts] names.
func (l *Layer) PieceDigests() iter.Seq[block.Digest] {
	return func(yield func(block.Digest) bool) {
		if l.indexSize == 0 || !yield(l.head) {
			return
		}
		for rest := l.partDigests; len(rest) > 0; rest = rest[len(block.Digest{}):] {
			if !yield(block.Digest(rest[:len(block.Digest{})])) {
				return
			}
		}
	}
}

// JoinWindow returns the window of a frame out of the bytes of its [Layer.WindowParts].
func (l *Layer) JoinWindow(frame int, parts [][]byte) ([]byte, error) {
	row := l.frames[frame]
	skip := row.windowOffset % partSize
	window := make([]byte, 0, row.windowLength)
	for _, part := range parts {
		part = part[min(skip, int64(len(part))):]
		skip = 0
		window = append(window, part[:min(len(part), int(row.windowLength)-len(window))]...)
	}
	if len(window) != int(row.windowLength) {
		return nil, fmt.Errorf("joining the window of frame %d: %d bytes of %d", frame, len(window), row.windowLength)
	}
	return window, nil
}

// Window returns the window of a frame, which has to be local; see [Layer.WindowParts].
func (l *Layer) Window(frame int) ([]byte, error) {
	if l.info.compression != CompressionGzip {
		return nil, nil
	}
	row := l.frames[frame]
	window := make([]byte, row.windowLength)
	if err := readAt(l.r, window, l.windows+row.windowOffset, sectionWindows); err != nil {
		return nil, err
	}
	return window, nil
}
