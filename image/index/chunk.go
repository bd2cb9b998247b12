package index

import "encoding/binary"

// Entries are stored in chunks that are compressed and read one at a time, so
// that whoever walks them needs memory for one chunk only. A chunk stores its
// entries column by column: like values stand together and compress well.
const (
	// chunkEntries is the number of entries after which a chunk is closed.
	chunkEntries = 2048
	// maxChunkEntries is the most entries of a chunk that a reader takes.
	maxChunkEntries = 4096
	// chunkBytes is the number of bytes, before compression, after which a chunk
	// is closed.
	chunkBytes = 1 << 20
	// maxChunkRaw is the longest chunk before compression: chunkBytes and one
	// entry with all the literals of a layer, the longest sparse map, and the
	// longest path and extended attributes that fit a tar header.
	maxChunkRaw = chunkBytes + MaxLiterals + 15<<20
	// tarBlock is the unit in which tar aligns headers and file data.
	tarBlock = 512
	// typeSparse is stored in place of TypeReg for a regular file whose content
	// is not one segment.
	typeSparse = 8
	// maxRun bounds the number of 512-byte blocks between the data of one entry
	// and the data of the next.
	maxRun = MaxStreamSize / tarBlock
)

// The columns of a chunk, in their order.
const (
	colAttrs    = iota // the table of distinct attributes: type, mode, owner, xattrs
	colAttr            // per entry: row in colAttrs
	colShared          // per entry: bytes of the path shared with the entry before
	colSuffix          // per entry: length of the rest of the path
	colNames           // the rests of the paths
	colSeconds         // per entry: modification time, change of the second
	colNanos           // per entry: modification time, nanosecond
	colRun             // per entry: 512-byte blocks from the data before to the data
	colSize            // per regular file: size
	colLinkSize        // per link: length of the target
	colLinks           // the targets
	colDevices         // per device node: major, minor
	colSparse          // per sparse file: stored length, segments, literals
	colLiterals        // the bytes of the literals
	columns
)

// chunkRow is a row of the chunk table: where a chunk lies in section ENTS.
type chunkRow struct {
	entries int
	raw     int
	offset  int64 // in the index
	stored  int
	start   int64 // stream offset where the header of the first entry starts
}

// appendChunkTable encodes the chunk table.
func appendChunkTable(out []byte, rows []chunkRow) []byte {
	out = binary.AppendUvarint(out, uint64(len(rows)))
	start := int64(0)
	for _, r := range rows {
		out = binary.AppendUvarint(out, uint64(r.entries))
		out = binary.AppendUvarint(out, uint64(r.raw))
		out = binary.AppendUvarint(out, uint64(r.stored))
		out = binary.AppendUvarint(out, uint64((r.start-start)/tarBlock))
		start = r.start
	}
	return out
}

// parseChunkTable decodes and checks the chunk table: chunks fill section ENTS
// and hold as many entries as the layer has.
func parseChunkTable(b []byte, in info, entries Section) ([]chunkRow, error) {
	c := cursor{b: b}
	rows := make([]chunkRow, c.count(len(b)/minTableRow))
	left, offset, start := in.entries, entries.offset, int64(0)
	for i := range rows {
		r := &rows[i]
		r.entries = c.count(min(left, maxChunkEntries))
		r.raw = c.count(maxChunkRaw)
		r.stored = c.count(int(entries.Stored))
		start += c.offset(in.streamSize/tarBlock) * tarBlock
		r.offset, r.start = offset, start
		left -= r.entries
		offset += int64(r.stored)
		switch {
		case c.bad:
			return nil, formatError(sectionChunks, "chunk %d is truncated or out of range", i)
		case r.entries == 0:
			return nil, formatError(sectionChunks, "chunk %d is empty", i)
		case offset-entries.offset > entries.Stored:
			return nil, formatError(sectionChunks, "chunk %d reaches past section %s", i, entries.Name)
		case start > in.streamSize:
			return nil, formatError(sectionChunks, "chunk %d starts past the end of the stream", i)
		}
	}
	if c.bad || len(c.b) != 0 || left != 0 || offset-entries.offset != entries.Stored {
		return nil, formatError(sectionChunks, "does not account for %d entries and %d bytes", in.entries, entries.Stored)
	}
	return rows, nil
}
