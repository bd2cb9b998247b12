package index

import (
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/brisk-project/brisk/image/gzran"
	"github.com/brisk-project/brisk/internal/block"
)

// Compression is how the blob of a layer is compressed.
type Compression uint8

// The compressions a layer blob may have.
const (
	CompressionNone Compression = iota // the blob is the layer stream itself
	CompressionGzip
	CompressionZstd
)

// String names the compression as media types of layers do.
func (c Compression) String() string {
	switch c {
	case CompressionNone:
		return "none"
	case CompressionGzip:
		return "gzip"
	case CompressionZstd:
		return "zstd"
	default:
		return fmt.Sprintf("compression %d", uint8(c))
	}
}

// Layer is an open layer index. It is safe for concurrent use. It keeps block
// digests and the frame table in memory, about 130 KiB for a layer stream of
// 1 GiB; entries and checkpoint windows are read when they are asked for.
type Layer struct {
	r        io.ReaderAt
	info     info
	sections []Section
	digests  []byte
	streamID block.Digest
	frames   []frameRow
	windows  int64 // where section WNDW starts
	chunks   []chunkRow

	// Of an index of which only the head is local; else zero.
	head, index block.Digest
	indexSize   int64
	partDigests []byte

	gzip gzran.Decoder // both keep the buffers of decoders for the next ones
	zstd sync.Pool     // of *zstd.Decoder
}

// Open parses a layer index of size bytes. The reader must stay valid, and must
// be safe for concurrent use, for as long as the layer is used. Errors wrap
// [ErrFormat], or come from r.
//
// The index is trusted to be the one that was written: the caller has verified
// its digest. Bytes that are not, give errors or wrong answers, never a panic
// nor unbounded memory.
func Open(r io.ReaderAt, size int64) (*Layer, error) {
	sections, err := parseTable(r, size)
	if err != nil {
		return nil, err
	}
	l := &Layer{r: r, sections: sections}
	if err := l.openInfo(); err != nil {
		return nil, err
	}
	if err := l.openDigests(); err != nil {
		return nil, err
	}
	if err := l.openFrames(); err != nil {
		return nil, err
	}
	if err := l.openChunks(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Layer) section(name string) (Section, bool) {
	i := slices.IndexFunc(l.sections, func(s Section) bool { return s.Name == name })
	if i < 0 {
		return Section{}, false
	}
	return l.sections[i], true
}

// load reads the section of that name, at most limit bytes.
func (l *Layer) load(name string, limit int64) ([]byte, error) {
	s, ok := l.section(name)
	if !ok {
		return nil, formatError(name, "missing")
	}
	return readSection(l.r, s, limit)
}

func (l *Layer) openInfo() error {
	b, err := l.load(sectionInfo, infoSize)
	if err != nil {
		return err
	}
	l.info, err = parseInfo(b)
	return err
}

func (l *Layer) openDigests() error {
	want := int64(block.Count(l.info.streamSize)) * int64(len(block.Digest{}))
	b, err := l.load(sectionDigests, want)
	if err != nil {
		return err
	}
	if int64(len(b)) != want {
		return formatError(sectionDigests, "%d bytes, expected %d for a stream of %d bytes", len(b), want, l.info.streamSize)
	}
	l.digests = b
	l.streamID = block.StreamID(l.info.streamSize, b)
	return nil
}

func (l *Layer) openFrames() error {
	windows, ok := l.section(sectionWindows)
	if ok && windows.packed {
		return formatError(sectionWindows, "may not be compressed as a whole")
	}
	l.windows = windows.offset
	if l.info.compression == CompressionNone {
		if _, frames := l.section(sectionFrames); ok || frames {
			return formatError(sectionFrames, "present with %s or alone, yet the layer is not compressed", sectionWindows)
		}
		return nil
	}
	b, err := l.load(sectionFrames, maxTableSection)
	if err != nil {
		return err
	}
	l.frames, err = parseFrames(b, l.info, windows.Stored)
	return err
}

func (l *Layer) openChunks() error {
	entries, ok := l.section(sectionEntries)
	if !ok || entries.packed {
		return formatError(sectionEntries, "missing, or compressed as a whole")
	}
	b, err := l.load(sectionChunks, maxTableSection)
	if err != nil {
		return err
	}
	l.chunks, err = parseChunkTable(b, l.info, entries)
	return err
}

// DiffID returns the digest of the layer stream, as the index claims it.
func (l *Layer) DiffID() block.Digest { return l.info.diffID }

// StreamID returns the name of the layer stream for all who keep or exchange blocks
// of it; see [block.StreamID].
func (l *Layer) StreamID() block.Digest { return l.streamID }

// BlobDigest returns the digest of the stored layer blob.
func (l *Layer) BlobDigest() block.Digest { return l.info.blobDigest }

// BlobSize returns the length in bytes of the stored layer blob.
func (l *Layer) BlobSize() int64 { return l.info.blobSize }

// StreamSize returns the length in bytes of the layer stream.
func (l *Layer) StreamSize() int64 { return l.info.streamSize }

// Compression returns how the stored blob is compressed.
func (l *Layer) Compression() Compression { return l.info.compression }

// EntryCount returns the number of entries.
func (l *Layer) EntryCount() int { return l.info.entries }

// Sections lists the sections of the index in their order, without optional
// ones that this reader does not know.
func (l *Layer) Sections() []Section { return slices.Clone(l.sections) }

// BlockCount returns the number of blocks of the layer stream.
func (l *Layer) BlockCount() uint32 { return block.Count(l.info.streamSize) }

// BlockDigest returns the digest of block i, and whether there is such a block.
func (l *Layer) BlockDigest(i uint32) (block.Digest, bool) {
	var d block.Digest
	off := int(i) * len(d)
	if i >= l.BlockCount() {
		return d, false
	}
	copy(d[:], l.digests[off:])
	return d, true
}
