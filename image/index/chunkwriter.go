package index

import (
	"encoding/binary"

	"github.com/klauspost/compress/zstd"
)

// chunkWriter packs entries into chunks.
type chunkWriter struct {
	enc    *zstd.Encoder
	packed []byte // the finished chunks, one after the other
	rows   []chunkRow
	total  int // entries

	cols    [columns][]byte
	attrs   map[string]uint64
	scratch []byte
	count   int   // entries of the open chunk
	start   int64 // stream offset where the open chunk starts
	next    int64 // stream offset where the data of the entry before ends, aligned
	path    string
	seconds int64
}

// member is an entry and where it lies in the layer stream.
type member struct {
	Entry

	dataStart int64 // stream offset of the first byte after the headers
	stored    int64 // length in bytes of the file data in the stream
	sparse    bool
}

func newChunkWriter() (*chunkWriter, error) {
	enc, err := newPacker()
	if err != nil {
		return nil, err
	}
	return &chunkWriter{enc: enc, attrs: make(map[string]uint64)}, nil
}

// add appends one entry. Entries are added in the order of the tar.
func (w *chunkWriter) add(m *member) {
	w.addAttrs(m)
	shared := commonPrefix(w.path, m.Path)
	w.uvarint(colShared, uint64(shared))
	w.uvarint(colSuffix, uint64(len(m.Path)-shared))
	w.cols[colNames] = append(w.cols[colNames], m.Path[shared:]...)
	w.path = m.Path

	seconds := m.ModTime.Unix()
	w.varint(colSeconds, seconds-w.seconds)
	w.uvarint(colNanos, uint64(m.ModTime.Nanosecond()))
	w.seconds = seconds

	w.uvarint(colRun, uint64((m.dataStart-w.next)/tarBlock))
	w.next = alignUp(m.dataStart + m.stored)

	switch m.Type {
	case TypeReg:
		w.uvarint(colSize, uint64(m.Size))
		if m.sparse {
			w.addSparse(m)
		}
	case TypeSymlink, TypeLink:
		w.uvarint(colLinkSize, uint64(len(m.Link)))
		w.cols[colLinks] = append(w.cols[colLinks], m.Link...)
	case TypeChar, TypeBlock:
		w.uvarint(colDevices, uint64(m.Major))
		w.uvarint(colDevices, uint64(m.Minor))
	case TypeDir, TypeFifo:
	}
	w.count++
	w.total++
	if w.count == chunkEntries || w.size() >= chunkBytes {
		w.flush()
	}
}

// addAttrs stores what many entries have in common once per chunk.
func (w *chunkWriter) addAttrs(m *member) {
	kind := uint64(m.Type)
	if m.sparse {
		kind = typeSparse
	}
	row := binary.AppendUvarint(w.scratch[:0], kind<<12|uint64(m.Mode))
	row = binary.AppendUvarint(row, uint64(m.UID))
	row = binary.AppendUvarint(row, uint64(m.GID))
	row = binary.AppendUvarint(row, uint64(len(m.Xattrs)))
	for _, x := range m.Xattrs {
		row = binary.AppendUvarint(row, uint64(len(x.Name)))
		row = append(row, x.Name...)
		row = binary.AppendUvarint(row, uint64(len(x.Value)))
		row = append(row, x.Value...)
	}
	w.scratch = row
	n, ok := w.attrs[string(row)]
	if !ok {
		n = uint64(len(w.attrs))
		w.attrs[string(row)] = n
		w.cols[colAttrs] = append(w.cols[colAttrs], row...)
	}
	w.uvarint(colAttr, n)
}

// addSparse stores segments and literals as gaps and lengths.
func (w *chunkWriter) addSparse(m *member) {
	w.uvarint(colSparse, uint64(m.stored))
	w.uvarint(colSparse, uint64(len(m.Segments)))
	file, stream := int64(0), m.dataStart
	for _, s := range m.Segments {
		w.uvarint(colSparse, uint64(s.FileOffset-file))
		w.uvarint(colSparse, uint64(s.StreamOffset-stream))
		w.uvarint(colSparse, uint64(s.Length))
		file, stream = s.FileOffset+s.Length, s.StreamOffset+s.Length
	}
	w.uvarint(colSparse, uint64(len(m.Literals)))
	file = 0
	for _, l := range m.Literals {
		w.uvarint(colSparse, uint64(l.FileOffset-file))
		w.uvarint(colSparse, uint64(len(l.Data)))
		w.cols[colLiterals] = append(w.cols[colLiterals], l.Data...)
		file = l.FileOffset + int64(len(l.Data))
	}
}

func (w *chunkWriter) uvarint(col int, v uint64) {
	w.cols[col] = binary.AppendUvarint(w.cols[col], v)
}

func (w *chunkWriter) varint(col int, v int64) {
	w.cols[col] = binary.AppendVarint(w.cols[col], v)
}

func (w *chunkWriter) size() int {
	n := 0
	for _, col := range w.cols {
		n += len(col)
	}
	return n
}

// pack makes a compressed section.
func (w *chunkWriter) pack(name string, raw []byte) payload {
	return payload{name: name, stored: w.enc.EncodeAll(raw, nil), raw: len(raw), packed: true}
}

// flush closes the open chunk, if it has entries.
func (w *chunkWriter) flush() {
	if w.count == 0 {
		return
	}
	raw := make([]byte, 0, w.size()+columns*binary.MaxVarintLen32)
	for i, col := range w.cols {
		raw = binary.AppendUvarint(raw, uint64(len(col)))
		raw = append(raw, col...)
		w.cols[i] = col[:0]
	}
	before := len(w.packed)
	w.packed = w.enc.EncodeAll(raw, w.packed)
	w.rows = append(w.rows, chunkRow{entries: w.count, raw: len(raw), stored: len(w.packed) - before, start: w.start})
	clear(w.attrs)
	w.count, w.start, w.path, w.seconds = 0, w.next, "", 0
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

func alignUp(n int64) int64 { return (n + tarBlock - 1) &^ (tarBlock - 1) }
