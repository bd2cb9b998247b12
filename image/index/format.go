package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/internal/block"
)

// ErrFormat means that bytes are not a layer index this package can read: they
// are damaged, break a limit, or need a newer reader. The text names the
// section and the reason.
var ErrFormat = errors.New("invalid layer index")

// The limits below hold for writing and for reading. They are far above what
// images contain, and low enough that a hostile layer or index cannot make its
// reader allocate without bound.
const (
	// MaxStreamSize is the longest layer stream in bytes. Its block digests take
	// 32 MiB.
	MaxStreamSize = 256 << 30
	// MaxBlobSize is the longest stored layer blob in bytes: a stream that does
	// not compress, and room for what a compressor adds to it.
	MaxBlobSize = MaxStreamSize + MaxStreamSize/8
	// MaxEntries is the most entries of one layer, four times the largest known.
	MaxEntries = 4 << 20
	// MaxFrames is the most frames of one layer. Frames of a layer of the greatest
	// length are 256 KiB long on average, or longer.
	MaxFrames = 1 << 20
	// MaxPath is the longest path or link target in bytes: PATH_MAX of Linux
	// without its NUL.
	MaxPath = 4095
	// MaxName is the longest component of a path in bytes: NAME_MAX of Linux.
	MaxName = 255
	// whiteoutPrefix is what the name of a whiteout has in front of that of a file.
	whiteoutPrefix = ".wh."
	// MaxXattrs is the most extended attributes of one entry. Linux lists at most
	// 64 KiB of names, so no filesystem shows more.
	MaxXattrs = 4096
	// MaxXattrName is the longest name of an extended attribute in bytes:
	// XATTR_NAME_MAX of Linux.
	MaxXattrName = 255
	// MaxXattrValue is the longest value of an extended attribute in bytes:
	// XATTR_SIZE_MAX of Linux.
	MaxXattrValue = 64 << 10
	// MaxFileSize is the greatest apparent size of a file in bytes, holes
	// included: 1 PiB, so that sums of sizes and offsets cannot overflow.
	MaxFileSize = 1 << 50
	// MaxSegments is the most segments, and the most literals, of one file. It is
	// what a sparse map of 1 MiB, the longest that tar readers accept, can hold.
	MaxSegments = 1 << 20
	// MaxLiterals is the total length in bytes of the literals of one layer. No
	// tar program writes files that need any.
	MaxLiterals = 16 << 20
)

const (
	magic         = "BRISKIDX"
	formatVersion = 1
	headerSize    = 16
	tableRowSize  = 32
	infoSize      = 96
	// maxSections bounds the table that Open reads before it knows anything.
	maxSections = 64
	// maxTableSection is the longest decompressed frame table or chunk table:
	// MaxFrames rows of at most 20 bytes.
	maxTableSection = 20 << 20
	// maxWindow is the longest stored window of a checkpoint. A window is 32 KiB
	// before it is packed.
	maxWindow = 40 << 10
	// minTableRow is the fewest bytes a row of the frame or chunk table takes. A
	// count is checked against it before anything is allocated.
	minTableRow = 3
)

// The kinds of sections, see docs/format.md.
const (
	sectionInfo    = "INFO"
	sectionDigests = "DGST"
	sectionFrames  = "FRAM"
	sectionWindows = "WNDW"
	sectionParts   = "WPRT"
	sectionChunks  = "ENTI"
	sectionEntries = "ENTS"
)

// Bits of a section's flags.
const (
	flagRequired = 1 << 0
	flagZstd     = 1 << 1
	flagsKnown   = flagRequired | flagZstd
)

// knownVersion is the version of every section kind of this package.
const knownVersion = 1

// Section describes one section of an index.
type Section struct {
	// Name is the four-letter kind, such as "ENTS".
	Name    string
	Version uint16
	// Required is set when a reader that does not know the kind must give up.
	Required bool
	// Stored and Raw are the lengths in bytes in the index and decompressed. Raw
	// of a section that is compressed in parts is the same as Stored.
	Stored int64
	Raw    int64

	offset int64
	packed bool
}

// formatError makes an error that wraps [ErrFormat] and names the section.
func formatError(section, format string, args ...any) error {
	return fmt.Errorf("%w: section %s: %s", ErrFormat, section, fmt.Sprintf(format, args...))
}

// parseTable reads the header and the section table of an index of size bytes.
// Unknown optional sections are left out.
func parseTable(r io.ReaderAt, size int64) ([]Section, error) {
	var head [headerSize]byte
	if size < headerSize {
		return nil, fmt.Errorf("%w: %d bytes are too few for the header", ErrFormat, size)
	}
	if err := readAt(r, head[:], 0, "header"); err != nil {
		return nil, err
	}
	if string(head[:8]) != magic {
		return nil, fmt.Errorf("%w: header: magic is %q, not %q", ErrFormat, head[:8], magic)
	}
	if v := binary.LittleEndian.Uint16(head[8:]); v != formatVersion {
		return nil, fmt.Errorf("%w: header: format version %d, this reader knows %d", ErrFormat, v, formatVersion)
	}
	if v := binary.LittleEndian.Uint32(head[12:]); v != 0 {
		return nil, fmt.Errorf("%w: header: reserved bytes are %#x", ErrFormat, v)
	}
	count := int(binary.LittleEndian.Uint16(head[10:]))
	if count > maxSections {
		return nil, fmt.Errorf("%w: header: %d sections, the limit is %d", ErrFormat, count, maxSections)
	}
	table := make([]byte, count*tableRowSize)
	end := int64(headerSize + len(table))
	if end > size {
		return nil, fmt.Errorf("%w: header: the table of %d sections does not fit %d bytes", ErrFormat, count, size)
	}
	if err := readAt(r, table, headerSize, "section table"); err != nil {
		return nil, err
	}
	sections := make([]Section, 0, count)
	seen := make(map[string]bool, count)
	for row := range count {
		s, err := parseRow(table[row*tableRowSize:][:tableRowSize], end, size)
		if err != nil {
			return nil, err
		}
		if seen[s.Name] {
			return nil, formatError(s.Name, "appears twice")
		}
		seen[s.Name] = true
		end = s.offset + s.Stored
		if known(s) {
			sections = append(sections, s)
		} else if s.Required {
			return nil, formatError(s.Name, "version %d is required and unknown to this reader", s.Version)
		}
	}
	if end != size {
		return nil, fmt.Errorf("%w: sections end at byte %d of %d", ErrFormat, end, size)
	}
	return sections, nil
}

func known(s Section) bool {
	switch s.Name {
	case sectionInfo, sectionDigests, sectionFrames, sectionWindows, sectionParts, sectionChunks, sectionEntries:
		return s.Version == knownVersion
	default:
		return false
	}
}

// parseRow reads one row of the section table. Sections follow each other
// without a gap, the first one from byte start on.
func parseRow(row []byte, start, size int64) (Section, error) {
	flags := binary.LittleEndian.Uint16(row[6:])
	s := Section{
		Name:     string(row[:4]),
		Version:  binary.LittleEndian.Uint16(row[4:]),
		Required: flags&flagRequired != 0,
		packed:   flags&flagZstd != 0,
	}
	offset := binary.LittleEndian.Uint64(row[8:])
	stored := binary.LittleEndian.Uint64(row[16:])
	raw := binary.LittleEndian.Uint64(row[24:])
	for _, c := range row[:4] {
		if c <= ' ' || c > '~' {
			return s, fmt.Errorf("%w: section name %q is not printable", ErrFormat, row[:4])
		}
	}
	switch {
	case known(s) && flags&^flagsKnown != 0:
		return s, formatError(s.Name, "unknown flags %#x", flags)
	case offset != uint64(start):
		return s, formatError(s.Name, "starts at byte %d, expected %d", offset, start)
	case stored > uint64(size-start):
		return s, formatError(s.Name, "%d bytes from %d on do not fit %d", stored, offset, size)
	case raw > MaxBlobSize || (!s.packed && raw != stored):
		return s, formatError(s.Name, "%d bytes stored cannot be %d bytes", stored, raw)
	}
	s.offset, s.Stored, s.Raw = start, int64(stored), int64(raw)
	return s, nil
}

// readSection reads a whole section of at most limit bytes, decompressed.
func readSection(r io.ReaderAt, s Section, limit int64) ([]byte, error) {
	if s.Raw > limit || s.Stored > limit {
		return nil, formatError(s.Name, "%d bytes, the limit is %d", max(s.Raw, s.Stored), limit)
	}
	stored := make([]byte, s.Stored)
	if err := readAt(r, stored, s.offset, s.Name); err != nil {
		return nil, err
	}
	if !s.packed {
		return stored, nil
	}
	dec, err := newUnpacker()
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	return unpack(dec, stored, int(s.Raw), s.Name)
}

func readAt(r io.ReaderAt, p []byte, off int64, what string) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading %s of a layer index: %w", what, err)
	}
	return nil
}

// newUnpacker returns a decompressor for [unpack]. It is closed by the caller.
func newUnpacker() (*zstd.Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("making a zstd decoder: %w", err)
	}
	return dec, nil
}

// unpack decompresses exactly raw bytes. It never allocates more than that,
// whatever the compressed bytes claim.
func unpack(dec *zstd.Decoder, stored []byte, raw int, section string) ([]byte, error) {
	out, err := dec.DecodeAll(stored, make([]byte, 0, raw))
	if err != nil {
		return nil, fmt.Errorf("%w: section %s: decompressing: %w", ErrFormat, section, err)
	}
	if len(out) != raw {
		return nil, formatError(section, "decompresses to %d bytes, not %d", len(out), raw)
	}
	return out, nil
}

// newPacker returns the compressor of sections and chunks. The same input gives
// the same output: one goroutine, a fixed level and window.
func newPacker() (*zstd.Encoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("making a zstd encoder: %w", err)
	}
	return enc, nil
}

// payload is a section to be written.
type payload struct {
	name   string
	stored []byte
	raw    int
	packed bool
	extra  bool // readers that do not know it may pass over it
}

// plain is a section that is stored as it is.
func plain(name string, b []byte) payload { return payload{name: name, stored: b, raw: len(b)} }

// section describes the payload to whoever built it.
func (p payload) section() Section {
	return Section{
		Name: p.name, Version: knownVersion, Required: !p.extra,
		Stored: int64(len(p.stored)), Raw: int64(p.raw), packed: p.packed,
	}
}

// assemble writes header, table and sections into one buffer.
func assemble(sections []payload) []byte {
	total := headerSize + tableRowSize*len(sections)
	offset := total
	for _, s := range sections {
		total += len(s.stored)
	}
	out := make([]byte, 0, total)
	out = append(out, magic...)
	out = binary.LittleEndian.AppendUint16(out, formatVersion)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(sections)))
	out = binary.LittleEndian.AppendUint32(out, 0)
	for _, s := range sections {
		flags := uint16(0)
		if !s.extra {
			flags |= flagRequired
		}
		if s.packed {
			flags |= flagZstd
		}
		out = append(out, s.name...)
		out = binary.LittleEndian.AppendUint16(out, knownVersion)
		out = binary.LittleEndian.AppendUint16(out, flags)
		out = binary.LittleEndian.AppendUint64(out, uint64(offset))
		out = binary.LittleEndian.AppendUint64(out, uint64(len(s.stored)))
		out = binary.LittleEndian.AppendUint64(out, uint64(s.raw))
		offset += len(s.stored)
	}
	for _, s := range sections {
		out = append(out, s.stored...)
	}
	return out
}

// info is the content of the INFO section.
type info struct {
	diffID      block.Digest
	blobDigest  block.Digest
	blobSize    int64
	streamSize  int64
	entries     int
	compression Compression
}

func (in info) encode() []byte {
	out := make([]byte, 0, infoSize)
	out = append(out, in.diffID[:]...)
	out = append(out, in.blobDigest[:]...)
	out = binary.LittleEndian.AppendUint64(out, uint64(in.blobSize))
	out = binary.LittleEndian.AppendUint64(out, uint64(in.streamSize))
	out = binary.LittleEndian.AppendUint64(out, uint64(in.entries))
	return append(out, byte(in.compression), 0, 0, 0, 0, 0, 0, 0)
}

func parseInfo(b []byte) (info, error) {
	var in info
	if len(b) != infoSize {
		return in, formatError(sectionInfo, "%d bytes long, expected %d", len(b), infoSize)
	}
	copy(in.diffID[:], b)
	copy(in.blobDigest[:], b[32:])
	blobSize := binary.LittleEndian.Uint64(b[64:])
	streamSize := binary.LittleEndian.Uint64(b[72:])
	entries := binary.LittleEndian.Uint64(b[80:])
	in.compression = Compression(b[88])
	switch {
	case blobSize > MaxBlobSize:
		return in, formatError(sectionInfo, "blob of %d bytes, the limit is %d", blobSize, int64(MaxBlobSize))
	case streamSize > MaxStreamSize:
		return in, formatError(sectionInfo, "stream of %d bytes, the limit is %d", streamSize, int64(MaxStreamSize))
	case entries > MaxEntries:
		return in, formatError(sectionInfo, "%d entries, the limit is %d", entries, MaxEntries)
	case in.compression > CompressionZstd:
		return in, formatError(sectionInfo, "unknown compression %d", b[88])
	case in.compression == CompressionNone && (blobSize != streamSize || in.diffID != in.blobDigest):
		return in, formatError(sectionInfo, "an uncompressed blob is its own stream, yet size or digest differ")
	case string(b[89:]) != "\x00\x00\x00\x00\x00\x00\x00":
		return in, formatError(sectionInfo, "reserved bytes are not zero")
	}
	in.blobSize, in.streamSize, in.entries = int64(blobSize), int64(streamSize), int(entries)
	return in, nil
}
